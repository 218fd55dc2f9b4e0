"""Updates that aiogram cannot parse, and topics: a command is read from what it consists of."""

import pytest
from aiogram import Bot

from chat.updates import parse_sent_message, parse_update, request_id_of, topic_of, user_of

BOT = Bot("1:token")
UNKNOWN = {"external_reply": {"origin": {"type": "of_a_newer_bot_api", "date": 1}}}
MESSAGE = {
    "message_id": 7,
    "date": 1_700_000_000,
    "chat": {"id": -100, "type": "supergroup", "title": "Films"},
    "from": {"id": 5, "is_bot": False, "first_name": "Ana", "language_code": "es"},
    "text": "/create a market",
}


def read(**changes):
    return parse_update({"update_id": 1, "message": {**MESSAGE, **changes}}, BOT)


@pytest.mark.parametrize(
    "unknown", [UNKNOWN, {"entities": [{"type": "x"}]}, {"chat": {**MESSAGE["chat"], "photo": 1}}]
)
def test_a_command_of_a_newer_bot_api_is_read(unknown):
    """Whatever is wrong next to it, chat, sender, text and ids are the same as without it."""
    plain, newer = read().message, read(**unknown).message
    assert request_id_of(newer, 1) == request_id_of(plain, 1)
    assert (newer.text, newer.from_user.id, newer.from_user.language_code) == ("/create a market", 5, "es")
    assert (newer.chat.id, newer.chat.type) == (-100, "supergroup")


def test_what_makes_a_command_none_is_kept():
    """An anonymous sender, a bot, a forward, an album and a topic are recognised in such an update too."""
    assert user_of(read(**UNKNOWN).message).id == 5
    assert user_of(read(**UNKNOWN, sender_chat={"id": -100, "type": "supergroup", "new": {}}).message) is None
    assert user_of(read(**UNKNOWN, **{"from": {"id": 5, "is_bot": True, "first_name": "B"}}).message) is None
    assert read(forward_origin={"type": "of_a_newer_bot_api"}).message.forward_origin is not None
    assert request_id_of(read(**UNKNOWN, media_group_id="9").message, 1).endswith("album-9")
    assert topic_of(read(**UNKNOWN, message_thread_id=8, is_topic_message=True).message) == 8


def test_a_tap_of_a_newer_bot_api_is_read():
    """The button's data and its person are enough."""
    tap = {"id": "q", "from": MESSAGE["from"], "chat_instance": "1", "data": "make:n", "message": {"new": {}}}
    query = parse_update({"update_id": 1, "callback_query": tap}, BOT).callback_query
    assert (query.data, query.from_user.id) == ("make:n", 5)


@pytest.mark.parametrize(
    "raw",
    [None, [], "text", {}, {"update_id": "?"}, {"update_id": 1, "message": {"text": "/create x"}},
     {"update_id": 1, "message": {**MESSAGE, "chat": None}}],
)  # fmt: skip
def test_an_update_without_a_chat_is_none(raw):
    """Where there is nobody to answer, nothing is read, and nothing raises."""
    found = parse_update(raw, BOT)
    assert found is None or found.message is None


def test_a_thread_of_replies_is_no_topic():
    """Telegram refuses a message to a thread of replies."""
    assert topic_of(read(message_thread_id=8).message) is None
    assert topic_of(read(message_thread_id=8, is_topic_message=True).message) == 8


def test_a_message_that_was_sent_is_read_from_its_answer():
    """An answer that quotes something of a newer Bot API names the message and its file all the same."""
    video = {
        "file_id": "f",
        "file_unique_id": "u",
        "width": 720,
        "height": 1280,
        "duration": 8,
        "qualities": 1,
    }
    result = {**MESSAGE, "video": video, "reply_to_message": {**MESSAGE, **UNKNOWN}}
    sent = parse_sent_message({"ok": True, "result": result}, BOT)
    assert (sent.message_id, sent.video.file_id) == (7, "f")
    for answer in ({"ok": False, "result": result}, {"ok": True, "result": [result]}, {"ok": True}, "<html>"):
        assert parse_sent_message(answer, BOT) is None
