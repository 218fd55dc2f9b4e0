"""What a conversation needs of the local Bot API: replies, buttons, people's media, reactions, menus."""

import io

import pytest
from aiogram.exceptions import TelegramBadRequest
from aiogram.methods import EditMessageText
from aiogram.types import (
    BotCommand,
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
    BotCommandScopeChatMember,
    BufferedInputFile,
    CopyTextButton,
    ForceReply,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaVideo,
    LinkPreviewOptions,
    ReactionTypeEmoji,
    ReplyKeyboardRemove,
    ReplyParameters,
    SwitchInlineQueryChosenChat,
)
from PIL import Image

from sandbox.telegram import BotApiServer, SandboxError
from tests.support.bot_api import MP4, bot_of, jpeg

ANA, BEN, GROUP = 1001, 1002, -1001234567890


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        await running.user(ANA, "Ana", username="ana_films").send("/start")
        running.group(GROUP, "Cinema")
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api) as made:
        yield made


async def updates(bot, api):
    """Return the updates since the last call, and confirm them."""
    found = await bot.get_updates(timeout=0)
    if found:
        await bot.get_updates(offset=found[-1].update_id + 1, timeout=0)
    return found


def keys(**button) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", **button)]])


async def test_a_forced_reply_is_shown_and_answered(api, bot):
    """The app shows the placeholder; the answer carries the bot's question; a Message has no such markup."""
    asked = await bot.send_message(
        ANA, "Your idea?", reply_markup=ForceReply(input_field_placeholder="A cat that cooks")
    )
    assert asked.reply_markup is None
    shown = api.user(ANA).history()[-1]
    assert shown.forced_reply.placeholder == "A cat that cooks"
    said = await api.user(ANA).reply("a lighthouse")
    message = (await updates(bot, api))[-1].message
    assert (message.text, message.reply_to_message.message_id) == ("a lighthouse", asked.message_id)
    assert message.reply_to_message.text == "Your idea?"
    assert (said.reply_to, said.reply_text) == (asked.message_id, "Your idea?")


async def test_a_selective_forced_reply_is_for_one_person(api, bot):
    """In a group it shows to whom it answers or mentions, and to no one else."""
    ana, ben = api.user(ANA), api.user(BEN, "Ben")
    question = await ana.send("/create", chat=GROUP)
    await ben.send("hello", chat=GROUP)
    await bot.send_message(
        GROUP,
        "Which?",
        reply_parameters=ReplyParameters(message_id=question.id),
        reply_markup=ForceReply(selective=True),
    )
    assert ana.history(chat=GROUP)[-1].forced_reply is not None
    assert ben.history(chat=GROUP)[-1].forced_reply is None
    with pytest.raises(SandboxError, match="no message asks Ben for a reply"):
        await ben.reply("mine", chat=GROUP)
    await bot.send_message(GROUP, "@ana_films?", reply_markup=ForceReply(selective=True))
    assert [p.history(chat=GROUP)[-1].forced_reply is None for p in (ana, ben)] == [False, True]


async def test_other_interfaces_and_their_limits(api, bot):
    """A removal is accepted; a placeholder has 64 characters; an edit takes inline keyboards only."""
    sent = await bot.send_message(ANA, "gone", reply_markup=ReplyKeyboardRemove())
    assert sent.reply_markup is None
    with pytest.raises(TelegramBadRequest, match="input_field_placeholder"):
        await bot.send_message(ANA, "x", reply_markup=ForceReply(input_field_placeholder="x" * 65))
    with pytest.raises(TelegramBadRequest, match="inline keyboard expected"):
        await bot(
            EditMessageText.model_construct(
                text="y", chat_id=ANA, message_id=sent.message_id, reply_markup=ForceReply()
            )
        )


