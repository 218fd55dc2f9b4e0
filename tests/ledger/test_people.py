"""What a person has set: read, changed by column, taken back, forgotten."""

import asyncio

import pytest

from guardrails.money import Money
from ledger import people
from ledger.database import Ledger
from ledger.people import Person

pytestmark = pytest.mark.any_ledger


async def test_nothing_is_set_at_first(ledger: Ledger):
    """Nothing is asked less, or said in another language, until a person says so."""
    assert await people.find(ledger, 7) == Person(7)


async def test_what_is_named_is_set_and_the_rest_stays(ledger: Ledger):
    """Columns that are not named keep their value; None takes one back."""
    limit = Money.parse("$2.50")
    assert await people.save(ledger, 7, ask_below=limit) == Person(7, ask_below=limit)
    await people.save(ledger, 7, language="es", sound=False, default_seconds=4, default_size="720x1280")
    await people.save(ledger, 8, style="noir")
    assert await people.find(ledger, 7) == Person(7, "es", limit, 4, "720x1280", sound=False)
    assert (await people.save(ledger, 7, ask_below=None)).ask_below is None
    assert (await people.find(ledger, 7)).language == "es"
    assert await people.find(ledger, 8) == Person(8, style="noir")


async def test_two_at_once_lose_nothing(ledger: Ledger):
    await asyncio.gather(people.save(ledger, 7, language="pt"), people.save(ledger, 7, sound=True))
    assert await people.find(ledger, 7) == Person(7, "pt", sound=True)


async def test_a_person_is_forgotten(ledger: Ledger):
    await people.save(ledger, 7, language="pt")
    assert await people.forget(ledger, 7)
    assert not await people.forget(ledger, 7)
    assert await people.find(ledger, 7) == Person(7)
