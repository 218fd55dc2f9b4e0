"""Declared limits are parsed exactly, and errors name the value and what is allowed."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from guardrails.money import Money
from guardrails.policy import Allowance, Approval, Breaker, Budget, GuardPolicy, Rate, parse_duration

DAY = 24 * 3600


def policy(**said):
    return GuardPolicy.model_validate({"once": "per_request", **said})


def refusal(**said) -> str:
    with pytest.raises(ValidationError) as caught:
        policy(**said)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "written", "read"),
    [
        ("quota", "5/day", Rate(count=5, window_s=DAY)),
        ("quota", "5/1day", Rate(count=5, window_s=DAY)),
        ("quota", "100000/31day", Rate(count=100_000, window_s=31 * DAY)),
        ("quota", "1/h", Rate(count=1, window_s=3600)),
        ("quota", "3/5m", Rate(count=3, window_s=300)),
        ("cooldown", "10m", 600),
        ("cooldown", "30s", 30),
        ("cooldown", "744h", 31 * DAY),
        ("breaker", {"user": "3/5m"}, Breaker(user=Rate(count=3, window_s=300))),
        (
            "budget",
            {"user": "$15/day", "everyone": "$0.5/h"},
            Budget(
                user=Allowance(money=Money(15_000_000), window_s=DAY),
                everyone=Allowance(money=Money(500_000), window_s=3600),
            ),
        ),
        ("content", "video", "video"),
        ("approval", "never", Approval(mode="never")),
        ("approval", "over $3", Approval(mode="over", over=Money(3_000_000))),
    ],
)
def test_a_limit_is_read_exactly(field, written, read):
    """Written limits become integers: counts, seconds, micro-dollars."""
    assert getattr(policy(**{field: written}), field) == read


@pytest.mark.parametrize(
    ("field", "written", "words"),
    [
        ("quota", "0/day", "'0/day' does not count"),
        ("quota", "-1/day", "'-1/day' does not count"),
        ("quota", "1.5/day", "'1.5/day' does not count"),
        ("quota", "٥/day", "does not count with a whole number"),
        ("quota", "100001/day", "from 1 to 100000"),
        ("quota", "9" * 5000 + "/day", "from 1 to 100000"),
        ("quota", "5/week", "units: s, m, h, day"),
        ("quota", "5/0m", "'5/0m' is not written like '5/day'"),
        ("quota", "5/32day", "longer than 31 days"),
        ("quota", "5 / day", "is not written like"),
        ("quota", "5/day/h", "is not written like"),
        ("quota", "5", "is not written like"),
        ("quota", 5, "5 is not written like"),
        ("quota", True, "True is not written like"),
        ("quota", ["5/day"], "is not written like"),
        ("cooldown", "10", "'10' is not a length of time such as '10m'"),
        ("cooldown", "m", "is not a length of time"),
        ("cooldown", "0m", "is not a length of time"),
        ("cooldown", "-10m", "is not a length of time"),
        ("cooldown", "1.5h", "is not a length of time"),
        ("cooldown", "745h", "longer than 31 days"),
        ("cooldown", 600, "600 is not a length of time"),
        ("cooldown", 1.5, "1.5 is not a length of time"),
        ("breaker", {"anyone": "3/5m"}, "'anyone' is not known here; known: user, everyone"),
        ("breaker", {}, "limits no one"),
        ("breaker", "3/5m", "'3/5m' is not a set of fields"),
        ("breaker", {"user": "$3/5m"}, "does not count"),
        ("budget", {"user": "15/day"}, "not an amount of dollars such as '$15/day'"),
        ("budget", {"user": "$0/day"}, "above $0"),
        ("budget", {"user": "$-1/day"}, "is not an amount of dollars"),
        ("budget", {"user": "$0.0000001/day"}, "is not an amount of dollars"),
        ("budget", {"everyone": 15.0}, "15.0 is not written like '$15/day'"),
        ("content", "films", "'video'"),
        ("approval", "sometimes", "known: never, always, over $N"),
        ("approval", "over 3", "known: never, always, over $N"),
        ("approval", "over $0", "write 'always'"),
        ("approval", False, "False is not known"),
        ("once", "per_user", "'per_request'"),
        ("qouta", "5/day", "known: once, quota, cooldown, breaker, budget, content, approval, changes"),
    ],
)
def test_a_refusal_names_the_value_and_what_is_allowed(field, written, words):
    """Zero, negative, fractional, unitless, unknown and very large limits are refused with a reason."""
    assert words in refusal(**{field: written})


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.lists(st.text()), st.booleans()))
def test_nothing_that_is_written_breaks_a_parser(value):
    """Any value in a declaration is parsed or raises ValueError, and nothing else."""
    for parse in (Rate.parse, Allowance.parse, Approval.parse, parse_duration):
        with suppress(ValueError):
            parse(value)


@given(st.integers(1, 100_000), st.integers(1, 44_640))
def test_counts_and_windows_are_never_rounded(count, minutes):
    """Parsing keeps the written numbers exactly."""
    assert Rate.parse(f"{count}/{minutes}m") == Rate(count=count, window_s=60 * minutes)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "no tool without guards"),
        ({"quota": "5/day"}, "no tool without guards"),
        ({"changes": "nothing", "quota": "5/day"}, "excludes other guards; remove quota"),
        ({"changes": "nothing", "once": "per_request"}, "excludes other guards; remove once"),
        ({"changes": "everything"}, "'nothing'"),
    ],
)
def test_no_tool_without_guards(said, words):
    """A tool declares `once`, or `changes: nothing` alone."""
    with pytest.raises(ValidationError, match="1 validation error") as caught:
        GuardPolicy.model_validate(said)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("approval", "asks"),
    [
        (None, (False, False, False)),
        ("never", (False, False, False)),
        ("always", (True, True, True)),
        ("over $3", (False, False, True)),
    ],
)
def test_approval_is_asked_above_the_amount_not_at_it(approval, asks):
    """`over $3` does not ask at $3.00 and asks at $3.000001."""
    declared = policy(approval=approval) if approval else policy()
    prices = (Money(0), Money(3_000_000), Money(3_000_001))
    assert tuple(declared.needs_approval(price) for price in prices) == asks


def test_a_policy_cannot_change_after_it_was_read():
    """Every part of a policy is frozen."""
    declared = policy(quota="5/day", breaker={"user": "3/5m"})
    for part in (declared, declared.quota, declared.breaker):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, next(iter(type(part).model_fields)), None)


def test_an_absent_limit_is_none_and_the_others_are_listed():
    """Everything but `once` is optional; `declared_fields` lists what was declared, in the class's order."""
    declared = policy(cooldown="10m", quota="5/day")
    assert declared.declared_fields() == ("once", "quota", "cooldown")
    assert (declared.breaker, declared.budget, declared.content, declared.approval) == (None,) * 4
