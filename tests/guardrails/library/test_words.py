"""What a guarded tool says: true for any tool, no invitation to call again, and no ids in logs and spans."""

import json
import logging
import re
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guardrails import Event, Guard, NotSent
from guardrails.library import words
from guardrails.library.claims import Claim, Exceeded
from tests.support.guarded_agents import Provider, run_agent

KINDS = ["memory"]
CLAIM = Claim(key="k", namespace="n", tool="t", act="r", item="i", user="u", result='"paid"', digest="other")
EVERY = {
    "replayed": words.replayed(CLAIM, "mine"),
    "in_flight": words.in_flight(CLAIM),
    "unknown": words.unknown(CLAIM, is_checked=True),
    "unknown_for_a_person": words.unknown(CLAIM, is_checked=False),
    "unknown_end": words.unknown_end(is_checked=True),
    "not_sent": words.not_sent("the amount is 0."),
    "not_sent_silent": words.not_sent(""),
    "did_not_happen": words.did_not_happen(),
    "malformed": words.malformed("item: Field required"),
    "no_request": words.no_request(),
    "closed": words.closed(),
    **{
        word: words.exceeded(Exceeded(word, 1000, 1, 2, 86_400, everyone=everyone, until=61_000))
        for word in ("quota", "cooldown", "budget") for everyone in (False, True)
    },
}  # fmt: skip
INVITES = re.compile(r"try again|retry|once more|call (?:it|this tool) again(?!\.)", re.IGNORECASE)
DID_NOTHING = ("replayed", "in_flight", "not_sent", "malformed", "closed", "quota", "cooldown", "budget")


@pytest.mark.parametrize("name", EVERY)
def test_no_sentence_invites_a_retry(name):
    """The only words about another call forbid it, and nothing is said of videos or orders."""
    text = EVERY[name]
    assert not INVITES.search(text.replace("do not call this tool for it again", ""))
    assert not re.search(r"video|order|fail|error", text, re.IGNORECASE)
    assert "\n" not in text
    assert text.endswith((".", "paid"))


@pytest.mark.parametrize("name", DID_NOTHING)
def test_who_did_nothing_says_so(name):
    """A call that had no effect says so."""
    assert re.search(r"[Tt]his call did nothing|Nothing was (?:done|sent)", EVERY[name])


@pytest.mark.parametrize("name", ["unknown", "unknown_for_a_person", "unknown_end"])
def test_unknown_is_never_called_a_failure(name):
    """What may have happened is said to be unknown, and not that nothing was done."""
    assert "outcome is unknown: it may have taken effect" in EVERY[name]
    assert "Nothing" not in EVERY[name]


def test_a_reason_is_one_bounded_line():
    """What a body says cannot fill the model's context, nor pretend to be another message."""
    text = words.not_sent("a\n\nb " + "x" * 5000)
    assert "a b xxx" in text
    assert len(text) < 500


async def test_ids_of_any_shape_stay_out_of_logs_spans_and_events(make_guard, caplog, monkeypatch):
    """Ids of acts and users may name people: only a digest is shown, in every kind of decision."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("guardrails.library.events.trace.get_tracer", provider.get_tracer)
    seen: list[Event] = []
    guard = await make_guard(on_event=seen.append)
    act, user, secret = "eva@example.org/order 17", "eva@example.org", "4111-1111"

    @guard.tool(quota="3/day")
    async def pay(ctx, card: str) -> str:
        if card == "raise":
            raise ValueError(secret)
        if card == "no":
            raise NotSent("no funds")
        return "paid"

    caplog.set_level(logging.DEBUG, "guardrails")
    with provider.get_tracer("t").start_as_current_span("run"):
        for suffix, cards in (
            ("", [secret, secret]),
            ("b", ["no"]),
            ("c", ["raise", "raise"]),
            ("d", [secret]),
        ):
            await run_agent(guard, pay, act + suffix, *[[{"card": one}] for one in cards], user=user)
        for n in range(3):
            await run_agent(guard, pay, f"{act}{n}", [{"card": secret}], [{}], user=user)
    spans = json.dumps([json.loads(one.to_json()) for one in exporter.get_finished_spans()])
    logged = " ".join(f"{one.getMessage()} {vars(one)}" for one in caplog.records if "guardrails" in one.name)
    for text in (spans, logged, repr(seen)):
        assert not [one for one in (act, user, secret) if one in text]
    assert {one.word for one in seen} == {
        "admitted", "done", "replayed", "not_sent", "unknown", "quota", "malformed"
    }  # fmt: skip
    assert {"guardrail admitted", "guardrail quota"} <= set(re.findall(r"guardrail \w+", spans))
    assert len({one.request for one in seen}) == 7


async def test_a_callback_that_raises_changes_nothing(make_guard, provider: Provider):
    """The host's callback may fail; the decision stays."""

    def broken(event: Event) -> None:
        raise RuntimeError

    guard = await make_guard(on_event=broken)

    @guard.tool
    async def pay(ctx, item: str) -> str:
        return provider.take(item)

    assert await run_agent(guard, pay, "r1", [{"item": "A"}]) == ["refunded A"]


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        ({"once": "per_day"}, "known: per_request, per_key, per_request_and_key"),
        ({"once": "per_key"}, "needs key="),
        ({"once": "per_request_and_key"}, "needs key="),
        ({"budget": "$5/day"}, "needs cost="),
        ({"quota": "five"}, "is not written like '5/day'"),
        ({"cooldown": "soon"}, "is not a length of time such as '10m'"),
        ({"cost": "3 EUR"}, "is not an amount of dollars"),
        ({"wait": "10 parsecs"}, "is not a length of time such as '10s'"),
        ({"wait": -1}, "is not a length of time"),
        ({"lease": "1ms"}, "the shortest is 0.2 s"),
    ],
)
def test_a_term_that_cannot_be_read_stops_at_the_definition(terms: dict[str, Any], problem):
    """The message names the value and what is known."""
    guard = Guard.in_memory()
    with pytest.raises(ValueError, match=re.escape(problem)):

        @guard.tool(**terms)
        async def pay(ctx, item: str) -> str:
            return item


def test_two_tools_of_one_name_are_refused():
    """Two tools of one name would share their claims."""
    guard = Guard.in_memory()

    @guard.tool
    def pay(item: str) -> str:
        return item

    with pytest.raises(ValueError, match="'pay' is armed already"):
        guard.arm(pay)


@pytest.mark.parametrize("bad", ["key", "cost"])
async def test_terms_that_raise_refuse_the_call(guard, provider, bad):
    """A key= or cost= that fails on some arguments refuses them before anything is claimed."""

    @guard.tool(**{bad: lambda a: 1 / 0})
    async def pay(ctx, item: str) -> str:
        return provider.take(item)

    (answer,) = await run_agent(guard, pay, "r1", [{"item": "A"}])
    assert answer.startswith("The arguments cannot be used: they ")
    assert provider.effects == []
