"""Dated price lists, and the input that each hosted model takes."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from guardrails.money import Money
from providers.base import Capabilities, Rejected, VideoRequest
from providers.openai_dialects import Dialect, resolution_fields
from providers.pictures import fit_picture

_TOO_MANY_DOLLARS = 10_000
PerSecond = Annotated[Money, BeforeValidator(Money.exact)]
Size = Annotated[str, Field(pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")]
Seconds = Annotated[int, Field(strict=True, ge=1, le=60)]


class ModelPrice(BaseModel):
    """One model: its lengths in seconds, and dollars per second of video by size (`{width}x{height}`).

    `silent_per_second` is the same without sound. Only a model that has it is offered without sound.
    `pictures` says that it begins a video with a picture that is sent along, at the same price.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: Annotated[tuple[Seconds, ...], Field(min_length=1)]
    per_second: Annotated[dict[Size, PerSecond], Field(min_length=1)]
    silent_per_second: dict[Size, PerSecond] = Field(default_factory=dict)
    pictures: bool = False


class PriceList(BaseModel):
    """The prices of one provider as its page showed them on `priced_on`. The first model is the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priced_on: date
    source: str
    models: Annotated[dict[str, ModelPrice], Field(min_length=1)]

    @property
    def take_pictures(self) -> bool:
        """Whether every model on it does."""
        return all(offer.pictures for offer in self.models.values())

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        """Return the price of one video, with its sound or without.

        Raises:
            ValueError: Something is not on offer; the message names it and what is.
        """
        offer = self.models.get(model)
        if offer is None:
            raise ValueError(f"model {model!r} is not on offer; there is {', '.join(self.models)}")
        if type(seconds) is not int or seconds not in offer.seconds:
            raise ValueError(f"{model} makes {', '.join(map(str, offer.seconds))} seconds, not {seconds!r}")
        per_second = offer.per_second if sound else offer.silent_per_second
        if size not in per_second:
            silent = "" if sound else " without sound"
            raise ValueError(f"{model} makes {', '.join(per_second) or 'nothing'}{silent}, not {size!r}")
        return per_second[size] * seconds


def refuse_unpriced(prices: PriceList, video_request: VideoRequest) -> None:
    """Refuse an order that is no longer on the price list, before anything is sent.

    Raises:
        Rejected: It is not; the text names what is.
    """
    try:
        one = video_request
        prices.quote(one.model, one.seconds, one.size, sound=one.sound)
    except ValueError as error:
        raise Rejected(f"no longer on offer, nothing was sent: {error}", "invalid") from None


def dollars(value: object) -> Money | None:
    """Return an amount in dollars that a provider named as a number or a text; None if it is no price.

    It is rounded to the nearest micro-dollar. Zero is no price either: servers show it until they know the
    price, and a charge of nothing would hide a real one. Nor is 10,000 dollars or more.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        exact = Decimal(str(value).strip().removeprefix("$"))
    except InvalidOperation:
        return None
    if not exact.is_finite() or not 0 < exact < _TOO_MANY_DOLLARS:
        return None
    micros = int((exact * 1_000_000).to_integral_value())
    return Money(micros) if micros else None


def read_prices(text: str) -> PriceList:
    """Parse a price list in YAML, in the format of docs/providers.md.

    Raises:
        ValueError: It is not a price list; the message names the field.
    """
    try:
        return PriceList.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"the price list is not YAML: {error}") from None


def offered_capabilities(prices: PriceList, **documented: Any) -> Capabilities:
    """Build capabilities from a price list and `documented` values, by the names of `Capabilities`."""
    offers = prices.models.values()
    return Capabilities(
        models=tuple(prices.models),
        seconds=tuple(sorted({seconds for offer in offers for seconds in offer.seconds})),
        sizes=tuple(dict.fromkeys(size for offer in offers for size in offer.per_second)),
        preview=False,
        priced_on=prices.priced_on.isoformat(),
        **documented,
    )


def capabilities_of(dialect: Dialect, prices: PriceList) -> Capabilities:
    """Build capabilities from a dialect and a price list."""
    return offered_capabilities(
        prices,
        replay=dialect.idempotency_header is not None,
        listing=dialect.listing,
        avoids=dialect.avoids,
        pictures=bool(dialect.picture_field) and prices.take_pictures,
        # While the key is remembered, a replay can still resolve an unknown outcome without an operator.
        settle_s=max(600.0, dialect.replay_for_s if dialect.idempotency_header else 0.0),
        replay_for_s=dialect.replay_for_s,
        notes=dialect.notes,
    )


