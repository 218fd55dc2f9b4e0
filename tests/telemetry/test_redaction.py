"""Redaction: no secret, chat id or user id is written, whatever text contains it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from telemetry.logs import get_logger, setup_logs
from telemetry.redaction import _SECRET_SHAPES, HIDDEN, redact, redact_event, short_id, user_tag

TOKEN = "123456789:AAE" + "x" * 32
TEXTS = {
    "a bare bot token": (TOKEN, TOKEN),
    "a bot token in Telegram's URL": (f"POST https://api.telegram.org/bot{TOKEN}/sendVideo failed", TOKEN),
    "a bot token in a file URL": (f"https://api.telegram.org/file/bot{TOKEN}/v/1.mp4", TOKEN),
    "a quoted bot token": (f"/bot{TOKEN.replace(':', '%3A')}/getMe", TOKEN.split(":")[1]),
    "an OpenAI key": ("Incorrect API key provided: sk-proj-abcDEF_123456.", "abcDEF_123456"),
    "a Replicate key": ("r8_abcdefghijklmnop1234", "abcdefghijklmnop"),
    "a Google key": ("AIza" + "Q" * 35, "Q" * 35),
    "a database's password": ("postgresql://bot:hunter2@db:5432/x", "hunter2"),
    "a password with signs": ("postgresql://bot:hun@ter%2F2!@db/x", "ter%2F2!"),
    "a Redis password without a user": ("redis://:hunter2@cache:6379/0", "hunter2"),
    "a bearer": ("{'Authorization': 'Bearer abcdef123456'}", "abcdef123456"),
    "basic credentials": ("authorization: Basic Ym90Omh1bnRlcjI=", "Ym90Omh1bnRlcjI"),
    "fal's key": ("Authorization: Key 0a1b2c3d:4e5f6a", "4e5f6a"),
    "fal's key in a dict": ("{'Authorization': 'Key 0a1b2c3d:4e5f6a'}", "4e5f6a"),
    "a web token": ("cookie eyJhbGciOiJI.eyJzdWIiOiI.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
    "a signed Azure URL": ("https://x.net/v.mp4?sv=1&sig=abc%2Fdef%3D", "abc%2Fdef"),
    "a signed S3 URL": ("https://b/v?X-Amz-Date=1&X-Amz-Signature=0123abcd&x=1", "0123abcd"),
    "a signed Google URL": ("https://b/v?X-Goog-Signature=0123abcd", "0123abcd"),
    "an escaped signed URL": ("https://b/v?a=1&amp;token=abcd1234", "abcd1234"),
    "a query's api key": ("GET /v1?api_key=abcd1234 HTTP/1.1", "abcd1234"),
}


@pytest.mark.parametrize(("text", "secret"), TEXTS.values(), ids=TEXTS.keys())
def test_a_secret_is_hidden(text: str, secret: str):
    """Each shape of a secret becomes `***`."""
    assert secret not in redact(text)
    assert HIDDEN in redact(text)


PARTS = [
    "12345", ":", "%3A", "sk", "pk", "r8_", "AIza", "eyJ", "-", ".", "://", "/", "@", "?", "&", "=", " ",
    "key", "token", "x-amz-a", "Bearer", "BASIC", "ba\u017fic", "Authorization: Key", "authorization': 'key",
    "a" * 8, "Z9" * 16, "é", "\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
@example("ba\u017fic abcdefgh")
@example("12345:" + "a" * 30)
@example("AIza" + "a" * 30)
def test_no_secret_is_skipped_for_speed(text: str):
    """The expressions are not tried only on texts in which they would find nothing."""
    assert redact(text) == _SECRET_SHAPES.sub(HIDDEN, text)


@pytest.mark.parametrize(
    "text",
    [
        "tg:123456789:-:987654321:42",
        "paid $3.00 for 8 s, 720x1280",
        "job video_68a1 of local, key 6f6e6574-616b-5e00-8000-000000000001",
        "http://127.0.0.1:8080/chat?page=2",
        "2026-11-22T16:22:37.000Z the basic rule; the bearer",
        "sqlite+aiosqlite:////var/lib/onetake/ledger.db",
    ],
)
def test_what_is_no_secret_stays(text: str):
    """Ids, prices, addresses and times are kept: operators search for them."""
    assert redact(text) == text


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_is_accepted(text: str):
    """Redacting never raises and is idempotent."""
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "place",
    ["-:7300451199", "bIz_0123456789abcdefghijklmnopqrstuv:-1007300451199"],
    ids=["private", "business"],
)
@pytest.mark.parametrize("what", ["7", "album-99", "ephemeral-7-7300451199"])
def test_no_chat_and_no_user_is_written(place: str, what: str):
    """A request id becomes a short id and a user a tag anywhere in an event; numbers are kept."""
    request = f"tg:123456789:{place}:{what}"
    error = LookupError(f"request {request!r} has no order of user:7300451199")
    event = {
        "request": request,
        "key": f"direct:{request}",
        "scope": "user:7300451199",
        "e": [error],
        "n": 7300451199,
    }
    shown = redact_event(None, "", event)
    assert (shown["request"], shown["key"]) == (short_id(request), f"direct:{short_id(request)}")
    assert shown["scope"] == f"user:{user_tag(7300451199)}"
    assert "7300451199" not in repr({name: value for name, value in shown.items() if name != "n"})
    assert shown["n"] == 7300451199
    assert redact_event(None, "", dict(shown)) == shown


def test_every_depth_of_an_event_is_redacted():
    """Lists, dicts, bytes and exceptions inside an event are redacted too; numbers are kept."""
    error = ValueError(f"bot{TOKEN}")
    event = {
        "a": [TOKEN, {"b": (TOKEN, 3)}], "c": error, "d": TOKEN.encode(), "n": 3, "s": {TOKEN}, "none": None,
    }  # fmt: skip
    shown = redact_event(None, "", event)
    assert TOKEN not in repr(shown)
    assert shown["n"] == 3
    assert shown["none"] is None


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Capture what the configured logs write; restore logging afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    setup_logs("INFO", "json")
    monkeypatch.setattr(root.handlers[0], "stream", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_nested_exception_writes_no_secret(written: io.StringIO):
    """The texts of an exception and of its causes are redacted, from our loggers and from the standard
    library's.
    """
    try:
        try:
            try:
                raise OSError(f"https://api.telegram.org/bot{TOKEN}/sendVideo")  # noqa: TRY301 - three deep on purpose
            except OSError as inner:
                raise ConnectionError("redis://:hunter2@cache") from inner
        except ConnectionError as middle:
            raise RuntimeError("Bearer abcdef123456") from middle
    except RuntimeError:
        get_logger("test").exception("failed", url="postgresql://bot:hunter2@db/x")
        logging.getLogger("aiohttp.client").exception("failed %s", f"/bot{TOKEN}/getMe")
    text = written.getvalue()
    assert text.count("\n") == 2
    assert text.count("OSError: https") == 2
    for secret in (TOKEN, "hunter2", "abcdef123456"):
        assert secret not in text


def test_a_standard_log_keeps_its_fields(written: io.StringIO):
    """The guards log by `logging` with `extra`: event, fields and level are written like ours, redacted."""
    extra = {
        "tool": "generate_video",
        "request": "tg:1:-:7300451199:2",
        "verdict": "quota",
        "arguments": ["n"],
    }
    logging.getLogger("guardrails.guard").warning("call refused", extra=extra)
    line = json.loads(written.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("call refused", "warning", "guardrails.guard")
    assert {name: line[name] for name in extra} == extra | {"request": short_id(extra["request"])}
