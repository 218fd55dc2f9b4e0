"""What we order from fal and from Replicate by default: dated prices, and the input that each model takes.

Neither list has met a real invoice. Another model is one entry of a `PriceList` (docs/providers.md shows
one) and, where it wants other fields, one `Recipe`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Any, Literal

from ledger.money import Money
from providers.base import Take
from providers.openai_dialects import framed
from providers.pricing import ModelPrice, PriceList

SIZES = ("720x1280", "1280x720")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one hosted model wants its input, as its own page documents it.

    Attributes:
        seeded: It takes a `seed`, and so do the lists in which we look for a lost job.
        duration: The type of the field `duration`, in seconds.
        fixed: Fields that are the same in every order.
    """

    seeded: bool = True
    duration: Literal["number", "text"] = "number"
    fixed: Mapping[str, str | int | bool] = field(default_factory=lambda: MappingProxyType({}))


def model_input(take: Take, recipe: Recipe) -> dict[str, str | int | bool]:
    """Return the input that `take` becomes; the same take always makes the same."""
    duration = str(take.seconds) if recipe.duration == "text" else take.seconds
    fields = {**recipe.fixed, "prompt": take.prompt, "duration": duration, **framed(take.size)}
    return fields | ({"seed": take.seed} if recipe.seeded else {})


def encoded(fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON body; what is no valid Unicode in a prompt is sent as question marks."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def shown(listed: object, take: Take, recipe: Recipe) -> dict[str, Any]:
    """Translate the input of a listed job into what `matching.compare` reads; empty where none is kept."""
    if not isinstance(listed, dict):
        return {}
    fits = all(listed.get(name) == value for name, value in framed(take.size).items())
    return {
        "seed": listed.get("seed") if recipe.seeded else None,
        "prompt": listed.get("prompt"),
        "seconds": listed.get("duration"),
        "size": take.size if fits else None,
    }


def _at_720p(price: str) -> ModelPrice:
    return ModelPrice(seconds=(4, 8, 12), per_second=dict.fromkeys(SIZES, Money.parse(price)))


# Seedance counts tokens: height x width x 24 x seconds / 1024, at 720p 21,600 a second. Rounded up.
FAL_PRICES = PriceList(
    priced_on=date(2026, 11, 22),
    source="fal.ai/models/<model>/llms.txt, a stored copy; the price of 1.5 Pro is with sound",
    models={
        "fal-ai/bytedance/seedance/v1.5/pro/text-to-video": _at_720p("$0.052"),
        "fal-ai/bytedance/seedance/v1/pro/fast/text-to-video": _at_720p("$0.0216"),
        "bytedance/seedance-2.0/fast/text-to-video": _at_720p("$0.2419"),
    },
)
FAL_RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "fal-ai/bytedance/seedance/v1.5/pro/text-to-video": Recipe(
            duration="text", fixed=MappingProxyType({"generate_audio": True})
        ),
        "bytedance/seedance-2.0/fast/text-to-video": Recipe(
            duration="text", fixed=MappingProxyType({"generate_audio": True})
        ),
    }
)
FAL_RECIPE = Recipe(duration="text")

REPLICATE_PRICES = PriceList(
    priced_on=date(2026, 11, 22),
    source="second hand, from public code: Replicate's own page could not be read; compare before you pay",
    models={"bytedance/seedance-1-lite": _at_720p("$0.036")},
)
REPLICATE_RECIPE = Recipe()