async def test_a_reply_holds_one_level_and_a_quote(api, bot):
    """Replying to another person's reply brings that message without its own; the quote is a part of it."""
    ana, ben = api.user(ANA), api.user(BEN, "Ben")
    first = await ana.send("a cat in the rain", chat=GROUP)
    second = await ben.send("at night, please", chat=GROUP, reply_to=first.id, quote="in the rain")
    assert second.raw["quote"] == {"text": "in the rain", "position": 6, "is_manual": True}
    await ana.send("/create", chat=GROUP, reply_to=second.id)
    message = (await updates(bot, api))[-1].message
    replied = message.reply_to_message
    assert (replied.text, replied.from_user.id, replied.reply_to_message) == ("at night, please", BEN, None)
    answer = await bot.send_message(
        GROUP, "yes", reply_parameters=ReplyParameters(message_id=second.id, quote="<b>night</b>")
    )
    assert (answer.quote.text, answer.quote.position) == ("night", 3)
    with pytest.raises(TelegramBadRequest, match="QUOTE_TEXT_INVALID"):
        await bot.send_message(
            GROUP, "no", reply_parameters=ReplyParameters(message_id=second.id, quote="day")
        )


@pytest.mark.parametrize(
    ("button", "shown"),
    [
        ({"url": "https://example.org/a"}, {"url": "https://example.org/a"}),
        ({"url": "tg://resolve?domain=x"}, {"url": "tg://resolve?domain=x"}),
        ({"copy_text": CopyTextButton(text="a cat")}, {"copy_text": "a cat"}),
        ({"switch_inline_query": "cats"}, {"switch_inline": "cats", "switch_here": False}),
        ({"switch_inline_query_current_chat": ""}, {"switch_inline": "", "switch_here": True}),
        (
            {
                "switch_inline_query_chosen_chat": SwitchInlineQueryChosenChat(
                    query="v1", allow_group_chats=True
                )
            },
            {"switch_inline": "v1", "switch_here": False},
        ),
        ({"callback_data": "go", "style": "danger"}, {"data": "go", "style": "danger"}),
    ],
)
async def test_every_kind_of_button_is_shown(api, bot, button, shown):
    """Each kind reaches the person's app as what it does."""
    await bot.send_message(ANA, "x", reply_markup=keys(**button))
    ((seen,),) = api.user(ANA).history()[-1].buttons
    assert {name: getattr(seen, name) for name in shown} == shown


@pytest.mark.parametrize(
    ("button", "words"),
    [
        ({}, "Text buttons are unallowed in the inline keyboard"),
        ({"url": "http://localhost:8000/x"}, "URL 'http://localhost:8000/x' is invalid: Wrong HTTP URL"),
        ({"url": "javascript:alert(1)"}, "is invalid"),
        ({"url": "ftp://example.org"}, "Unsupported URL protocol"),
        ({"copy_text": CopyTextButton(text="x" * 257)}, "BUTTON_COPY_TEXT_INVALID"),
        ({"callback_data": "é" * 33}, "BUTTON_DATA_INVALID"),
        ({"callback_data": "x", "style": "pink"}, "Invalid button style"),
        ({"pay": True}, "BUTTON_TYPE_INVALID"),
    ],
)
async def test_wrong_buttons_are_refused(bot, button, words):
    """What Telegram refuses is refused, before anyone can tap it."""
    with pytest.raises(TelegramBadRequest, match=words):
        await bot.send_message(ANA, "x", reply_markup=keys(**button))


async def test_link_previews_and_expandable_quotes(api, bot):
    """Both are parts of the message; an edit that only changes the preview is a change."""
    words = "<blockquote expandable>long</blockquote> https://example.org"
    off = LinkPreviewOptions(is_disabled=True)
    sent = await bot.send_message(ANA, words, link_preview_options=off)
    assert (sent.entities[0].type, sent.link_preview_options.is_disabled) == ("expandable_blockquote", True)
    edited = await bot.edit_message_text(words, chat_id=ANA, message_id=sent.message_id)
    assert edited.link_preview_options is None


def picture(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), (20, 60, 100)).save(written, "PNG")
    return written.getvalue()


