"""The whole house on loopback for one test: real Bot API, Valkey and ledger, a provider with its books.

Only the model is a stand-in, and a test may choose how it misbehaves. The oracle is `peer.net()`: what the
provider charged, from its own file.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import Model
from waiting import wait_until

from app.application import App
from chat.context import EditLimits
from evals.environment import (
    PRICE,
    PRICES,
    QUICK_EDIT_LIMITS,
    QUICK_TIMEOUTS,
    EnvironmentConfig,
    assert_ledger_matches,
    is_settled,
    open_environment,
    write_agent_specs,
)
from ledger import requests
from ledger.models import Request, Video
from sandbox.model import SandboxModel
from sandbox.telegram.server import BotApiServer
from sandbox.telegram.user import Person
from sandbox.video_api.openai import FakeProvider
from worker.context import Timeouts

__all__ = [
    "PRICE",
    "PRICES",
    "QUICK_EDIT_LIMITS",
    "QUICK_TIMEOUTS",
    "Theatre",
    "assert_ledger_matches",
    "is_settled",
    "open_theatre",
    "write_agent_specs",
]


@dataclass
class Theatre:
    """What a test plays with."""

    app: App
    api: BotApiServer
    fake_provider: FakeProvider
    model: SandboxModel

    def user(self, user_id: int = 1001, name: str = "Ana", language: str = "en") -> Person:
        return self.api.user(user_id, name, language_code=language)

    async def latest(self, user_id: int = 1001) -> tuple[Request, Video | None] | None:
        found = await requests.list_for_user(self.app.ledger, user_id, 1)
        return found[0] if found else None

    async def ended(
        self, user_id: int = 1001, count: int = 1, seconds: float = 30
    ) -> list[tuple[Request, Video | None]]:
        """Wait until the user's `count` latest requests rest and were told; return them, newest first."""
        found: list[tuple[Request, Video | None]] = []

        async def rest() -> bool:
            found[:] = await requests.list_for_user(self.app.ledger, user_id, count)
            return len(found) == count and all(is_settled(*one) for one in found)

        await wait_until(rest, seconds, f"{count} requests of {user_id} to end")
        return found

    async def create(
        self, idea: str = "a quiet market at dawn", user_id: int = 1001
    ) -> tuple[Request, Video | None]:
        """Send one /create as a person does and wait for its end."""
        known = len(await requests.list_for_user(self.app.ledger, user_id, 100))
        await self.user(user_id).send(f"/create {idea}")

        async def there() -> bool:
            return len(await requests.list_for_user(self.app.ledger, user_id, 100)) > known

        await wait_until(there, 10, "the request")
        return (await self.ended(user_id))[0]


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
    timeouts: Timeouts = QUICK_TIMEOUTS,
    wake: Callable[[App], tuple[Awaitable[None], ...]] | None = None,
    peer_options: Mapping[str, Any] | None = None,
    clock_scale: float = 60,
    edit_limits: EditLimits = QUICK_EDIT_LIMITS,
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
    chosen = model or SandboxModel()
    plan = EnvironmentConfig(
        folder,
        redis_url,
        chosen,
        shape=shape,
        changes=changes,
        capabilities=capabilities,
        settings=settings,
        timeouts=timeouts,
        edit_limits=edit_limits,
        fake_provider_options=peer_options,
        clock_scale=clock_scale,
        wake=wake,
    )
    async with open_environment(plan) as env:
        yield Theatre(env.app, env.api, env.fake_provider, chosen)
        await assert_ledger_matches(env.app.ledger, env.fake_provider)
