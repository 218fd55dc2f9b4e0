"""What an order is made with: the idea's words, then its person's choices, then what the model wrote."""

from dataclasses import replace
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from guardrails.money import Money
from guardrails.policy import GuardPolicy
from ledger.models import Video
from ledger.people import Person
from providers.hosted import hosted_capabilities
from providers.pricing import ModelPrice, PriceList, Recipe
from tools import generate_video
from tools.offer import Offer
from tools.options import Options, options_of, wanted
from tools.preferences import Preferences, settle
from tools.styles import STYLES, with_style
from tools.wishes import Wish, wish_of

DIME, NICKEL = Money.parse("$0.10"), Money.parse("$0.05")
UPRIGHT, WIDE, FINE, SQUARE = "720x1280", "1280x720", "1080x1920", "720x720"
PRICES = PriceList(
    priced_on=date(2026, 11, 22), source="here",
    models={
        "m": ModelPrice(
            seconds=(4, 8, 12), per_second={UPRIGHT: DIME, WIDE: DIME, FINE: DIME * 2, SQUARE: DIME},
            silent_per_second={UPRIGHT: NICKEL, WIDE: NICKEL},
        )
    },
)  # fmt: skip
SWITCHED = Offer("p", "m", hosted_capabilities(PRICES, {"m": Recipe(sound="audio")}, ()), PRICES.quote, "p")
NO_SWITCH = Offer("p", "m", hosted_capabilities(PRICES, {}, ()), PRICES.quote, "p")
NOBODY = Person(7)


@pytest.mark.parametrize(
    ("idea", "person", "wrote", "found"),
    [
        ("a fox", {}, (8, UPRIGHT), (8, UPRIGHT)),
        ("a fox", {"default_seconds": 4}, (8, UPRIGHT), (4, UPRIGHT)),
        ("a fox, 12 seconds", {"default_seconds": 4}, (8, UPRIGHT), (12, UPRIGHT)),
        ("a fox, twelve seconds", {"default_seconds": 4}, (8, UPRIGHT), (12, UPRIGHT)),
        ("un zorro, doce segundos", {"default_seconds": 4}, (8, UPRIGHT), (12, UPRIGHT)),
        ("a fox, 20 seconds", {"default_seconds": 4}, (12, UPRIGHT), (12, UPRIGHT)),
        ("a fox", {"default_seconds": 5}, (8, UPRIGHT), (8, UPRIGHT)),
        ("a fox", {"default_size": WIDE}, (8, UPRIGHT), (8, WIDE)),
        ("a fox, vertical video", {"default_size": WIDE}, (8, WIDE), (8, UPRIGHT)),
        ("a fox, vertical video", {"default_size": FINE}, (8, WIDE), (8, FINE)),
        ("a fox", {"default_size": "9x16"}, (8, UPRIGHT), (8, UPRIGHT)),
        ("a fox, 16:9", {"default_seconds": 12}, (8, UPRIGHT), (12, WIDE)),
        ("a fox", {"default_seconds": 4, "default_size": WIDE}, (99, "huge"), (4, WIDE)),
        ("a fox", {}, (99, "huge"), (99, "huge")),
        ("a fox, 16:9", {"default_seconds": 4}, (99, "huge"), (4, WIDE)),
    ],
)
def test_length_and_size(idea: str, person: dict[str, Any], wrote: tuple[int, str], found: tuple[int, str]):
    """Words win; what is not on offer is left out; without both, the model's own values are used."""
    best = settle(SWITCHED, wish_of(idea), replace(NOBODY, **person), *wrote)
    assert (best.seconds, best.size) == found


@pytest.mark.parametrize(
    ("idea", "person", "sound", "style"),
    [
        ("a fox", {}, True, None),
        ("a fox", {"sound": False, "style": "anime"}, False, "anime"),
        ("a fox with sound", {"sound": False}, True, None),
        ("a fox without sound", {}, False, None),
        ("un zorro sin sonido", {"sound": True}, False, None),
        ("uma raposa sem som", {"sound": True}, False, None),
        ("a fox in watercolour", {"style": "anime"}, True, None),
        ("un zorro en acuarela", {"style": "clay"}, True, None),
        ("um desenho animado de uma raposa", {"style": "clay"}, True, None),
        ("a fox", {"style": "cubism"}, True, None),
    ],
)
def test_sound_and_style(idea: str, person: dict[str, Any], sound: bool, style: str | None):
    best = settle(SWITCHED, wish_of(idea), replace(NOBODY, **person), 8, UPRIGHT)
    assert (best.sound, best.style) == (sound, style)


def test_without_a_switch_there_is_no_choice_of_sound():
    quiet = replace(NOBODY, sound=False)
    assert settle(NO_SWITCH, Wish(sound=False), quiet, 8, UPRIGHT) == Preferences(8, UPRIGHT)