async def test_a_photo_arrives_in_sizes_and_can_be_downloaded(api, bot):
    """Smallest first, the last is the photo itself; the caption has its entities; each size is a file."""
    data = picture(1600, 900)
    await api.user(ANA).photo("/create <rain> @ana_films", data=data, spoiler=True)
    message = (await updates(bot, api))[-1].message
    sizes = [(size.width, size.height) for size in message.photo]
    assert sizes == [(90, 51), (320, 180), (800, 450), (1280, 720), (1600, 900)]
    assert message.has_media_spoiler
    assert [entity.type for entity in message.caption_entities] == ["bot_command", "mention"]
    file = await bot.get_file(message.photo[-1].file_id)
    assert (await bot.download_file(file.file_path)).read() == data
    again = await bot.send_photo(ANA, message.photo[0].file_id)
    assert [size.file_id for size in again.photo] == [size.file_id for size in message.photo]


async def test_an_album_is_one_group_of_messages(api, bot):
    """Each photo is a message; they share a group, and the caption comes with the first."""
    await api.user(ANA).album([picture(20, 20), picture(30, 30)], "both")
    one, two = (update.message for update in (await updates(bot, api))[-2:])
    assert one.media_group_id == two.media_group_id
    assert (one.caption, two.caption) == ("both", None)
    with pytest.raises(SandboxError, match="2 to 10"):
        await api.user(ANA).album([picture(20, 20)])


async def test_a_file_of_a_person_over_20_mb(api, bot):
    """The bot is told of it, and cannot download it."""
    await api.user(ANA).document(bytes(20 * 1024 * 1024 + 1), "big.mov", "here")
    message = (await updates(bot, api))[-1].message
    assert (message.document.file_name, message.caption) == ("big.mov", "here")
    with pytest.raises(TelegramBadRequest, match="file is too big"):
        await bot.get_file(message.document.file_id)


async def test_voice_and_stickers_arrive(api, bot):
    """Both have the fields that aiogram requires."""
    await api.user(ANA).voice(7)
    await api.user(ANA).sticker("🎬")
    voice, sticker = (update.message for update in (await updates(bot, api))[-2:])
    assert (voice.voice.duration, sticker.sticker.emoji) == (7, "🎬")


async def test_a_video_has_its_own_cover_and_sizes(api, bot):
    """Declared sizes are kept; the cover belongs to the message, not to the file."""
    sent = await bot.send_video(
        ANA,
        BufferedInputFile(MP4, "v.mp4"),
        cover=BufferedInputFile(jpeg(720, 1280), "cover.jpg"),
        thumbnail=BufferedInputFile(jpeg(), "thumb.jpg"),
        width=720,
        height=1280,
        duration=8,
        start_timestamp=2,
        supports_streaming=True,
    )
    video = sent.video
    assert (video.width, video.height, video.duration) == (720, 1280, 8)
    assert (video.cover[-1].width, video.cover[-1].height) == (720, 1280)
    assert api.user(ANA).history()[-1].media.poster == video.cover[-1].file_id
    plain = await bot.send_video(ANA, video.file_id)
    assert (plain.video.cover, plain.video.thumbnail.width) == (None, 180)
    edited = await bot.edit_message_media(
        InputMediaVideo(media=video.file_id, cover=video.cover[-1].file_id),
        chat_id=ANA,
        message_id=plain.message_id,
    )
    assert edited.video.cover[-1].file_id == video.cover[-1].file_id


async def test_a_document_stays_one(api, bot):
    """sendDocument does not make a video of an MP4."""
    sent = await bot.send_document(ANA, BufferedInputFile(MP4, "source.mp4"), caption="source")
    assert (sent.document.file_name, sent.video, sent.caption) == ("source.mp4", None, "source")


async def test_a_copy_has_no_author(api, bot):
    """copyMessage sends the content again and answers with an id alone."""
    said = await api.user(ANA).photo("mine", data=picture(40, 40))
    copied = await bot.copy_message(GROUP, ANA, said.id)
    shown = api.user(ANA).history(chat=GROUP)[-1]
    assert (shown.id, shown.text, shown.from_bot) == (copied.message_id, "mine", True)


