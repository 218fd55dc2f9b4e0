"""A live run: checks the caps and the settings, adapts the cases, plays them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from rich.console import Console

from app.settings import Settings, SettingsError, read_settings
from evals.case import AdversarySpec, Case, Expect, flat
from evals.dataset import Selection
from evals.events import INCOMPLETE, Count, EvalError, Send
from evals.live.budget import Caps, SpendMeter
from evals.live.model import MOST_ANSWERED, Endpoint
from guardrails.money import Money

DEFAULT_PRICE: Final = "15/120"
"""Default price in dollars per million tokens sent and answered: the expensive end of price lists."""

_KEYS: Final = ("FAL_KEY", "REPLICATE_API_TOKEN", "RUNWAYML_API_SECRET", "LUMA_API_KEY", "GOOGLE_API_KEY")
_SENT: Final = 4000
_TURNS: Final = 8
_ATTEMPTS: Final = 3
_ANYTHING: Final = Count()


@dataclass(frozen=True)
class LiveOptions:
    """The model and its caps, as given on the command line."""

    model: str | None
    base_url: str | None
    api: Literal["responses", "chat"]
    max_usd: str | None
    max_tokens: int | None
    max_requests: int | None
    price: str = DEFAULT_PRICE


def endpoint(options: LiveOptions, folder: Path, settings: Settings | None = None) -> Endpoint:
    """Check the options and settings before any request is sent.

    Raises:
        EvalError: A cap or the model is missing, a real provider is configured, or a value is invalid.
    """
    needed = {"--model": options.model, "--max-usd": options.max_usd, "--max-tokens": options.max_tokens,
              "--max-requests": options.max_requests}  # fmt: skip
    if missing := [name for name, value in needed.items() if not value]:
        raise EvalError(f"a live run needs {', '.join(missing)}: it is stopped before it costs more")
    try:
        refuse_real_providers(settings or read_settings(), os.environ)
    except SettingsError as error:
        raise EvalError(str(error)) from None
    if options.base_url and (
        urlsplit(options.base_url).username or urlsplit(options.base_url).scheme not in ("http", "https")
    ):
        raise EvalError(
            "--base-url must be http:// or https:// without a password; the key is OPENAI_API_KEY"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "meter.json"
    path.unlink(missing_ok=True)
    return Endpoint(
        model=str(options.model),
        base_url=options.base_url,
        api=options.api,
        meter=str(path.resolve()),
        caps=_caps(options),
    )


def refuse_real_providers(settings: Settings, environment: Mapping[str, str]) -> None:
    """Refuse to start where a video could be paid for, or another company options.

    Raises:
        EvalError: A real provider or service is configured.
    """
    found = [f"VIDEO_PROVIDER={settings.video_provider}"] if settings.video_provider != "local" else []
    names = ("video_api_key", "video_base_url", "moderation_api_key")
    found += [name.upper() for name in names if getattr(settings, name) is not None]
    found += [name for name in _KEYS if environment.get(name)]
    if found:
        raise EvalError(f"a live run has a real model and no other real service; remove: {', '.join(found)}")


def _caps(options: LiveOptions) -> Caps:
    try:
        price_in, price_out = map(float, options.price.split("/"))
        usd = Money.parse(f"${str(options.max_usd).removeprefix('$')}")
        return Caps(
            usd_micros=usd.micros, tokens=options.max_tokens or 0, requests=options.max_requests or 0,
            price_in=price_in, price_out=price_out,
        )  # fmt: skip
    except ValueError:
        raise EvalError(
            f"caps are above zero, as in --max-usd 2.50, and --price is IN/OUT in dollars per million "
            f"tokens, as in {DEFAULT_PRICE}; found {options.max_usd}, {options.max_tokens}, "
            f"{options.max_requests}, {options.price}"
        ) from None


def worst_case(cases: Sequence[Case], repeat: int, live: Endpoint) -> list[str]:
    """Describe what the run may cost at most, without caps and with them."""
    runs = repeat * sum(isinstance(one, Send) for case in cases for one in flat(case.events))
    requests = sum(case.max_turns or _TURNS for case in cases) * repeat * _ATTEMPTS * 2
    requests = max(requests, runs * _ATTEMPTS * _TURNS)
    tokens = requests * (_SENT + MOST_ANSWERED)
    price = Money(live.caps.micros(requests * _SENT, requests * MOST_ANSWERED))
    caps = live.caps
    priced = f"${caps.price_in:g} per million tokens sent, ${caps.price_out:g} answered; see --price"
    capped = f"{caps.requests} requests, {caps.tokens} tokens, {Money(caps.usd_micros)}"
    return [
        f"worst case without caps: {requests} requests, {tokens} tokens, {price} ({priced})",
        f"caps: {capped}; a request that might exceed one is not sent",
    ]


def live_case(case: Case, live: Endpoint) -> Case:
    """Return the case with the endpoint as its model.

    What only its own adversary would do is not expected: at most as much may be paid, and every
    message must be true.
    """
    attacks = case.policy.name != "benign"
    options = live.model_copy(update={"adversarial": attacks}).model_dump()
    spec = AdversarySpec(name="live", options=options)
    found = case.expect
    kept: dict[str, Any] = {
        name: getattr(found, name) for name in ("never_says", "never_heard", "language", "seconds")
    }
    expect = Expect(
        paid=_at_most(found.paid, keep_least=not attacks), attempts=_ANYTHING,
        delivered=_at_most(found.delivered, keep_least=not attacks),
        errors=(*found.errors, "the run broke"), **kept,
    )  # fmt: skip
    pace = {"run_s": 120.0} | dict(case.pace)
    return case.model_copy(update={"policy": spec, "expect": expect, "pace": pace})


def _at_most(count: Count, *, keep_least: bool) -> Count:
    return count if keep_least else Count(most=count.most)


def run_live(
    console: Console,
    chosen: Selection,
    options: LiveOptions,
    play: Callable[[Selection], int],
    *,
    repeat: int,
    out: Path,
) -> int:
    """Play cases with a real model; return the exit code, which is 3 if a cap stopped it.

    Raises:
        EvalError: It may not start; see `endpoint`.
    """
    live = endpoint(options, out)
    for line in worst_case(chosen.cases, repeat, live):
        console.print(line, markup=False, highlight=False)
    code = play(chosen.only([live_case(one, live) for one in chosen.cases]))
    used = SpendMeter(Path(live.meter), live.caps).read()
    console.print(f"used: {used}", markup=False, highlight=False)
    if used.stopped:
        console.print(used.stopped, style="yellow", markup=False)
        return INCOMPLETE
    return code
