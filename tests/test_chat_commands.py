"""What a person writes: one command is one request; everything else makes nothing, and is answered once."""

from chat_stage import (
    GROUP,
    answers,
    count_requests,
    handlers_alone,  # noqa: F401  # the fixture `front`
    push,
    said,
    taken_up,
)

from chat.context import IDEA_CHARACTERS
from chat.i18n import translator
from ledger import requests

EN = translator("en")
ANONYMOUS = {"id": 1_087_968_824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot"}
CHANNEL = {"id": -1009, "type": "channel", "title": "News"}
SUPERGROUP = {"id": GROUP, "type": "supergroup", "title": "Group"}


async def test_whatever_form_a_command_has_it_is_read(front):
    """In any case, with a new line behind it, addressed to the bot, in a group: the idea arrives whole."""
    ana, name = front.user(), front.api.world.bot["username"]
    group = front.api.group(GROUP)
    await ana.send("/CREATE a first idea")
    await front.user(2).send("/create\na second\nidea")
    await front.user(3).send(f"/create@{name.upper()} a third idea")
    await front.user(4).send(f"/create@{name} a fourth idea", chat=group)
    await taken_up(front)
    ideas = [(await requests.list_for_user(front.app.ledger, user))[0][0].idea for user in (1001, 2, 3, 4)]
    assert ideas == ["a first idea", "a second\nidea", "a third idea", "a fourth idea"]


NO_COMMANDS = {
    "/create": "usage",
    "/create   ": "usage",
    "/unknown idea": "unknown_command",
    "/create@another_bot idea": "unknown_command",
    "/createidea": "unknown_command",
    "just an idea": "chatter",
}


async def test_what_is_no_command_makes_nothing(front):
    """An empty idea, an unknown command and small talk are answered in words; no request is opened."""
    for user, words in enumerate(NO_COMMANDS, start=1):
        await front.user(user).send(words)
    await answers(front, len(NO_COMMANDS))
    for user, name in enumerate(NO_COMMANDS.values(), start=1):
        assert said(front, user) == [EN(name)]
    assert await count_requests(front) == 0


async def test_the_longest_idea_fits(front):
    """An idea of exactly the longest length is a request, in any script; one character more is refused."""
    await front.user(1).send("/create " + "x" * IDEA_CHARACTERS)
    await front.user(2).send("/create " + "🎬" * IDEA_CHARACTERS)
    await front.user(3).send("/create " + "x" * (IDEA_CHARACTERS + 1))
    [words] = await answers(front, 1)
    assert f"{IDEA_CHARACTERS + 1} characters" in words
    assert str(IDEA_CHARACTERS) in words
    await taken_up(front)
    assert await count_requests(front) == 2


async def test_a_very_long_text_is_answered_once(front):
    """200 kB arrive as 50 messages: the first is refused as too long, the rest is not answered 49 times."""
    pieces = await front.user().send_long("/create " + "a market at dawn " * 12_000)
    await taken_up(front)
    assert len(pieces) > 45
    [words] = said(front)
    assert str(IDEA_CHARACTERS) in words
    assert await count_requests(front) == 0


async def test_an_edit_never_creates(front):
    """A changed message is no command, whatever it says now; and an edited /create stays one request."""
    ana = front.user()
    first = await ana.send("hello")
    await answers(front, 1)
    await ana.edit(first.id, "/create a market")
    second = await ana.send("/create a market")
    await taken_up(front)
    await ana.edit(second.id, "/create another market")
    push(front, "edited_message", text="/create a third", entities=[], edit_date=2)
    await taken_up(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, 1001)
    assert request.idea == "a market"


async def test_a_forwarded_command_does_nothing(front):
    """A forwarded /create makes nothing and a forwarded /cancel stops nothing; both are answered."""
    ana, eva = front.user(), front.user(2)
    await ana.forward(await eva.send("/create a market"))
    await ana.send("/create a lighthouse")
    await ana.forward(await eva.send("/cancel"))
    assert (await answers(front, 2, ana.id)).count(EN("forwarded")) == 2
    await taken_up(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert (request.idea, request.state) == ("a lighthouse", "OPEN")


async def test_an_album_with_a_caption_is_one_act(front):
    """A command in an album's caption is one request, and its other pictures are not answered."""
    ana = front.user()
    for caption in ("/create a market", "", "/create a market"):
        await ana.photo(caption, album="77")
    await taken_up(front)
    assert await count_requests(front) == 1
    assert said(front) == []


async def test_pictures_without_words_are_answered_once(front):
    """Photos, voices and stickers are answered that words are needed; an album of them hears it once."""
    ana = front.user()
    for _ in range(3):
        await ana.photo(album="78")
    voice = {"file_id": "v", "file_unique_id": "u", "duration": 1}
    eva = {"id": 2, "is_bot": False, "first_name": "Eva"}
    front.user(2)
    push(front, chat={"id": 2, "type": "private"}, voice=voice, **{"from": eva})
    await taken_up(front)
    assert said(front, 1001) == [EN("no_text")]
    assert len(front.api.calls.of("sendMessage")) == 2
    assert await count_requests(front) == 0


NOBODY = (
    {"from": ANONYMOUS, "sender_chat": SUPERGROUP},
    {"from": {"id": 777_000, "is_bot": False, "first_name": "Telegram"}, "sender_chat": CHANNEL},
    {"from": {"id": 136_817_688, "is_bot": True, "first_name": "Channel"}, "sender_chat": CHANNEL},
    {"from": {"id": 5, "is_bot": True, "first_name": "Another bot"}},
)


async def test_only_people_pay(front):
    """Anonymous admins, channels and bots are nobody's purse: no request, and words that say so."""
    front.api.group(GROUP)
    for sender in NOBODY:
        push(front, chat=SUPERGROUP, text="/create a market", **sender)
    assert await answers(front, len(NOBODY), GROUP) == [EN("no_payer")] * len(NOBODY)
    assert await count_requests(front) == 0