async def test_the_bot_reacts(api, bot):
    """A reaction is one of Telegram's, shows in the app, and goes with an empty list."""
    said = await api.user(ANA).send("/create a cat")
    for emoji, shown in (("👀", ["👀"]), ("❤️", ["❤"])):
        await bot.set_message_reaction(ANA, said.id, [ReactionTypeEmoji(emoji=emoji)])
        assert api.user(ANA).history()[-1].reactions == shown
    await bot.set_message_reaction(ANA, said.id, [])
    assert api.user(ANA).history()[-1].reactions == []
    for emoji, words in (("🎬", "REACTION_INVALID"), ("", "REACTION_INVALID")):
        with pytest.raises(TelegramBadRequest, match=words):
            await bot.set_message_reaction(ANA, said.id, [ReactionTypeEmoji(emoji=emoji)])
    with pytest.raises(TelegramBadRequest, match="message to react not found"):
        await bot.set_message_reaction(ANA, 999, [])


async def test_a_person_reacts(api, bot):
    """The bot gets it where it asked for it: before and after."""
    sent = await bot.send_message(ANA, "done")
    await bot.get_updates(offset=-1, allowed_updates=["message", "message_reaction"])
    await api.user(ANA).react(sent.message_id, "🔥")
    await api.user(ANA).react(sent.message_id, "")
    there, gone = ((u.message_reaction) for u in (await updates(bot, api))[-2:])
    assert (there.new_reaction[0].emoji, gone.old_reaction[0].emoji, gone.new_reaction) == ("🔥", "🔥", [])


async def test_captions_and_edits_of_captions(api, bot):
    """A person edits the caption of a photo; a deletion is not told to the bot."""
    said = await api.user(ANA).photo("/create a cat", data=picture(40, 40))
    await api.user(ANA).edit(said.id, "/create a dog")
    await api.user(ANA).delete(said.id)
    edit = (await updates(bot, api))[-1].edited_message
    assert (edit.message_id, edit.caption, edit.text) == (said.id, "/create a dog", None)
    assert said.id not in [bubble.id for bubble in api.user(ANA).history()]


async def test_many_messages_are_deleted_at_once(api, bot):
    """Unknown ids are skipped; none at all is refused."""
    sent = [(await bot.send_message(ANA, str(n))).message_id for n in range(3)]
    assert await bot.delete_messages(ANA, [*sent[:2], 999])
    assert [b.id for b in api.user(ANA).history() if b.from_bot] == sent[2:]
    with pytest.raises(TelegramBadRequest, match="message identifiers are not specified"):
        await bot.delete_messages(ANA, [])


async def test_deep_links_start_the_bot(api, bot):
    """A link to the bot sends its payload; another address is no such link."""
    ana, name = api.user(ANA), (await bot.me()).username
    await ana.follow(f"https://t.me/{name}?start=ref_AbC-1")
    await ana.follow(f"tg://resolve?domain={name}&start=again")
    assert [u.message.text for u in (await updates(bot, api))[-2:]] == ["/start ref_AbC-1", "/start again"]
    with pytest.raises(SandboxError, match="no link to"):
        await ana.follow("https://t.me/another_bot?start=x")
    with pytest.raises(SandboxError, match="start payload"):
        await ana.start("not allowed")


def command(name: str) -> list[BotCommand]:
    return [BotCommand(command=name, description="x")]