def test_a_size_without_a_silent_price_is_not_ordered_silent():
    """What cannot be made as chosen is made in a size that can; else with sound."""
    quiet = replace(NOBODY, sound=False, default_size=FINE)
    assert settle(SWITCHED, Wish(), quiet, 8, UPRIGHT) == Preferences(8, UPRIGHT, sound=False)
    assert settle(SWITCHED, Wish(), quiet, 8, FINE) == Preferences(8, FINE, sound=True)


def video(**values: Any) -> Video:
    blank = dict.fromkeys(Video.__dataclass_fields__) | {"options_open": 0}
    return Video(**blank | {"seconds": 8, "size": UPRIGHT, "prompt": "a fox"} | values)  # type: ignore[arg-type]


def test_options_are_what_is_on_offer():
    """Each length with its price, in the shapes of this length, and sound where there is a switch."""
    lengths = {4: DIME * 4, 8: DIME * 8, 12: DIME * 12}
    assert options_of(SWITCHED, video()) == Options(lengths, ("upright", "wide", "square"), sound=True)
    silent = options_of(SWITCHED, video(sound=0))
    assert silent.lengths == {4: NICKEL * 4, 8: NICKEL * 8, 12: NICKEL * 12}
    assert silent.shapes == ("upright", "wide")
    assert not options_of(NO_SWITCH, video()).sound
    assert not options_of(SWITCHED, video(size=FINE)).sound


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seconds", "5"), ("seconds", ""), ("seconds", "-4"), ("seconds", "٤"), ("shape", "round"),
        ("shape", ""), ("sound", "2"), ("style", "cubism"), ("style", ""),
    ],
)  # fmt: skip
def test_a_value_that_is_not_on_offer_changes_nothing(option: Any, value: str):
    assert wanted(SWITCHED, video(), option, value) is None


def test_a_choice_keeps_the_rest():
    """Another shape keeps the length and what is nearest to the size; silent costs its own price."""
    wide = wanted(SWITCHED, video(seconds=12, size=FINE), "shape", "wide")
    assert wide is not None
    assert (wide.seconds, wide.size, wide.terms.quote) == (12, WIDE, DIME * 12)
    silent = wanted(SWITCHED, video(), "sound", "0")
    assert silent is not None
    assert (silent.sound, silent.terms.quote) == (False, NICKEL * 8)
    assert wanted(NO_SWITCH, video(), "sound", "0") is None


def test_a_style_is_one_fixed_sentence():
    """It follows the prompt, replaces another one's, goes away again, and stays as the row has it."""
    styled = wanted(SWITCHED, video(), "style", "clay")
    assert styled is not None
    assert styled.prompt == f"a fox {STYLES['clay']}"
    row = video(prompt=styled.prompt, style="clay", style_prompt=styled.style_prompt)
    other, none = wanted(SWITCHED, row, "style", "anime"), wanted(SWITCHED, row, "style", "-")
    assert other is not None
    assert none is not None
    assert (other.prompt, none.prompt, none.style) == (f"a fox {STYLES['anime']}", "a fox", None)
    old = video(prompt="a fox As in clay.", style="clay", style_prompt="As in clay.")
    longer = wanted(SWITCHED, old, "seconds", "12")
    assert longer is not None
    assert (longer.prompt, longer.style_prompt) == (old.prompt, old.style_prompt)


def test_there_are_six_styles_and_each_has_room():
    assert len(STYLES) == 6
    assert all(len(sentence) <= 200 for sentence in STYLES.values())
    assert with_style("a fox", "cubism") == ("a fox", None) == with_style("a fox", None)


@pytest.mark.parametrize("takes", [True, False])
async def test_what_to_avoid_is_asked_for_where_the_provider_takes_it(takes: bool):
    """As a required argument of a strict schema, judged with the prompt; elsewhere it is dropped unread."""
    offer = replace(NO_SWITCH, capabilities=replace(NO_SWITCH.capabilities, avoids=takes))
    schema = generate_video.fitted(offer).params_json_schema
    names = ["prompt", "seconds", "size", *(["avoid"] if takes else [])]
    assert [*schema["properties"]] == schema["required"] == names
    assert not any("default" in one for one in schema["properties"].values())

    async def preferences(seconds: int, size: str) -> Preferences:
        return Preferences(seconds, size)

    run: Any = SimpleNamespace(offer=offer, preferences=preferences)
    given = generate_video.VideoArguments(prompt="a fox", seconds=8, size=UPRIGHT, avoid=" people ")
    found = await generate_video.settled(run, given)
    assert found.avoid == ("people" if takes else "")
    spec = generate_video.guard_spec(GuardPolicy(once="per_request", content="video"), offer)
    assert spec.text is not None
    assert spec.text(found) == ("a fox\npeople" if takes else "a fox")
