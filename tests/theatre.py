"""The whole house on loopback for one test: real Bot API, Valkey and ledger, a provider with its books.

Only the model is a stand-in, and a test may choose how it misbehaves. The oracle is `peer.net()`: what the
provider charged, from its own file.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

from agents import Model
from conftest import HOUSE, wait_until
from peer import KEY, Peer
from peer_books import Books
from pydantic import SecretStr
from sqlalchemy import func, select

from app.house import House, open_house
from app.serve import run_polling, run_worker, running
from app.settings import read_settings
from chat.desk import Manners
from chat.rehearsal.people import Person
from chat.rehearsal.server import BotApi
from ledger import requests
from ledger.money import Money
from ledger.rows import Request, Video
from ledger.schema import entries, videos
from ledger.store import Ledger
from ledger.words import SETTLED, RequestState, VideoState
from tools.models import RehearsalModels
from tools.rehearsal_model import RehearsalModel
from tools.studio.parts import Pace
from tools.studio.providers.catalogue import ModelPrice, PriceList, capabilities_of
from tools.studio.providers.dialects import DIALECTS
from tools.studio.providers.openai_compat import OpenAICompat

SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")
PRICES = PriceList(
    priced_on=date(2026, 11, 22),
    source="the peer",
    models={
        "sora-2": ModelPrice(seconds=(4, 8, 12), per_second={size: Money.parse("$0.10") for size in SIZES})
    },
)
PRICE = Money.parse("$0.80")
"""Eight seconds at the peer."""

QUICK_PACE = Pace(run_s=20, retry_s=0.2, sweep_s=0.2, refresh_s=5, poll_most_s=0.2, ask_s=0.1)
QUICK_MANNERS = Manners(private_s=0.05, group_s=0.05, tick_s=0.05, retry_s=0.3, lease_s=3)

_UNSETTLED = (VideoState.SUBMITTING, VideoState.IN_DOUBT, VideoState.HOLD)


@dataclass
class Theatre:
    """What a test plays with."""

    house: House
    api: BotApi
    peer: Peer
    model: RehearsalModel

    def user(self, user_id: int = 1001, name: str = "Ana", language: str = "en") -> Person:
        return self.api.user(user_id, name, language_code=language)

    async def latest(self, user_id: int = 1001) -> tuple[Request, Video | None] | None:
        found = await requests.of_user(self.house.ledger, user_id, 1)
        return found[0] if found else None

    async def ended(
        self, user_id: int = 1001, count: int = 1, seconds: float = 30
    ) -> list[tuple[Request, Video | None]]:
        """Wait until the user's `count` latest requests rest and were told; return them, newest first."""
        found: list[tuple[Request, Video | None]] = []

        async def rest() -> bool:
            found[:] = await requests.of_user(self.house.ledger, user_id, count)
            return len(found) == count and all(rests(*one) for one in found)

        await wait_until(rest, seconds, f"{count} requests of {user_id} to end")
        return found

    async def create(
        self, idea: str = "a quiet market at dawn", user_id: int = 1001
    ) -> tuple[Request, Video | None]:
        """Send one /create as a person does and wait for its end."""
        known = len(await requests.of_user(self.house.ledger, user_id, 100))
        await self.user(user_id).send(f"/create {idea}")

        async def there() -> bool:
            return len(await requests.of_user(self.house.ledger, user_id, 100)) > known

        await wait_until(there, 10, "the request")
        return (await self.ended(user_id))[0]


def rests(request: Request, video: Video | None) -> bool:
    if video is None:
        return (
            request.state not in (RequestState.OPEN, RequestState.ORDERED) and request.told == request.state
        )
    return (
        video.state in SETTLED | {VideoState.HOLD, VideoState.AWAITING_APPROVAL}
        and request.told == video.state
    )


