"""Pictures in the chat, in three languages: every way in, every refusal, whose word it needs."""

import io
import os
import re
import stat
import time

import pytest
from PIL import Image

from chat.i18n import LANGUAGES, translator
from chat.keyboards import APPROVE
from evals.environment import PRICE
from guardrails.content.verdict import ALLOWED, ContentVerdict
from guardrails.money import Money
from ledger import people, requests
from ledger.models import VideoState
from sandbox.telegram.server import Fault
from tests.support import services
from tests.support.app_harness import (
    GROUP,
    chat_only,
    count_requests,
    sent_texts,
    serve_webhook,
    wait_for_confirmed,
    wait_for_state,
    wait_for_texts,
    worker_only,
)
from tests.support.crash_env import is_offer
from tests.support.pictures import gps_photo, photo
from tests.support.waiting import wait_until
from worker.pictures import KEPT_S, folder_of, forget_pictures, remove_old_pictures

pytestmark = pytest.mark.representative

languages = pytest.mark.parametrize("language", LANGUAGES)
PHOTO = photo(640, 480)
EN = translator("en")
V = VideoState


@pytest.fixture
def pictured(app_env, request):
    """Open an app whose provider takes pictures: `env = await pictured()`."""

    async def make(pictures: str = "unjudged", **options):
        settings = {**(services.settings(request) or {}), "pictures": pictures}
        known = {"pictures": True, **options.pop("capabilities", {})}
        return await app_env(shape="openai", settings=settings, capabilities=known, **options)

    return make


@pytest.fixture
async def front(pictured):
    """The same without a worker: what the handlers wrote stays as written."""
    return await pictured(wake=chat_only)


async def offer_to(person):
    """Wait for the offer of a picture, which asks for a word first."""
    return await person.wait_for(lambda one: any("mine:" in (b.data or "") for r in one.buttons for b in r))


async def allowed_offer(person, t=EN):
    """Tap [This is me, or I may use it] and wait for [Make it]."""
    offer = await offer_to(person)
    said = await person.wait_for_answer(await person.tap(offer.id, t("button_allow_picture")))
    assert said["text"] == t("tap_picture_allowed")
    return await person.wait_for(is_offer)


async def make_it(env, person, t=EN):
    offer = await allowed_offer(person, t)
    await person.wait_for_answer(await person.tap(offer.id, t("button_make", price=PRICE)))
    await wait_for_state(env, V.DELIVERED, person.id, 60)


def sent_picture(env) -> bytes:
    [job] = env.fake_provider.jobs.values()
    return job.fields["input_reference"]


async def requested(env, user_id: int = 1001):
    [(request, _)] = await requests.list_for_user(env.app.ledger, user_id)
    return request


def stored(env, user_id: int = 1001) -> list:
    folder = folder_of(env.app.settings.media, user_id)
    return list(folder.iterdir()) if folder.is_dir() else []


async def question(person, text: str):
    return await person.wait_for(lambda bubble: not bubble.mine and bubble.text == text)


# From the picture to the video


@languages
async def test_a_photo_with_a_command_becomes_a_video(pictured, language):
    """The offer says that the picture is used and asks for a word; the provider gets it with the one POST."""
    env = await pictured()
    ana, t = env.user(language=language), translator(language)
    sent = await ana.photo("/create it waves at the camera", data=PHOTO)
    offer = await offer_to(ana)
    assert offer.button_texts == [
        t("button_allow_picture"), t("button_options"), t("button_change"), t("button_cancel"),
    ]  # fmt: skip
    assert t("offer_picture") in offer.text
    assert t("offer_rights", window=t.window(KEPT_S)) in offer.text
    assert env.fake_provider.posts() == []
    await make_it(env, ana, t)
    request, video = await env.latest()
    assert (request.idea, request.message_id) == ("it waves at the camera", sent.id)
    assert (video.picture, video.picture_format) == (request.picture, "jpeg")
    with Image.open(io.BytesIO(sent_picture(env))) as got:
        assert f"{got.width}x{got.height}" == video.size
        assert got.getpixel((5, 5))[0] > 180
    assert list(env.fake_provider.net().values()) == [PRICE.micros]
    [file] = stored(env)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "1001" not in str(file.relative_to(env.app.settings.media))


