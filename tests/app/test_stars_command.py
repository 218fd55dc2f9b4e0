"""Settings of credits for Stars, what the doctor says of them, and `python -m bot stars`."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from aiogram.types import LabeledPrice
from pydantic import SecretStr
from rich.console import Console

from app.doctor import check_stars
from app.settings import SettingsError, read_settings
from app.stars_command import stars
from chat import star_payments
from chat.star_payments import payment_of
from chat.star_shop import Pack, new_payload, parse_packs, read_payload
from ledger.database import Ledger
from ledger.star_payments import record
from sandbox.telegram import BotApiServer
from tests.support.bot_api import bot_of

ANA, PACK = 1001, Pack(3, 750)


def given(**more):
    return read_settings(_env_file=None, **more)


def test_off_nothing_is_on_sale():
    """STARS is off unless it is set."""
    assert given().star_shop is None
    assert [one.credits for one in given(stars="on").star_shop.packs] == [3, 10, 25]


@pytest.mark.parametrize(
    ("packs", "why"),
    [
        ("3:750,10:2400", "is not 3 packs"),
        ("3:750,3:800,10:2400", "is not 3 packs of different sizes"),
        ("3:750,10:2400,x", "'x' is not CREDITS:STARS"),
        ("0:750,10:2400,25:5700", "out of range"),
        ("3:750,10:2400,25:10001", "out of range"),
    ],
)
def test_wrong_packs_are_refused(packs, why):
    """The sentence names the variable, what was found, and what to write."""
    with pytest.raises(SettingsError, match=f"STAR_PACKS: .*{why}"):
        given(star_packs=packs)


def test_packs_are_sorted_and_payloads_are_ours_alone():
    """A payload says for whom and what was promised; anything else is none."""
    assert parse_packs("10:2400 3:750, 25:5700")[0] == PACK
    payload = new_payload(PACK, ANA)
    assert len(payload.encode()) <= 128
    assert payload != new_payload(PACK, ANA), "two invoices are two"
    found = read_payload(payload)
    assert (found.pack, found.user_id) == (PACK, ANA)
    for other in ("", "order:1", payload + "0", payload.replace("credits", "credit")):
        assert read_payload(other) is None


@pytest.mark.parametrize(
    ("more", "health", "word"),
    [
        ({}, "well", "STARS is off"),
        ({"stars": "on", "admins": frozenset({1})}, "well", "3 for 750"),
        ({"stars": "on"}, "look", "ADMINS"),
        ({"stars": "on", "star_prices_of": timedelta(days=-91)}, "look", "91 days ago"),
        ({"stars": "on", "star_prices_of": timedelta(days=2)}, "look", "day of the future"),
    ],
)
async def test_the_doctor_reminds_of_old_prices(more, health, word):
    """What a Star brings and a video costs changes, so prices have a date."""
    day = more.get("star_prices_of", timedelta())
    more = more | {"star_prices_of": datetime.now(UTC).date() + day}
    found = await check_stars(given(**more))
    assert found.health == health
    assert word in found.words


async def test_the_command_compares_to_the_star(ledger: Ledger, ledger_url: str, monkeypatch):
    """It names a payment without a row, and changes nothing; then all agrees."""
    monkeypatch.setattr(star_payments, "SETTLED_S", -5)
    async with BotApiServer() as api, bot_of(api) as bot:
        await api.user(ANA, "Ana").send("/start")
        payload = new_payload(PACK, ANA)
        sent = await bot.send_invoice(
            ANA, title="x", description="x", payload=payload, currency="XTR", provider_token="",
            prices=[LabeledPrice(label="x", amount=PACK.stars)],
        )  # fmt: skip
        query = await api.user(ANA).pay(sent.message_id)
        await bot.answer_pre_checkout_query(query, ok=True)
        charge = (await api.user(ANA).wait_for_payment(query))["charge_id"]
        settings = given(
            database_url=SecretStr(ledger_url), telegram_bot_token=SecretStr(api.token),
            telegram_api_url=api.base_url,
        )  # fmt: skip
        for _ in range(2):
            console = Console(file=io.StringIO(), width=200)
            await stars(settings, console)
            assert f"payment {charge} of 750 Stars has no row" in console.file.getvalue()
        await record(ledger, payment_of(bot.id, ANA, charge, payload, 750, 0), "en")
        console = Console(file=io.StringIO(), width=200)
        await stars(settings, console)
        assert "agree" in console.file.getvalue()
        assert "750" in console.file.getvalue()


async def test_without_a_token_there_is_no_list():
    """One sentence says what is missing."""
    with pytest.raises(SettingsError, match="TELEGRAM_BOT_TOKEN"):
        await stars(given(), Console(file=io.StringIO()))
