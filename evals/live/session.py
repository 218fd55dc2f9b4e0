"""Set-up and run."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from rich.console import Console

from app.settings import Settings, SettingsError, read_settings
from evals.case import AdversarySpec, Case, Expect, flat
from evals.events import Count, EvalError, Send
from evals.live.budget import Caps, SpendMeter
from evals.live.model import MOST_ANSWERED, Endpoint
from evals.runner import INCOMPLETE
from guardrails.money import Money

DEFAULT_PRICE: Final = "15/120"
"""Dollars for a million tokens sent and answered, while nobody says: the dear end of price lists."""

_KEYS: Final = ("FAL_KEY", "REPLICATE_API_TOKEN", "RUNWAYML_API_SECRET", "LUMA_API_KEY", "GOOGLE_API_KEY")
_SENT: Final = 4000
_TURNS: Final = 8
_ATTEMPTS: Final = 3
_ANYTHING: Final = Count()


@dataclass(frozen=True)
class LiveOptions:
    """What the command line says of the model and its caps."""

    model: str | None
    base_url: str | None
    api: Literal["responses", "chat"]
    max_usd: str | None
    max_tokens: int | None
    max_requests: int | None
    price: str = DEFAULT_PRICE


def endpoint(asked: LiveOptions, folder: Path, settings: Settings | None = None) -> Endpoint:
    """Check everything that can be checked before a request is sent.

    Raises:
        EvalError: A cap or the model is missing, a real provider is configured, or a value cannot be used.
    """
    needed = {"--model": asked.model, "--max-usd": asked.max_usd, "--max-tokens": asked.max_tokens,
              "--max-requests": asked.max_requests}  # fmt: skip
    if missing := [name for name, value in needed.items() if not value]:
        raise EvalError(f"a live run needs {', '.join(missing)}: it is stopped before it costs more")
    try:
        refuse_real_providers(settings or read_settings(), os.environ)
    except SettingsError as error:
        raise EvalError(str(error)) from None
    if asked.base_url and (
        urlsplit(asked.base_url).username or urlsplit(asked.base_url).scheme not in ("http", "https")
    ):
        raise EvalError("--base-url is http:// or https:// and holds no password; the key is OPENAI_API_KEY")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "meter.json"
    path.unlink(missing_ok=True)
    return Endpoint(
        model=str(asked.model),
        base_url=asked.base_url,
        api=asked.api,
        meter=str(path.resolve()),
        caps=_caps(asked),
    )


def refuse_real_providers(settings: Settings, environment: Mapping[str, str]) -> None:
    """Refuse to start where a video could be paid for, or another company asked.

    Raises:
        EvalError: Something of a real provider is configured.
    """
    found = [f"VIDEO_PROVIDER={settings.video_provider}"] if settings.video_provider != "local" else []
    names = ("video_api_key", "video_base_url", "moderation_api_key")
    found += [name.upper() for name in names if getattr(settings, name) is not None]
    found += [name for name in _KEYS if environment.get(name)]
    if found:
        raise EvalError(
            f"a live run has a real model and nothing else that is real; take out: {', '.join(found)}"
        )


def _caps(asked: LiveOptions) -> Caps:
    try:
        price_in, price_out = map(float, asked.price.split("/"))
        usd = Money.parse(f"${str(asked.max_usd).removeprefix('$')}")
        return Caps(
            usd_micros=usd.micros, tokens=asked.max_tokens or 0, requests=asked.max_requests or 0,
            price_in=price_in, price_out=price_out,
        )  # fmt: skip
    except ValueError:
        raise EvalError(
            f"caps are above zero, as in --max-usd 2.50, and --price is IN/OUT in dollars a million tokens, "
            f"as in {DEFAULT_PRICE}; found {asked.max_usd}, {asked.max_tokens}, {asked.max_requests}, "
            f"{asked.price}"
        ) from None


def worst_case(cases: Sequence[Case], repeat: int, said: Endpoint) -> list[str]:
    """Say what the run may cost at worst, without caps and with them."""
    runs = repeat * sum(isinstance(one, Send) for case in cases for one in flat(case.events))
    requests = sum(case.max_turns or _TURNS for case in cases) * repeat * _ATTEMPTS * 2
    requests = max(requests, runs * _ATTEMPTS * _TURNS)
    tokens = requests * (_SENT + MOST_ANSWERED)
    price = Money(said.caps.micros(requests * _SENT, requests * MOST_ANSWERED))
    caps = said.caps
    priced = f"${caps.price_in:g} a million tokens sent, ${caps.price_out:g} answered; --price says otherwise"
    capped = f"{caps.requests} requests, {caps.tokens} tokens, {Money(caps.usd_micros)}"
    return [
        f"worst case without caps: {requests} requests, {tokens} tokens, {price} ({priced})",
        f"caps: {capped}; nothing is sent that they have no room for",
    ]


def live_case(case: Case, said: Endpoint) -> Case:
    """Return the case with the endpoint as its model. What only its own adversary would do is not expected:
    at most as much may be paid, and what is said must be true.
    """
    attacks = case.policy.name != "benign"
    mounts = max(2, case.expect.attempts.least) if attacks else 0
    policy = AdversarySpec(name="live", options=said.model_copy(update={"mounts": mounts}).model_dump())
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
    return case.model_copy(update={"policy": policy, "expect": expect, "pace": pace})


def _at_most(count: Count, *, keep_least: bool) -> Count:
    return count if keep_least else Count(most=count.most)


def run_live(
    console: Console,
    cases: Sequence[Case],
    asked: LiveOptions,
    play: Callable[..., int],
    *,
    repeat: int,
    out: Path,
) -> int:
    """Play cases with a real model; return the exit code, which is 3 if a cap stopped it.

    Raises:
        EvalError: It may not start; see `endpoint`.
    """
    said = endpoint(asked, out)
    for line in worst_case(cases, repeat, said):
        console.print(line, markup=False, highlight=False)
    code = play(console, [live_case(one, said) for one in cases], out=out)
    used = SpendMeter(Path(said.meter), said.caps).read()
    console.print(f"used: {used}", markup=False, highlight=False)
    if used.stopped:
        console.print(used.stopped, style="yellow", markup=False)
        return INCOMPLETE
    return code
