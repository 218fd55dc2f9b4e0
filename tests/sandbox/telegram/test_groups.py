"""Groups of the local Bot API: topics, anonymous administrators, migration, rights, ephemeral messages."""

import pytest
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError, TelegramMigrateToChat
from aiogram.types import (
    BotCommand,
    BotCommandScopeAllGroupChats,
    EphemeralMessageParameters,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    ReplyParameters,
)

from sandbox.telegram import BotApiServer, SandboxError
from tests.support.bot_api import bot_of

ANA, BEN, GROUP, BASIC = 1001, 1002, -1001234567890, -4321
GO = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", callback_data="go")]])


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        await running.user(ANA, "Ana").create_group(GROUP, "Cinema")
        await running.user(BEN, "Ben").join(GROUP)
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api) as made:
        await updates(made)
        yield made


async def updates(bot):
    """Return the updates since the last call, and confirm them."""
    found = await bot.get_updates(timeout=0)
    if found:
        await bot.get_updates(offset=found[-1].update_id + 1, timeout=0)
    return found


async def test_a_new_group_is_announced():
    """The bot gets a service message and its own change of status, in a chat that it did not know."""
    async with BotApiServer() as api, bot_of(api) as bot:
        await api.user(ANA, "Ana").create_group(GROUP, "Cinema")
        added, changed = await updates(bot)
        assert added.message.new_chat_members[0].id == bot.id
        change = changed.my_chat_member
        assert (change.old_chat_member.status, change.new_chat_member.status) == ("left", "member")
        assert (await bot.get_chat_member(GROUP, ANA)).status == "creator"


async def test_two_people_have_their_own_view(api, bot):
    """Both see one group; each sees only their own messages as theirs."""
    ana, ben = api.user(ANA), api.user(BEN)
    await ana.send("hello", chat=GROUP)
    await bot.send_message(GROUP, "hi")
    assert [b.mine for b in ana.history(chat=GROUP)][-2:] == [True, False]
    assert [b.mine for b in ben.history(chat=GROUP)][-2:] == [False, False]
    assert ben.history() == []


async def test_topics(api, bot):
    """A topic's messages name it; a reply goes to the topic of what it answers; a closed one refuses."""
    ana = api.user(ANA)
    topic = await ana.create_topic(GROUP, "Night")
    said = await ana.send("/create a cat", chat=GROUP, topic=topic)
    created, message = (update.message for update in await updates(bot))
    assert (created.forum_topic_created.name, created.message_thread_id) == ("Night", topic)
    assert (message.message_thread_id, message.is_topic_message, message.chat.is_forum) == (topic, True, True)
    answer = await bot.send_message(GROUP, "ok", reply_parameters=ReplyParameters(message_id=said.id))
    assert answer.message_thread_id == topic
    assert [b.text for b in ana.history(chat=GROUP, topic=topic)][1:] == ["/create a cat", "ok"]
    await ana.close_topic(GROUP, topic)
    with pytest.raises(TelegramBadRequest, match="TOPIC_CLOSED"):
        await bot.send_message(GROUP, "x", message_thread_id=topic)
    with pytest.raises(TelegramBadRequest, match="message thread not found"):
        await bot.send_chat_action(GROUP, "typing", message_thread_id=999)


async def test_an_anonymous_administrator(api, bot):
    """The author is Telegram's own bot, the sender the group; the person's app shows it as theirs."""
    ana = api.user(ANA)
    await ana.promote(GROUP, anonymous=True)
    said = await ana.send("/create a cat", chat=GROUP)
    message = (await updates(bot))[-1].message
    assert (message.from_user.id, message.from_user.username) == (1087968824, "GroupAnonymousBot")
    assert message.sender_chat.id == GROUP
    assert (said.mine, said.sender) == (True, "Cinema")
    administrators = await bot.get_chat_administrators(GROUP)
    assert [(one.user.id, one.is_anonymous) for one in administrators] == [(ANA, True)]


async def test_a_group_becomes_a_supergroup(api, bot):
    """Both chats say so; the old one refuses every call with the new id."""
    ana = api.user(ANA)
    await ana.create_group(BASIC, "Small", basic=True)
    assert (await bot.send_message(BASIC, "hi")).chat.type == "group"
    await updates(bot)
    number = await ana.migrate(BASIC)
    old, new = (update.message for update in await updates(bot))
    assert (old.migrate_to_chat_id, new.migrate_from_chat_id, new.chat.type) == (number, BASIC, "supergroup")
    with pytest.raises(TelegramMigrateToChat) as refused:
        await bot.send_message(BASIC, "hi?")
    assert refused.value.migrate_to_chat_id == number
    assert (await bot.send_message(number, "hi!")).chat.id == number
    with pytest.raises(SandboxError, match="became the supergroup"):
        await ana.send("hello", chat=BASIC)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        ("kicked", TelegramForbiddenError, "bot was kicked from the supergroup chat"),
        ("left", TelegramForbiddenError, "bot is not a member of the supergroup chat"),
        ("restricted", TelegramBadRequest, "not enough rights to send text messages to the chat"),
    ],
)
async def test_the_bot_is_removed_or_silenced(api, bot, status, error, words):
    """The last update is about that, unless it may still read; sends are refused until it is back."""
    ana = api.user(ANA)
    await ana.set_bot_status(GROUP, status)
    await ana.send("/create a cat", chat=GROUP)
    got = await updates(bot)
    changes = [u.my_chat_member for u in got if u.my_chat_member]
    heard = any(u.message and u.message.text == "/create a cat" for u in got)
    assert heard == (status == "restricted")
    assert [one.new_chat_member.status for one in changes] == [status]
    with pytest.raises(error, match=words):
        await bot.send_message(GROUP, "x")
    await ana.set_bot_status(GROUP, "member")
    await bot.send_message(GROUP, "back")