# OpenAI's last prices, for servers that still offer these models; its own endpoint is closed.
SORA_2_PRICES = PriceList(
    priced_on=date(2026, 11, 22),
    source="developers.openai.com/api/docs/models/sora-2",
    models={
        name: ModelPrice(seconds=(4, 8, 12), per_second={"720x1280": price, "1280x720": price}, pictures=True)
        for name, price in (("sora-2", Money.parse("$0.10")), ("sora-2-pro", Money.parse("$0.30")))
    },
)


SIZES = ("720x1280", "1280x720")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The input fields of one hosted model, as its own page documents them.

    Attributes:
        seeded: It takes a `seed`, and job lists show it.
        duration: The type of the field `duration`, in seconds.
        sound: The field that turns the sound on or off; empty if there is none.
        fixed: Fields that are the same in every order.
        picture_field: The field that takes the first frame as a data URL; empty if none is documented.
    """

    seeded: bool = True
    duration: Literal["number", "text"] = "number"
    sound: str = ""
    fixed: Mapping[str, str | int | bool] = field(default_factory=lambda: MappingProxyType({}))
    picture_field: str = ""


def model_input(video_request: VideoRequest, recipe: Recipe) -> dict[str, str | int | bool]:
    """Return the input fields for this request; the same request always gives the same fields."""
    duration = str(video_request.seconds) if recipe.duration == "text" else video_request.seconds
    fields: dict[str, str | int | bool] = {
        **recipe.fixed,
        **({recipe.sound: video_request.sound} if recipe.sound else {}),
        "prompt": video_request.prompt,
        "duration": duration,
        **resolution_fields(video_request.size),
    }
    if video_request.picture is not None and recipe.picture_field:
        # Cut to the video's size: where there is a picture, a model takes its shape and not the field's.
        jpeg = base64.b64encode(fit_picture(video_request.picture, video_request.size)).decode("ascii")
        fields[recipe.picture_field] = f"data:image/jpeg;base64,{jpeg}"
    return fields | ({"seed": video_request.seed} if recipe.seeded else {})


def json_body(fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON body; invalid Unicode in a prompt is sent as question marks."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def listed_input(listed: object, video_request: VideoRequest, recipe: Recipe) -> dict[str, Any]:
    """Translate the input of a listed job into the fields of `compare_job`; empty if the list shows none."""
    if not isinstance(listed, dict):
        return {}
    fits = all(listed.get(name) == value for name, value in resolution_fields(video_request.size).items())
    return {
        "seed": listed.get("seed") if recipe.seeded else None,
        "prompt": listed.get("prompt"),
        "seconds": listed.get("duration"),
        "size": video_request.size if fits else None,
    }


def _at_720p(price: str, silent: str | None = None, *, pictures: bool = False) -> ModelPrice:
    prices = dict.fromkeys(SIZES, Money.parse(price))
    less = {} if silent is None else dict.fromkeys(SIZES, Money.parse(silent))
    return ModelPrice(seconds=(4, 8, 12), per_second=prices, silent_per_second=less, pictures=pictures)


# Seedance bills tokens: height x width x 24 x seconds / 1024, at 720p 21,600 per second. Rounded up.
FAL_PRICES = PriceList(
    priced_on=date(2026, 11, 22),
    source="fal.ai/models/<model>/llms.txt, stored copies; without sound 1.5 Pro costs half, 2.0 the same",
    models={
        "fal-ai/bytedance/seedance/v1.5/pro/text-to-video": _at_720p("$0.052", silent="$0.026"),
        "fal-ai/bytedance/seedance/v1/pro/fast/text-to-video": _at_720p("$0.0216"),
        "bytedance/seedance-2.0/fast/text-to-video": _at_720p("$0.2419", silent="$0.2419"),
    },
)
FAL_RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "fal-ai/bytedance/seedance/v1.5/pro/text-to-video": Recipe(duration="text", sound="generate_audio"),
        "bytedance/seedance-2.0/fast/text-to-video": Recipe(duration="text", sound="generate_audio"),
    }
)
FAL_RECIPE = Recipe(duration="text")

REPLICATE_PRICES = PriceList(
    priced_on=date(2026, 11, 22),
    source="second hand, from public code: Replicate's own page could not be read; compare before you pay",
    models={"bytedance/seedance-1-lite": _at_720p("$0.036", pictures=True)},
)
REPLICATE_RECIPE = Recipe(picture_field="image")
