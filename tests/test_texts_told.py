"""What users are told: of every state, honestly about money, and in times as people say them."""

import re
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import HOSTILE, WORDS, every_language, fields_of, read

from chat import status_message
from chat.i18n import language_of, translator
from ledger.limits import Limits
from ledger.models import UNPAID_END_STATES, Request, RequestState, Video, VideoState
from ledger.money import Money
from tools.generate_video import APPROVAL_TIMEOUT_S, ORDER_TIMEOUT_S

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
UNPAID = {"en": r"nothing (was )?(made or )?(paid|charged)", "es": r"(no|ni) se (te )?(pagó|cobró) nada"}
UNPAID["pt"] = r"nada foi (feito nem )?(pago|cobrado)"


def blank(row, **values):
    """Return a row of which only `values` matter."""
    return replace(row(**{one.name: None for one in fields(row)}), **values)


def request(code, **values):
    values = {"state": RequestState.ORDERED, "attempts": 1, "idea": HOSTILE[0]} | values
    return blank(Request, request_id="tg:1:-:7:1", language=code, **values)


def video(state, **values):
    return blank(Video, state=state, seconds=8, quote_micros=3_000_000, progress=40, **values)


def shown(code, request_state, video_state=None, charged="$0", **values):
    take = None if video_state is None else video(video_state, failure=values.pop("failure", None))
    facts = status_message.Facts(now=0, charged=Money.parse(charged), limits=Limits(quota=5))
    return read(status_message.render(request(code, state=request_state, **values), take, facts).text)


@every_language
def test_no_state_is_without_words(code):
    """Every state of a request and of a video, and every reason, becomes a message that Telegram takes."""
    for state in RequestState:
        for reason in (
            None,
            "model",
            "gave_up",
            *status_message._REFUSALS,
            "content:hate",
            "content:?",
            "new",
        ):
            for until in (None, 3 * HOUR):
                quote = "<u>&"
                said = shown(code, state, reason=reason, reason_until=until, reason_quote=quote, attempts=2)
                assert said
    for state in VideoState:
        for failure in (None, "new", *status_message._FAILURES):
            assert shown(code, RequestState.ORDERED, state, failure=failure)


@every_language
def test_an_end_without_payment_says_so(code):
    """Who was charged nothing reads so, and only they; a charge is told with the figure that was booked."""
    for state in UNPAID_END_STATES:
        for failure in (None, *status_message._FAILURES):
            said = shown(code, RequestState.ORDERED, state, failure=failure)
            assert re.search(UNPAID[code], said, re.IGNORECASE), said
            assert "$" not in said
    for state in (RequestState.NO_ORDER, RequestState.CANCELLED):
        assert re.search(UNPAID[code], shown(code, state), re.IGNORECASE)
    for state in (*UNPAID_END_STATES, RequestState.REFUSED, RequestState.NO_ORDER):
        said = WORDS[code][f"state_{state}"]
        assert state == RequestState.REFUSED or re.search(UNPAID[code], said, re.IGNORECASE), said
    paid = shown(code, RequestState.ORDERED, VideoState.FAILED_PAID, charged="$2.50")
    assert "$2.50" in paid
    assert not re.search(UNPAID[code], paid, re.IGNORECASE)


@every_language
def test_a_price_stands_only_where_it_is_known(code):
    """Only the offer, the order and what was booked name a price; no text holds an amount of its own."""
    named = {name for name, text in WORDS[code].items() if "price" in fields_of(text)}
    assert named == {
        "awaiting", "queued", "button_make", "delivered_line", "delivered_preview", "failed_paid",
        "accepted_late", "stuck",
    }  # fmt: skip
    assert [name for name, text in WORDS[code].items() if "$" in text] == []


@every_language
def test_nothing_is_done_before_it_is_delivered(code):
    """No text but those of a delivered video says that something is done or ready."""
    said = re.compile(
        r"\b(done|ready|hech[oa]|list[oa]|pront[oa]|delivered|entregad[oa]|entregue)\b", re.IGNORECASE
    )
    found = {name for name, text in WORDS[code].items() if said.search(re.sub(r"{\w+}", "", text))}
    # /start tells what will happen; the last of these says in which state the video is.
    assert found - {"start"} <= {"ready", "ready_late", "delivered", "state_DELIVERED", "state_SUCCEEDED"}
    assert not re.search(r"\b(delivered|entregad[oa]|entregue)\b", _not_yet(WORDS[code]["state_SUCCEEDED"]))


def _not_yet(text):
    """Return `text` without its words for a delivery that is under way."""
    return re.sub(r"being delivered|por entregarse|sendo entregue", "", text)


@every_language
def test_the_minutes_told_are_the_minutes_kept(code):
    """The offer and the queue end when their texts say."""
    assert re.findall(r"\d+", WORDS[code]["awaiting"]) == [str(APPROVAL_TIMEOUT_S // 60)]
    for name in ("waiting_breaker", "expired_queue"):
        assert re.findall(r"\d+", WORDS[code][name]) == [str(ORDER_TIMEOUT_S // 60)]


@every_language
@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (-5, "1 min"), (0, "1 min"), (1, "1 min"), (MINUTE, "1 min"), (MINUTE + 1, "2 min"),
        (HOUR - 1, "1 h"), (HOUR, "1 h"), (3 * HOUR + 12 * MINUTE, "3 h 12 min"),
        (DAY - MINUTE, "23 h 59 min"), (DAY, "1 d"), (DAY + 1, "1 d 1 h"), (2 * DAY - 1, "2 d"),
    ],
)  # fmt: skip
def test_a_span_reads_as_people_say_it(code, milliseconds, said):
    """A length of time is days, hours and minutes, never less than a minute."""
    assert translator(code).duration(milliseconds) == said


@given(st.integers(-DAY, 400 * DAY))
def test_a_span_is_never_too_short(milliseconds):
    """Who comes back when they were told to does not come too early, and at most an hour too late."""
    units = {"d": DAY, "h": HOUR, "min": MINUTE}
    said = sum(
        int(n) * units[unit]
        for n, unit in re.findall(r"(\d+) (\w+)", translator("en").duration(milliseconds))
    )
    assert said >= MINUTE
    assert milliseconds <= said < max(milliseconds, 1) + (HOUR if milliseconds > DAY else MINUTE)


@pytest.mark.parametrize(("code", "said"), [("en", "in"), ("es", "en"), ("pt", "em")])
def test_when_reads_right(code, said):
    """ "Possible in 3 h 12 min"; a time that has come is a minute away, an unknown one is not made up."""
    t = translator(code)
    assert t.when(3 * HOUR + 12 * MINUTE + 7, 7) == f"{said} 3 h 12 min"
    assert t.when(5, 5) == t.when(5, DAY) == f"{said} 1 min"
    assert t.when(None, 5) == WORDS[code]["when_unknown"]
    assert not re.search(r"\d|today|hoy|hoje", WORDS[code]["when_unknown"])


@pytest.mark.parametrize(
    ("telegram", "ours"),
    [
        ("es", "es"), ("es-MX", "es"), ("ES_419", "es"), ("pt-br", "pt"), ("pt", "pt"), ("en-GB", "en"),
        ("de", "en"), ("est", "en"), ("zh-hans", "en"), ("-", "en"), ("", "en"), (None, "en"),
    ],
)  # fmt: skip
def test_language_of_a_user(telegram, ours):
    """A region does not matter; who speaks none of our languages is written to in English."""
    assert language_of(telegram) == ours
    assert translator(telegram or "").language == ours