async def test_the_provider_gets_no_place_and_an_upright_picture(pictured):
    """A file keeps its metadata in Telegram; nothing of it is stored or sent."""
    env = await pictured()
    ana = env.user()
    data = gps_photo(800, 600)
    assert b"SecretCamera" in data
    await ana.document(data, "IMG_0001.jpg", "/create it waves")
    await make_it(env, ana)
    [file] = stored(env)
    for got in (file.read_bytes(), sent_picture(env)):
        with Image.open(io.BytesIO(got)) as picture:
            assert not picture.getexif()
        assert b"SecretCamera" not in got
        assert b"Exif" not in got
    with Image.open(file) as kept:
        assert kept.size == (600, 800)


@languages
async def test_a_photo_with_words_is_asked_about(front, language):
    """A caption without a command is no order: [Yes, show me] opens one request, however often it comes."""
    ana, t = front.user(language=language), translator(language)
    sent = await ana.photo("it waves at the camera", data=PHOTO)
    asked = await question(ana, t("confirm_picture"))
    assert await count_requests(front) == 0
    assert stored(front) == [], "nothing is fetched before it is wanted"
    for _ in range(2):
        await ana.wait_for_answer(await ana.tap(asked.id, t("button_yes_show")))
    request = await requested(front)
    assert (request.message_id, request.status_message_id) == (sent.id, asked.id)
    assert request.picture is not None
    assert len(stored(front)) == len(front.api.calls.of("getFile")) == 1


@languages
async def test_no_makes_nothing_of_a_photo(front, language):
    ana, t = front.user(language=language), translator(language)
    await ana.photo("it waves at the camera", data=PHOTO)
    asked = await question(ana, t("confirm_picture"))
    await ana.wait_for_answer(await ana.tap(asked.id, t("button_no")))
    assert (await question(ana, t("idea_declined"))).id == asked.id
    assert (await count_requests(front), stored(front)) == (0, [])


@languages
async def test_a_photo_and_then_words(front, language):
    """A photo without words is asked about; the next text is for it, once. The request is the text's."""
    ana, t = front.user(language=language), translator(language)
    await ana.photo(data=PHOTO)
    assert await wait_for_texts(front, 1) == [t("ask_picture")]
    words = await ana.send("waves")
    await wait_for_confirmed(front)
    request = await requested(front)
    assert (request.idea, request.message_id) == ("waves", words.id)
    assert request.picture is not None
    await ana.send("a second lighthouse by the sea")
    assert (await wait_for_texts(front, 2))[1] == t("confirm_idea")
    assert await count_requests(front) == 1


async def test_a_command_ends_the_wait_for_words(front):
    """After /status the next text is no longer for the picture; /create alone then takes its words."""
    ana = front.user()
    await ana.photo(data=PHOTO)
    await ana.send("/status")
    await ana.send("one")
    assert (await wait_for_texts(front, 3))[2] == EN("chatter")
    await ana.photo("/create", data=PHOTO)
    assert (await wait_for_texts(front, 4))[3] == EN("ask_picture")
    await ana.send("/create")
    await ana.send("a lighthouse")
    await wait_for_confirmed(front)
    assert (await requested(front)).picture is None


async def test_a_reply_with_the_command_uses_the_picture(front):
    """/create as a reply to a photo in a group: its words with the photo, of the person who asks."""
    group, ana, eva = front.api.group(GROUP), front.user(), front.user(2)
    shown = await eva.photo(data=PHOTO, chat=group)
    await ana.send("/create it waves", chat=group, reply_to=shown.id)
    await wait_for_confirmed(front)
    request = await requested(front)
    assert (request.idea, len(stored(front))) == ("it waves", 1)
    assert request.picture is not None
    mia = front.user(3)
    await mia.send("/create", chat=group, reply_to=shown.id)
    asked = await mia.wait_for(lambda one: one.forced_reply, chat=group)
    await mia.send("it jumps", chat=group, reply_to=asked.id)
    await wait_for_confirmed(front)
    assert ((await requested(front, 3)).idea, len(stored(front, 3))) == ("it jumps", 1)


async def test_a_misspelt_reply_keeps_the_picture(front):
    """What "Did you mean" would lose is not lost: the offer asks."""
    ana = front.user()
    shown = await ana.photo("me at the sea", data=PHOTO)
    await question(ana, EN("confirm_picture"))
    await ana.send("/craete it waves", reply_to=shown.id)
    await wait_for_confirmed(front)
    request = await requested(front)
    assert request.idea == "it waves"
    assert request.picture is not None