async def books_agree(ledger: Ledger, peer: Books) -> None:
    """The ledger's charges less its credits are what the provider kept, job by job.

    A job may be missing from the books only while a video waits for somebody to say whose it is.
    """
    query = select(entries).where(entries.c.kind.in_(("charge", "credit")))
    unsettled = select(func.count()).where(videos.c.state.in_(_UNSETTLED))
    booked: Counter[str] = Counter()
    async with ledger.read() as conn:
        for row in await conn.execute(query):
            booked[row.cause.partition(" (")[0]] += row.micros if row.kind == "charge" else -row.micros
        waiting = await conn.scalar(unsettled) or 0
    net = peer.net()
    unbooked = net.keys() - booked.keys()
    assert {job: micros for job, micros in booked.items() if micros} == {
        job: micros for job, micros in net.items() if job not in unbooked
    }, "the ledger and the provider's own charge log disagree"
    assert len(unbooked) <= waiting, f"charged and in nobody's books: {unbooked}"


def declare(folder: Path, **changes: str | None) -> Path:
    """Copy agents/ to `folder` with lines of generate_video changed: `declare(p, cooldown=None,
    approval="always")`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (HOUSE / "agents").glob("*.md"):
        lines = path.read_text().splitlines()
        for name, value in changes.items():
            at = [i for i, line in enumerate(lines) if line.startswith(f"    {name}:")]
            if at and value is None:
                del lines[at[0]]
            elif at:
                lines[at[0]] = f"    {name}: {value}"
        (folder / path.name).write_text("\n".join(lines) + "\n")
    return folder


Opener = Callable[..., "contextlib.AbstractAsyncContextManager[Theatre]"]


@asynccontextmanager
async def open_theatre(
    folder: Path,
    redis_url: str,
    *,
    model: Model | None = None,
    shape: str = "inworld",
    changes: Mapping[str, str | None] | None = None,
    capabilities: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    pace: Pace = QUICK_PACE,
    wake: Callable[[House], tuple[Awaitable[None], ...]] | None = None,
    peer_options: Mapping[str, Any] | None = None,
    clock_scale: float = 60,
    manners: Manners = QUICK_MANNERS,
) -> AsyncIterator[Theatre]:
    """Open everything and let it run: updates by polling, one worker, the sweep.

    Args:
        folder: The test's own.
        redis_url: A Valkey of the test's own; keys get a prefix of their own as well.
        model: Plays the agents; by default a benign rehearsal model.
        shape: The peer's documentation: `inworld` is keyed, `openai` and `sglang` list, `vllm_omni` lists.
        changes: Of the declaration of generate_video; see `declare`.
        capabilities: Changed capabilities of the provider, for example quicker doubts.
        settings: Further settings.
        pace: The studio's times.
        wake: What runs; by default a worker and polling.
        peer_options: Of the peer.
        clock_scale: Telegram seconds in one of ours.
        manners: The chat's times.
    """
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(Peer(folder / "peer", shape=shape, **(peer_options or {})))
        api = await stack.enter_async_context(BotApi(clock_scale=clock_scale, media_dir=folder / "telegram"))
        quick = {
            "submit_timeout_s": 1.0,
            "poll_s": 0.05,
            "grace_s": 0.1,
            "settle_s": 1.0,
            "absent_gap_s": 0.3,
        } | dict(capabilities or {})
        dialect = DIALECTS[shape]
        provider = OpenAICompat(
            peer.base_url,
            KEY,
            dialect,
            PRICES,
            capabilities=replace(capabilities_of(dialect, PRICES), **quick),
        )
        stack.push_async_callback(provider.close)
        chosen = model or RehearsalModel()
        house = await stack.enter_async_context(
            open_house(
                read_settings(
                    _env_file=None,
                    telegram_bot_token=SecretStr(api.token),
                    telegram_api_url=api.base_url,
                    redis_url=SecretStr(redis_url),
                    key_prefix=f"test-{uuid4().hex[:8]}",
                    var_dir=folder / "var",
                    agents_dir=declare(folder / "agents", **(changes or {})),
                    **(settings or {}),
                ),
                models=RehearsalModels(chosen),
                provider=provider,
                pace=pace,
                manners=manners,
            )
        )
        parts = wake(house) if wake else (run_worker(house), run_polling(house))
        await stack.enter_async_context(running(*parts))
        yield Theatre(house, api, peer, chosen)
        await books_agree(house.ledger, peer)
