"""Texts: complete in every language, true to the ledger, and valid Telegram HTML."""

import ast
import re
import shutil
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat import i18n, status_message
from chat.dispatcher import ADMIN_MENU, MENU
from chat.handlers.payments import STAR_MENU
from chat.i18n import LANGUAGES, LocaleError, check_locales, language_of, translator
from chat.offer_text import OfferFacts
from guardrails.content.verdict import SEVERITY, ContentCategory
from guardrails.limits import AdmissionVerdict, Limits, Usage
from guardrails.money import Money
from ledger.failures import REASONS, Failure
from ledger.models import UNPAID_END_STATES, Request, RequestState, Video, VideoState
from providers.base import RejectedFor
from sandbox.preview.provider import CAPABILITIES
from tests.support.text_checks import CHAT, FORMS, HOSTILE, WORDS, every_language, fields_of, read
from tools.model_prices import CapReason
from tools.offer import APPROVAL_TIMEOUT_S, ORDER_TIMEOUT_S

UNKNOWN_OUTCOMES = {"in_doubt", "cannot_ask", "no_provider", "account_unknown"}


def rendered(code, name, value):
    values = dict.fromkeys(fields_of(WORDS["en"][name]), value)
    return translator(code)(name, **values | ({"count": 5} if name in FORMS["en"] else {}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the locales that a test may break."""
    copy = shutil.copytree(CHAT / "locales", tmp_path / "locales")
    monkeypatch.setattr(i18n, "_FOLDER", copy)
    i18n._read.cache_clear()
    yield copy
    i18n._read.cache_clear()


def test_the_html_reader_is_strict():
    """The parser of these tests refuses what Telegram refuses."""
    broken = (
        "<u>x</u>",
        "<b>x",
        "x</b>",
        "<b><i>x</b></i>",
        "a & b",
        "a < b",
        "<b/>",
        "&nbsp;",
        "x<b",
        "<!-- -->",
    )
    for html in (*broken, '<b class="x">y</b>', "<a>y</a>"):
        with pytest.raises(AssertionError):
            read(html)
    assert read('<b>a</b> &lt;&amp; <a href="https://x">ö</a> &#x27;') == "a <& ö '"


def test_all_languages_have_the_same_texts():
    """Every language has the names and placeholders of English, and nothing else."""
    check_locales()
    for code in LANGUAGES:
        assert WORDS[code].keys() == WORDS["en"].keys()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('tap_gone: "', 'tap_went: "', "tap_gone.*one language only"),
        ("{price}", "{prize}", "fills"),
        ("{price}", "{}", "not a name"),
        ("{price}", "{price", "not a text template"),
        ("unit_day: d", "unit_day: no", "unit_day is not a text template"),
        ("unit_day: d", "unit_day: 1", "unit_day is not a text template"),
    ],
)
def test_a_broken_language_stops_the_start(folder, old, new, why):
    """A missing name, another placeholder, a lone brace, a YAML boolean: found at start, not by a user."""
    file = folder / "pt.yaml"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(LocaleError, match=f"pt.yaml: .*{why}" if "one language" not in why else why):
        check_locales()


@every_language
def test_no_name_is_used_twice(code):
    """No text name occurs twice: YAML would silently keep the last one."""
    names = re.findall(r"(?m)^(\w+):", (CHAT / "locales" / f"{code}.yaml").read_text("utf-8"))
    assert len(names) == len(set(names)) == len(WORDS[code])


@every_language
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_no_value_writes_markup(code, value):
    """Text of a user, a model or a provider appears as written, never as markup."""
    for name, text in WORDS[code].items():
        filled = [one for one in fields_of(text) if one != "count" or name not in FORMS[code]]
        assert read(rendered(code, name, value)).count(value) >= len(filled), name


@every_language
def test_every_plural_has_its_form(code):
    """A text that counts has a form for one and a general one, and takes that of its number."""
    assert len(FORMS[code]) > 4
    t = translator(code)
    for name, forms in FORMS[code].items():
        assert sorted(forms) == ["one", "other"], name
        values = dict.fromkeys(fields_of(forms["other"]), "x")
        one, five = (t(name, **values | {"count": count}) for count in (1, 5))
        assert one == forms["one"].format(**values | {"count": 1})
        assert five == forms["other"].format(**values | {"count": 5})
        assert one != five.replace("5", "1"), f"{name}: its forms do not differ"


@pytest.mark.parametrize(
    ("micros", "said"),
    [
        (3_000_000, ("US$3.00", "US$\u00a03,00")),
        (375_000, ("US$0.375", "US$\u00a00,375")),
        (1_234_500_000, ("US$1,234.50", "US$\u00a01.234,50")),
    ],
)
def test_money_is_written_as_natives_do(micros, said):
    """ "$" alone is the peso in most countries that speak Spanish."""
    english, spanish = said
    found = [translator(code).money(Money(micros)) for code in ("en", "es", "pt")]
    assert found == [english, spanish, spanish]


@every_language
def test_texts_that_hold_texts_are_html(code):
    """/help takes the prices as HTML whose values are already escaped."""
    t = translator(code)
    for value in HOSTILE:
        assert value in read(t.html("help", prices=t("prices", list=value, count=5, window=value)))


@every_language
def test_plain_texts_hold_no_markup(code):
    """Texts that Telegram does not parse (taps, buttons, menu), or that are escaped again, have no markup."""
    for name, text in WORDS[code].items():
        if name.partition("_")[0] in {"tap", "button", "menu", "category", "state", "when", "unit"}:
            assert not set("<>&") & set(text), name
    assert not set("<>&") & set(WORDS[code]["not_allowed"]), "it answers taps as well"


@every_language
def test_the_welcome_is_short(code):
    """A newcomer reads at most 45 words, with the note of the sandbox."""
    words = read(" ".join(WORDS[code][name] for name in ("start", "start_price", "preview_note"))).split()
    assert len(words) <= 45


@every_language
def test_limits_of_telegram(code):
    """A callback answer has at most 190 characters, a menu text 100."""
    limits = {"tap": 190, "menu": 100}
    for name, text in WORDS[code].items():
        assert 0 < len(text) <= limits.get(name.partition("_")[0], 1000), name
    assert len(translator(code)("not_allowed", user_id=2**53)) <= 190
    assert {f"menu_{name}" for name in (*MENU, *ADMIN_MENU, *STAR_MENU)} == {
        name for name in WORDS[code] if name.startswith("menu_")
    }


@every_language
def test_same_commands_figures_and_emphasis(code):
    """A translation has the same commands, figures and emphasis."""
    marks = re.compile(r"/[a-z]+|\d+|<\w+>")
    assert FORMS[code].keys() == FORMS["en"].keys()
    for name, text in WORDS[code].items():
        assert sorted(marks.findall(text)) == sorted(marks.findall(WORDS["en"][name])), name


AGAIN = {"en": r"send .*again", "es": r"env[ií]\w* .*de nuevo|volver a enviar", "pt": r"envi\w+ .*de novo"}


@every_language
def test_all_languages_invite_to_a_retry_in_the_same_texts(code):
    """The same texts invite to a retry in every language; none does after an unknown outcome or a payment."""
    asked = {
        one: {name for name, text in WORDS[one].items() if re.search(AGAIN[one], text, re.IGNORECASE)}
        for one in ("en", code)
    }
    assert asked[code] == asked["en"]
    assert len(asked["en"]) > 10
    assert not asked[code] & {"in_doubt", "hold", "failed_paid", "failed_policy", "refused_content"}
    assert not asked[code] & {"refused_quota", "refused_cooldown", "refused_breaker", "refused_budget"}


@every_language
def test_every_state_and_reason_has_a_text(code):
    """Every state, failure, refusal and category that can be stored has a text."""
    t = translator(code)
    names = [f"state_{one}" for one in (*RequestState, *VideoState)]
    names += [
        status_message.reason_text(VideoState(state), one)
        for state, failures in REASONS.items()
        for one in (*failures, None)
    ]
    names += [f"refused_{one}" for one in (*status_message._REFUSALS, "content", "content_closed")]
    names += [f"category_{one}" for one in get_args(ContentCategory)]
    assert [name for name in names if not t.has(name)] == []
    assert set(SEVERITY) == set(get_args(ContentCategory))


def test_the_status_message_knows_every_reason():
    """Reasons of providers and of admission reach the user as such, not as a general failure."""
    assert {*get_args(RejectedFor)} <= REASONS["FAILED_UNPAID"]
    assert {*get_args(AdmissionVerdict), *get_args(CapReason), "busy"} - {
        "admitted",
        "replay",
        "content",
    } == status_message._REFUSALS


def text_calls():
    """Yield each call `t("name", field=…)` in chat/: file and line, name, fields; None for `**fields`."""
    for path in CHAT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=func, args=[ast.Constant(value=name)], keywords=keywords):
                    if ast.unparse(func) in ("t", "t.html"):
                        filled = {keyword.arg for keyword in keywords}
                        yield f"{path.name}:{node.lineno}", name, None if None in filled else filled


def test_the_code_fills_every_placeholder():
    """No call names a missing text or leaves a placeholder open."""
    asked = list(text_calls())
    assert len(asked) > 30
    for where, name, filled in asked:
        assert name in WORDS["en"], where
        assert filled is None or filled >= set(fields_of(WORDS["en"][name])), where


MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
UNPAID = {
    "en": r"nothing (was |is )?(made or )?charged",
    "es": r"(no|ni) se (cobró|cobra) nada",
    "pt": r"nada (foi|é) (feito nem )?cobrado",
}


def blank(row, **values):
    """Return a row of which only `values` matter."""
    return replace(row(**{one.name: None for one in fields(row)}), **values)


def request(code, **values):
    values = {"state": RequestState.ORDERED, "attempts": 1, "idea": HOSTILE[0]} | values
    return blank(Request, request_id="tg:1:-:7:1", language=code, **values)


def video(state, **values):
    return blank(
        Video, request_id="tg:1:-:7:1", state=state, seconds=8, size="720x1280", prompt=HOSTILE[0],
        quote_micros=3_000_000, progress=40, **values,
    )  # fmt: skip


def status_text(code, request_state, video_state=None, charged="$0", **values):
    row = None if video_state is None else video(video_state, failure=values.pop("failure", None))
    limits = Limits(quota=5, user_budget=Money.parse("$15"))
    offer = OfferFacts(CAPABILITIES, Usage(1, Money.parse("$3"), ()), APPROVAL_TIMEOUT_S // 60)
    facts = status_message.Facts(now=0, charged=Money.parse(charged), limits=limits, offer=offer)
    return read(status_message.render(request(code, state=request_state, **values), row, facts).text)


@every_language
def test_every_state_renders(code):
    """Every state of a request and of a video, and every reason, becomes a message that Telegram accepts."""
    for state in RequestState:
        for reason in (
            None,
            *status_message._NO_ORDER_REASONS,
            *status_message._REFUSALS,
            "content:hate",
            "content:?",
            "new",
        ):
            for until in (None, 3 * HOUR):
                quote = "<u>&"
                said = status_text(
                    code, state, reason=reason, reason_until=until, reason_quote=quote, attempts=2
                )
                assert said
    for state in VideoState:
        for failure in (None, "new", *Failure):
            assert status_text(code, RequestState.ORDERED, state, failure=failure)


@every_language
def test_an_offer_names_style_sound_and_what_to_avoid(code):
    """Each where it is chosen; the model's words are escaped, and the style's sentence is not quoted."""
    t = translator(code)
    chosen = video(
        VideoState.AWAITING_APPROVAL, style="clay", style_prompt="In clay.", sound=0, avoid="<b>people</b>"
    )
    offer = OfferFacts(CAPABILITIES, Usage(1, Money.parse("$3"), ()), 15)
    facts = status_message.Facts(now=0, charged=Money(0), offer=offer)
    row = replace(chosen, prompt="a fox In clay.")
    text = status_message.render(request(code), row, facts).text
    for said in (
        t("offer_style", style=t("style_clay")), t("offer_silent"), t("offer_avoid", words="<b>people</b>"),
    ):  # fmt: skip
        assert said in text
    assert "&lt;b&gt;people" in text
    assert "In clay." not in text


@every_language
def test_an_end_without_payment_says_so(code):
    """A user reads "nothing was charged" only where it is true; a charge is shown with the booked amount."""
    for state in UNPAID_END_STATES:
        for failure in (None, *Failure):
            said = status_text(code, RequestState.ORDERED, state, failure=failure)
            assert re.search(UNPAID[code], said, re.IGNORECASE), said
            assert "$" not in said
    for state in (RequestState.NO_ORDER, RequestState.CANCELLED):
        assert re.search(UNPAID[code], status_text(code, state), re.IGNORECASE)
    for state in (*UNPAID_END_STATES, RequestState.REFUSED, RequestState.NO_ORDER):
        said = WORDS[code][f"state_{state}"]
        assert state == RequestState.REFUSED or re.search(UNPAID[code], said, re.IGNORECASE), said
    paid = status_text(code, RequestState.ORDERED, VideoState.FAILED_PAID, charged="$2.50")
    assert translator(code).money(Money.parse("$2.50")) in paid
    assert not re.search(UNPAID[code], paid, re.IGNORECASE)


@every_language
def test_a_price_appears_only_where_it_is_known(code):
    """Only the offer, the order and booked charges have a price; no text has an amount of its own."""
    named = {name for name, text in WORDS[code].items() if "price" in fields_of(text)}
    assert named == {
        "offer_price", "offer_changed", "queued", "queued_behind", "queued_no_worker", "button_make",
        "button_again",
        "button_only_words", "delivered_line", "delivered_preview", "option_seconds", "tap_chosen",
        "tap_costs_more", "failed_paid", "late_charge", "corrected", "stuck", "cancel_paid", "cancel_sending",
        "button_still", "still_queued", "still_waiting", "still_failed_paid", "still_delivered_line",
        "still_delivered_preview",
        *(f"paid_{failure}" for failure in REASONS["FAILED_PAID"]),
        # Those of a job that was charged; whether the others were is what has to be found out.
        *(f"hold_{failure}" for failure in REASONS["HOLD"] - UNKNOWN_OUTCOMES),
    }  # fmt: skip
    assert [name for name, text in WORDS[code].items() if "$" in text] == []


@every_language
def test_only_delivered_videos_are_called_ready(code):
    """Only texts of a delivered video say that something is done or ready."""
    said = re.compile(
        r"\b(done|ready|hech[oa]|list[oa]|pront[oa]|delivered|entregad[oa]|entregue)\b", re.IGNORECASE
    )
    found = {name for name, text in WORDS[code].items() if said.search(re.sub(r"{\w+}", "", text))}
    # /start describes what will happen; state_SUCCEEDED says that the video is being delivered.
    assert found - {"start"} <= {
        "ready", "ready_late", "ready_scheduled", "delivered", "state_DELIVERED", "state_SUCCEEDED",
        "still_ready",
    }  # fmt: skip
    assert not re.search(
        r"\b(delivered|entregad[oa]|entregue)\b", _without_in_progress(WORDS[code]["state_SUCCEEDED"])
    )


def _without_in_progress(text):
    """Return `text` without its phrase for a delivery in progress."""
    return re.sub(r"being delivered|por entregarse|sendo entregue", "", text)


@every_language
def test_announced_minutes_are_the_real_timeouts(code):
    """The offer and the queue expire when their texts say."""
    offered = status_text(code, RequestState.ORDERED, VideoState.AWAITING_APPROVAL)
    assert translator(code)("offer_open", minutes=APPROVAL_TIMEOUT_S // 60) in offered
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
def test_a_duration_is_readable(code, milliseconds, said):
    """A duration is days, hours and minutes, never less than a minute."""
    assert translator(code).duration(milliseconds) == said


@given(st.integers(-DAY, 400 * DAY))
def test_a_duration_is_never_too_short(milliseconds):
    """A user who waits as announced is never too early, and at most an hour too late."""
    units = {"d": DAY, "h": HOUR, "min": MINUTE}
    said = sum(
        int(n) * units[unit]
        for n, unit in re.findall(r"(\d+) (\w+)", translator("en").duration(milliseconds))
    )
    assert said >= MINUTE
    assert milliseconds <= said < max(milliseconds, 1) + (HOUR if milliseconds > DAY else MINUTE)


@pytest.mark.parametrize(("code", "said"), [("en", "in"), ("es", "en"), ("pt", "em")])
def test_when_is_readable(code, said):
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
def test_language_of_a_language_code(telegram, ours):
    """The region is ignored; unknown languages get English."""
    assert language_of(telegram) == ours
    assert translator(telegram or "").language == ours


OWN = re.compile(r"24|\bdays?\b|\b(al|del) día\b|\b(por|do) dia\b")
SPANS = {
    "en": {86_400: "24 hours", 172_800: "2 days", 90_000: "1 day 1 hour", 5400: "1 hour 30 minutes"},
    "es": {86_400: "24 horas", 172_800: "2 días", 90_000: "1 día 1 hora", 5400: "1 hora 30 minutos"},
    "pt": {86_400: "24 horas", 172_800: "2 dias", 90_000: "1 dia 1 hora", 90: "1 minuto 30 segundos"},
}


@every_language
def test_a_window_is_exact(code):
    """A rolling window is written exactly, and a day as 24 hours: it is not a calendar day."""
    assert {seconds: translator(code).window(seconds) for seconds in SPANS[code]} == SPANS[code]


WITHIN = {
    "en": {86_400: "in the last 24 hours", 604_800: "in the last 7 days", 1800: "in the last 30 minutes"},
    "es": {
        86_400: "en las últimas 24 horas",
        604_800: "en los últimos 7 días",
        1800: "en los últimos 30 minutos",
    },
    "pt": {86_400: "nas últimas 24 horas", 604_800: "nos últimos 7 dias", 1800: "nos últimos 30 minutos"},
}


@every_language
def test_a_window_that_ends_now_has_the_words_gender(code):
    """Hours are feminine in Spanish and Portuguese, days and minutes are not."""
    assert {seconds: translator(code).within(seconds) for seconds in WITHIN[code]} == WITHIN[code]


@every_language
def test_a_running_time_is_a_clock(code):
    """The time so far is a clock's; a usual time is rounded, and never nothing."""
    t = translator(code)
    assert [t.elapsed(one) for one in (0, 9.9, 70, 3601)] == ["0:00", "0:09", "1:10", "60:01"]
    assert re.match(r"10 ", t.about(1))
    assert re.match(r"3 min", t.about(171))


@every_language
def test_no_text_has_a_window_of_its_own(code):
    """Lengths of windows are in the declaration only."""
    assert [name for name, text in WORDS[code].items() if OWN.search(text)] == []


def test_no_text_is_unused():
    """Every text is used by name, by the first part of its name, or as a state."""
    code = "\n".join(path.read_text("utf-8") for path in CHAT.rglob("*.py"))
    quoted, begun = set(re.findall(r'["\'](\w+)["\']', code)), tuple(re.findall(r'f"(\w+_)\{', code))
    states = {str(state).lower() for state in (*VideoState, *RequestState)}
    assert {"quota_", "state_", "menu_"} <= set(begun)
    assert [name for name in WORDS["en"] if name not in quoted | states and not name.startswith(begun)] == []


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_text_has_a_name_twice(code):
    """YAML takes the last of two and says nothing; two branches may have given two texts one name."""
    path = Path(i18n.__file__).parent / "locales" / f"{code}.yaml"
    names = re.findall(r"^(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, times in Counter(names).items() if times > 1] == []
