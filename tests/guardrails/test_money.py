"""Money is whole micro-dollars: exact, never a float, read and written without loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.money import ZERO, Money

MICROS = st.integers(-(10**15), 10**15)


@given(st.integers(0, 10**15 - 1))
def test_what_is_written_is_read_back(micros: int):
    """`str` and `parse` are each other's inverse, to the last micro-dollar."""
    assert Money.parse(str(Money(micros))) == Money(micros)


@given(MICROS, MICROS, st.integers(-1000, 1000))
def test_arithmetic_is_exact(one: int, other: int, times: int):
    """Sums, differences and products are those of the whole numbers."""
    assert (Money(one) + Money(other)).micros == one + other
    assert (Money(one) - Money(other)).micros == one - other
    assert (Money(one) * times).micros == one * times
    assert (Money(one) < Money(other)) == (one < other)
    assert bool(Money(one)) == (one != 0)


@pytest.mark.parametrize("value", [1.0, 0.1, True, "3", None])
def test_only_whole_numbers_are_money(value):
    """A float, a truth value or a text is refused where it would become money."""
    with pytest.raises(TypeError, match="whole numbers"):
        Money(value)


@pytest.mark.parametrize("value", [1.5, 0.0, 2])
def test_nothing_but_money_is_added_or_compared(value):
    """Adding or comparing with a bare number raises, so that no unit is guessed."""
    for use in (Money.__add__, Money.__sub__):
        with pytest.raises((TypeError, AttributeError)):
            use(Money(1), value)
    with pytest.raises(TypeError):
        assert Money(1) < value
    with pytest.raises(TypeError, match="whole numbers"):
        Money(1) * 1.5


@pytest.mark.parametrize(
    ("text", "micros"),
    [("$3", 3_000_000), ("3.00", 3_000_000), ("$0.375", 375_000), (" $0.000001 ", 1), ("0", 0)],
)
def test_dollars_are_read(text: str, micros: int):
    """Dollars as people write them."""
    assert Money.parse(text) == Money(micros)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "-1",
        "$-1",
        "1.",
        ".5",
        "1e3",
        "0.0000001",
        "1,000",
        "٣",
        "３",
        "$3\n$4",
        "1" * 10,
        "nan",
        "3 $",
    ],
)
def test_anything_else_is_refused(text: str):
    """What is not an amount with at most six decimals is refused, and the value is quoted."""
    with pytest.raises(ValueError, match="is not an amount of dollars") as caught:
        Money.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "$0.00"), (3_000_000, "$3.00"), (375_000, "$0.375"), (1, "$0.000001"), (-1_500_000, "-$1.50")],
)
def test_people_read_dollars(micros: int, text: str):
    """Two decimals, and more only where there are more."""
    assert str(Money(micros)) == text
    assert (Money(micros) == ZERO) == (micros == 0)