@languages
async def test_of_an_album_one_picture_is_used(front, language):
    """The one with the words; its person reads so before anything is made, and one request is opened."""
    ana, t = front.user(language=language), translator(language)
    for caption in ("/create it waves", "", ""):
        await ana.photo(caption, album="77", data=PHOTO)
    asked = await question(ana, t("confirm_picture_album"))
    await wait_for_confirmed(front)
    assert (await count_requests(front), len(sent_texts(front))) == (0, 1)
    await ana.wait_for_answer(await ana.tap(asked.id, t("button_yes_show")))
    assert (await requested(front)).picture is not None
    for _ in range(2):
        await ana.photo(album="78", data=PHOTO)
    assert (await wait_for_texts(front, 2))[1] == t("ask_picture_album")


async def test_other_words_keep_the_picture(pictured):
    """[Change] asks for words; the new request has the same picture, of which nothing is asked again."""
    env = await pictured()
    ana = env.user()
    await ana.photo("/create it waves", data=PHOTO)
    offer = await allowed_offer(ana)
    await ana.wait_for_answer(await ana.tap(offer.id, EN("button_change")))
    await ana.send("it jumps")
    await ana.wait_for(lambda one: is_offer(one) and one.id != offer.id)
    [(newer, video), (older, _)] = await requests.list_for_user(env.app.ledger, ana.id)
    assert (newer.idea, newer.picture) == ("it jumps", older.picture)
    assert (video.picture, video.asks_for_rights) == (older.picture, False)
    assert (len(stored(env)), len(env.api.calls.of("getFile"))) == (2, 1)


# What cannot be used

REFUSED = {
    "small": (photo(255, 400), "picture_small", {"width": 255, "height": 400, "least": 256}),
    "ratio": (photo(900, 300), "picture_ratio", {"width": 900, "height": 300}),
    "damaged": (photo(640, 480)[:3000], "picture_unreadable", {}),
    "gif": (b"GIF89a" + bytes(50), "picture_type", {"kind": "GIF"}),
    "text": (b"hello, I am no picture", "picture_no_picture", {}),
}


@languages
@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_names_value_and_limit(front, language, case):
    """By its content, not its name: nothing is paid, and the words alone are one tap away."""
    ana, t = front.user(language=language), translator(language)
    data, text, values = REFUSED[case]
    await ana.document(data, "holiday.jpg", "/create it waves")
    shown = await question(ana, t(text, **values))
    assert shown.button_texts == [t("button_only_words", price=PRICE), t("button_no")]
    assert (await count_requests(front), stored(front)) == (0, [])


@languages
async def test_what_telegram_says_is_enough_to_refuse(front, language):
    """Size, type and sides that Telegram names are refused before anything is fetched."""
    ana, t = front.user(language=language), translator(language)
    await ana.photo("/create it waves", data=photo(900, 300))
    await question(ana, t("picture_ratio", width=900, height=300))
    await ana.document(b"\0" * 100, "IMG.heic", "/create it waves")
    await question(ana, t("picture_type", kind="HEIC"))
    await ana.document(b"%PDF" + bytes(100), "a.pdf", "/create it waves")
    await question(ana, t("picture_no_picture"))
    await ana.document(bytes(21 << 20), "big.png", "/create it waves")
    await question(ana, t("picture_bytes", megabytes=21, most=20))
    assert front.api.calls.of("getFile") == []


@languages
async def test_without_pictures_the_words_can_be_made(app_env, language):
    """A provider without image input: nothing was paid, and one tap makes it from the words, once."""
    env = await app_env(wake=chat_only)
    ana, t = env.user(language=language), translator(language)
    sent = await ana.photo("/create a market at dawn", data=PHOTO)
    shown = await question(ana, t("no_pictures_words"))
    assert shown.button_texts == [t("button_only_words", price=PRICE), t("button_no")]
    for _ in range(2):
        await ana.wait_for_answer(await ana.tap(shown.id, shown.button_texts[0]))
    request = await requested(env)
    assert (request.message_id, request.picture, request.idea) == (sent.id, None, "a market at dawn")
    await ana.photo(data=PHOTO)
    assert (await wait_for_texts(env, 2))[1] == t("no_pictures")