async def test_each_scope_has_its_menu(api, bot):
    """The narrowest scope wins; getMyCommands answers for one scope; unknown chats and scopes are refused."""
    from sandbox.telegram.profile import commands_for

    def menu(chat: int, user: int) -> list[str]:
        where = api.world.chats.chat(str(chat))
        return [one["command"] for one in commands_for(api.world, where, user, "en")]

    member = BotCommandScopeChatMember(chat_id=GROUP, user_id=BEN)
    for name, scope in (
        ("all", None),
        ("private", BotCommandScopeAllPrivateChats()),
        ("groups", BotCommandScopeAllGroupChats()),
        ("one", BotCommandScopeChat(chat_id=ANA)),
        ("ben", member),
    ):
        await bot.set_my_commands(command(name), scope=scope)
    api.user(BEN, "Ben")
    assert [menu(ANA, ANA), menu(BEN, BEN), menu(GROUP, ANA), menu(GROUP, BEN)] == [
        ["one"], ["private"], ["groups"], ["ben"],
    ]  # fmt: skip
    assert [one.command for one in await bot.get_my_commands(scope=member)] == ["ben"]
    await bot.delete_my_commands(scope=member)
    assert menu(GROUP, BEN) == ["groups"]
    with pytest.raises(TelegramBadRequest, match="chat not found"):
        await bot.set_my_commands(command("x"), scope=BotCommandScopeChat(chat_id=4))
    with pytest.raises(TelegramBadRequest, match="LANG_CODE_INVALID"):
        await bot.set_my_commands(command("x"), language_code="english")


async def test_the_profile_has_texts_by_language(bot):
    """A language without a text has the default one; each text has its limit."""
    await bot.set_my_description("Makes one video.")
    await bot.set_my_description("Hace un video.", language_code="es")
    await bot.set_my_short_description("One video")
    texts = [(await bot.get_my_description(language_code=code)).description for code in ("", "es", "pt")]
    assert texts == ["Makes one video.", "Hace un video.", "Makes one video."]
    assert (await bot.get_my_short_description()).short_description == "One video"
    assert (await bot.get_my_name()).name == "OneTake"
    with pytest.raises(TelegramBadRequest, match="BOT_DESCRIPTION_TOO_LONG"):
        await bot.set_my_description("x" * 513)


async def test_members_and_me(api, bot):
    """getMe says what the bot's owner chose; getChatMember says who is in a group."""
    me = await bot.get_me()
    assert (me.supports_inline_queries, me.can_read_all_group_messages, me.has_topics_enabled) == (
        True,
        False,
        False,
    )
    await api.user(ANA).send("hi", chat=GROUP)
    api.user(BEN, "Ben")
    statuses = [(await bot.get_chat_member(GROUP, who)).status for who in (ANA, BEN, me.id)]
    assert statuses == ["member", "left", "member"]
    with pytest.raises(TelegramBadRequest, match="PARTICIPANT_ID_INVALID"):
        await bot.get_chat_member(GROUP, 77)


async def test_topics_of_a_private_chat(api, bot):
    """A bot without topic mode has none; its owner can turn the mode on."""
    with pytest.raises(TelegramBadRequest, match="message thread not found"):
        await bot.send_message(ANA, "x", message_thread_id=5)
    api.change_bot(has_topics_enabled=True)
    assert (await bot.get_me()).has_topics_enabled
    assert (await bot.send_message(ANA, "x", message_thread_id=5)).message_thread_id == 5
    with pytest.raises(SandboxError, match="getMe has no"):
        api.change_bot(can_fly=True)


async def test_what_a_message_has_no_field_for_outlives_the_server(tmp_path):
    """Forced replies, reactions, topics and the profile are there after a restart."""
    async with BotApiServer(state_dir=tmp_path) as api, bot_of(api) as bot:
        ana = api.user(ANA, "Ana")
        await ana.create_group(GROUP, "Cinema")
        topic = await ana.create_topic(GROUP, "Night")
        await ana.send("/start")
        sent = await bot.send_message(ANA, "Your idea?", reply_markup=ForceReply())
        await ana.react(sent.message_id, "🔥")
        await bot.set_my_description("One video")
    async with BotApiServer(state_dir=tmp_path) as api, bot_of(api) as bot:
        shown = api.user(ANA).history()[-1]
        assert (shown.forced_reply is not None, shown.reactions) == (True, ["🔥"])
        assert (await bot.send_message(GROUP, "x", message_thread_id=topic)).is_topic_message
        assert (await bot.get_my_description()).description == "One video"