async def test_people_leave_and_are_banned(api, bot):
    """Both are service messages; neither person can write any more."""
    ana, ben = api.user(ANA), api.user(BEN)
    await ben.leave(GROUP)
    assert (await updates(bot))[-1].message.left_chat_member.id == BEN
    await ben.join(GROUP)
    await ana.ban(GROUP, BEN)
    with pytest.raises(SandboxError, match="Ben is not in group"):
        await ben.send("hello?", chat=GROUP)
    assert (await bot.get_chat_member(GROUP, BEN)).status == "kicked"


async def test_an_administrator_bot_gets_and_deletes_everything(api, bot):
    """Privacy mode does not hold for it; mentions and captions reach an ordinary bot too."""
    ana, name = api.user(ANA), (await bot.me()).username
    await ana.send("hello", chat=GROUP)
    await ana.send(f"@{name} hello", chat=GROUP)
    await ana.photo("/create this", chat=GROUP)
    assert len(await updates(bot)) == 2
    await ana.set_bot_status(GROUP, "administrator")
    said = await ana.send("hello again", chat=GROUP)
    assert (await updates(bot))[-1].message.text == "hello again"
    assert await bot.delete_message(GROUP, said.id)


async def test_an_ephemeral_command_and_its_answer(api, bot):
    """A declared command goes to the bot alone, its answer to one person; edits name both ids."""
    ana, ben = api.user(ANA), api.user(BEN)
    menu = [BotCommand(command="stats", description="mine", is_ephemeral=True)]
    await bot.set_my_commands(menu, scope=BotCommandScopeAllGroupChats())
    await ana.send("/stats", chat=GROUP)
    asked = (await updates(bot))[-1].message
    assert (asked.message_id, asked.receiver_user.id) == (0, bot.id)
    answer = await bot.send_message(
        GROUP,
        "three videos",
        ephemeral_message_parameters=EphemeralMessageParameters(receiver_user_id=ANA),
        reply_parameters=ReplyParameters(ephemeral_message_id=asked.ephemeral_message_id),
        reply_markup=GO,
    )
    assert (answer.message_id, answer.receiver_user.id) == (0, ANA)
    assert ana.history(chat=GROUP)[-1].text == "three videos"
    assert all(not bubble.ephemeral for bubble in ben.history(chat=GROUP))
    which = {
        "chat_id": GROUP,
        "receiver_user_id": ANA,
        "ephemeral_message_id": answer.ephemeral_message_id,
    }
    assert await bot.edit_ephemeral_message_text(text="four", reply_markup=GO, **which) is True
    shown = ana.history(chat=GROUP)[-1]
    assert (shown.text, shown.ephemeral) == ("four", True)
    await ana.tap(shown.id, "Go", chat=GROUP)
    tapped = (await updates(bot))[-1].callback_query.message
    assert tapped.ephemeral_message_id == answer.ephemeral_message_id
    assert await bot.delete_ephemeral_message(**which)
    assert all(not b.ephemeral or b.mine for b in ana.history(chat=GROUP))
    with pytest.raises(TelegramBadRequest, match="message to edit not found"):
        await bot.delete_ephemeral_message(**which)


async def test_ephemeral_messages_have_their_rules(api, bot):
    """Groups only, members only, and an answer to a tap within its time."""
    await api.user(ANA).send("/start")
    to_ana = EphemeralMessageParameters(receiver_user_id=ANA)
    with pytest.raises(TelegramBadRequest, match="groups and supergroups only"):
        await bot.send_message(ANA, "x", ephemeral_message_parameters=to_ana)
    with pytest.raises(TelegramBadRequest, match="PARTICIPANT_ID_INVALID"):
        await bot.send_message(
            GROUP, "x", ephemeral_message_parameters=EphemeralMessageParameters(receiver_user_id=77)
        )
    with pytest.raises(TelegramBadRequest, match="query is too old"):
        await bot.send_message(
            GROUP,
            "x",
            ephemeral_message_parameters=EphemeralMessageParameters(
                receiver_user_id=ANA, callback_query_id="1"
            ),
        )
    sent = await bot.send_message(GROUP, "x", reply_markup=GO)
    tap = await api.user(ANA).tap(sent.message_id, "go", chat=GROUP)
    await bot.answer_callback_query(tap)
    answer = EphemeralMessageParameters(receiver_user_id=ANA, callback_query_id=tap)
    assert (await bot.send_message(GROUP, "yours", ephemeral_message_parameters=answer)).message_id == 0