@languages
async def test_without_a_check_pictures_are_refused(pictured, language):
    """No moderation key, and the operator said nothing: no picture is used, in true words."""
    env = await pictured("judged", wake=chat_only)
    ana, t = env.user(language=language), translator(language)
    await ana.photo("/create it waves", data=PHOTO)
    await question(ana, t("pictures_unjudged"))
    assert (await count_requests(env), stored(env)) == (0, [])


class ScriptedJudge:
    def __init__(self, *verdicts):
        self.verdicts, self.seen = list(verdicts), []

    async def judge_picture(self, jpeg):
        self.seen.append(jpeg)
        return self.verdicts.pop(0)


@languages
async def test_moderation_judges_the_picture(pictured, language):
    """Refused: its category. Unclear: refused as well. Allowed: used. It sees what the provider would get."""
    env = await pictured("judged", wake=chat_only)
    refused = ContentVerdict("refused", "sexual", "moderation:sexual")
    judge = ScriptedJudge(refused, ContentVerdict("closed"), ALLOWED)
    object.__setattr__(env.app.chat, "picture_judge", judge)
    ana, t = env.user(language=language), translator(language)
    await ana.document(gps_photo(), "a.jpg", "/create it waves")
    await question(ana, t("picture_objected", category=t("category_sexual")))
    await ana.photo("/create it waves", data=PHOTO)
    await question(ana, t("picture_unchecked"))
    assert (await count_requests(env), stored(env)) == (0, [])
    await ana.photo("/create it waves", data=PHOTO)
    await wait_for_confirmed(env)
    request = await requested(env)
    [file] = stored(env)
    assert judge.seen[2] == file.read_bytes()
    assert request.picture is not None
    assert not any(b"Exif" in one for one in judge.seen)


@languages
async def test_what_is_no_picture_is_answered(front, language):
    """A voice message, or a file that is no picture, gets the words of what can be used."""
    ana, t = front.user(language=language), translator(language)
    await ana.voice()
    await ana.document(b"%PDF", "a.pdf")
    assert await wait_for_texts(front, 2) == [t("no_text_or_picture")] * 2


async def test_what_cannot_be_fetched_is_said(front):
    """Telegram fails: nothing is opened, and the same picture may be sent again."""
    ana = front.user()
    front.api.fail("getFile", Fault.server_error())
    await ana.photo("/create it waves", data=PHOTO)
    await question(ana, EN("picture_unreachable"))
    await ana.photo("/create it waves", data=PHOTO)
    await wait_for_confirmed(front)
    assert await count_requests(front) == 1


async def test_a_refused_idea_keeps_no_picture(front):
    """What the content rules or a limit refuse at once leaves no file."""
    ana = front.user()
    await ana.photo("/create a sexy schoolgirl", data=PHOTO)
    await wait_for_confirmed(front)
    assert ((await requested(front)).state, stored(front)) == ("REFUSED", [])


# Whose word it needs, and once


async def test_no_way_around_the_word(pictured):
    """Neither a forged [Make it] nor "don't ask below US$100" orders before its person's own tap."""
    env = await pictured()
    ana, eva = env.user(), env.user(2)
    await people.save(env.app.ledger, ana.id, ask_below=Money.parse("$100"))
    await ana.photo("/create it waves", data=PHOTO)
    offer = await offer_to(ana)
    _, video = await env.latest()
    shown = env.api.world.messages.find(ana.id, offer.id)
    [[button], *_] = shown["reply_markup"]["inline_keyboard"]
    forged = {"text": button["text"], "callback_data": f"{APPROVE}{video.nonce}"}
    shown["reply_markup"]["inline_keyboard"][0] = [forged]
    said = await ana.wait_for_answer(await ana.tap(offer.id, forged["callback_data"]))
    assert (said["text"], said["alert"]) == (EN("tap_rights"), True)
    assert (await env.latest())[1].state is V.AWAITING_APPROVAL
    assert env.fake_provider.posts() == []
    shown["reply_markup"]["inline_keyboard"][0] = [button]
    assert eva.id != ana.id
    await make_it(env, ana)
    assert list(env.fake_provider.net().values()) == [PRICE.micros]


async def test_a_redelivered_photo_is_one_request_and_one_video(pictured, monkeypatch):
    """A handler that dies between storing and opening, and every redelivery: one request, one payment."""
    env = await pictured(wake=worker_only)
    ana, opens, real = env.user(), [], requests.open_request

    async def dies_first(*args, **kwargs):
        opens.append(args)
        if len(opens) == 1:
            raise RuntimeError("killed here")
        return await real(*args, **kwargs)

    monkeypatch.setattr("chat.handlers.create.requests.open_request", dies_first)
    async with serve_webhook(env):
        await ana.photo("/create it waves", data=PHOTO)
        update = ana.last_update
        found = await env.api.redeliver(update.id, times=5)
        assert {one.status for one in found} <= {200, 500}
        offer = await allowed_offer(ana)
        assert len(opens) >= 2, "Telegram delivered it again"
        assert {one.status for one in await env.api.redeliver(update.id, times=5)} == {200}
        for _ in range(2):
            await ana.tap(offer.id, EN("button_make", price=PRICE))
        await wait_for_state(env, V.DELIVERED, seconds=60)
    counts = (await count_requests(env), len(env.fake_provider.posts()), len(stored(env)))
    assert counts == (1, 1, 1)
    assert list(env.fake_provider.net().values()) == [PRICE.micros]


# How long it is kept


async def waiting_order(env, ana):
    """Return the queued order of a picture, which no worker has sent yet."""
    await ana.photo("/create it waves", data=PHOTO)
    return await allowed_offer(ana)


@languages
async def test_after_a_day_the_picture_is_gone_and_the_order_ends(pictured, language):
    """The file is removed whatever became of its request; an order that needs it ends unpaid, with a word."""
    env = await pictured()
    ana, t = env.user(language=language), translator(language)
    await ana.photo("/create it waves", data=PHOTO)
    offer = await allowed_offer(ana, t)
    [file] = stored(env)
    await remove_old_pictures(env.app.worker)
    assert stored(env) == [file]
    old = time.time() - KEPT_S - 1
    os.utime(file, (old, old))
    await remove_old_pictures(env.app.worker)
    assert stored(env) == []
    assert not file.parent.exists()
    await ana.tap(offer.id, t("button_make", price=PRICE))
    await wait_for_state(env, V.EXPIRED)
    assert (await env.latest())[1].failure == "picture_gone"
    await ana.wait_for(lambda one: t("expired_picture_gone") in one.text)
    assert env.fake_provider.posts() == []


async def test_another_file_is_not_sent(pictured):
    """What does not have the hash of the order is not sent."""
    env = await pictured()
    ana = env.user()
    offer = await waiting_order(env, ana)
    [file] = stored(env)
    file.write_bytes(photo(640, 480, colour="blue"))
    await ana.tap(offer.id, EN("button_make", price=PRICE))
    await wait_for_state(env, V.EXPIRED)
    assert env.fake_provider.posts() == []


async def test_forget_removes_only_their_own(front):
    """All pictures of one person go at once, also one whose request never opened."""
    ana, eva = front.user(), front.user(2)
    for person in (ana, eva):
        await person.photo("/create it waves", data=PHOTO)
    await wait_for_confirmed(front)
    (folder_of(front.app.settings.media, 1001) / ".x.part").write_bytes(b"left by a crash")
    assert await forget_pictures(front.app.settings.media, 1001) == 1
    assert await forget_pictures(front.app.settings.media, 1001) == 0
    assert (stored(front), len(stored(front, 2))) == ([], 1)


async def test_the_worker_removes_old_pictures_by_itself(pictured):
    """A running worker needs nobody for it."""
    env = await pictured()
    ana = env.user()
    await waiting_order(env, ana)
    [file] = stored(env)
    os.utime(file, (1, 1))

    async def gone():
        return not file.exists()

    await wait_until(gone, 60, "the old picture to go")


def test_the_name_of_a_file_shows_no_person(tmp_path):
    assert re.fullmatch(r"pictures/[0-9a-f]{32}", str(folder_of(tmp_path, 1001).relative_to(tmp_path)))


@languages
@pytest.mark.parametrize("pictures", ["unjudged", "off"])
async def test_help_speaks_of_pictures_where_they_are_used(pictured, language, pictures):
    """/help and a question name the way in, and neither does where no picture is used."""
    env, t = await pictured(pictures, wake=chat_only), translator(language)
    ana = env.user(language=language)
    for number, text in enumerate(("/help", "how does it work?"), 1):
        await ana.send(text)
        await wait_for_texts(env, number)
        assert (t("help_pictures") in sent_texts(env)[-1]) == (pictures == "unjudged")
