"""The whole app on loopback (used by tests too)."""

import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from agents import Model, ModelProvider
from pydantic import SecretStr
from sqlalchemy import func, select

from app.application import App, open_app
from app.processes import REDELIVERY_S, run_polling, run_worker, running
from app.settings import Settings, read_settings
from chat.context import EditLimits
from guardrails.money import Money
from guardrails.redis_client import connect
from ledger.database import Ledger
from ledger.models import FINAL_STATES, Request, RequestState, Video, VideoState
from ledger.schema import entries, videos
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from providers.pricing import ModelPrice, PriceList, capabilities_of
from sandbox.telegram.server import TOKEN, BotApiServer
from sandbox.video_api.charge_log import ProviderLog
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY, ApiShape
from tools.agent_spec import declarations_folder
from worker.context import Timeouts

SIZES: Final = ("720x1280", "1280x720", "1024x1792", "1792x1024")


def prices(per_second: Money) -> PriceList:
    """Return what the peer asks, at one price for every size."""
    model = ModelPrice(seconds=(4, 8, 12), per_second=dict.fromkeys(SIZES, per_second))
    return PriceList(priced_on=date(2026, 11, 22), source="the peer", models={"sora-2": model})


PER_SECOND: Final = Money.parse("$0.10")
PRICES: Final = prices(PER_SECOND)
PRICE: Final = Money.parse("$0.80")
"""Eight seconds at the peer."""

QUICK_TIMEOUTS: Final = Timeouts(run_s=20, retry_s=0.2, sweep_s=0.2, refresh_s=5, poll_most_s=0.2, ask_s=0.1)
QUICK_EDIT_LIMITS: Final = EditLimits(private_s=0.05, group_s=0.05, tick_s=0.05, retry_s=0.3, lease_s=3)
QUICK_CAPABILITIES: Final[Mapping[str, float]] = {
    "submit_timeout_s": 1.0, "poll_s": 0.05, "grace_s": 0.1, "settle_s": 1.0, "absent_gap_s": 0.3,
}  # fmt: skip


class SingleModelProvider(ModelProvider):
    """Gives every agent the same model, whatever name its declaration asks for."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def get_model(self, model_name: str | None) -> Model:
        del model_name
        return self.model


@dataclass(frozen=True)
class EnvironmentConfig:
    """How a stage is built; everything has a default that is quick.

    Attributes:
        folder: The stage's own; everything that it writes lies below.
        redis_url: A Valkey; keys get a prefix of their own.
        model: Plays the agents.
        shape: The peer's documentation: `inworld` is keyed, the others list their jobs.
        changes: Lines of generate_video in the declaration; see `declare`.
        max_turns: Of the director, if it is not the declaration's.
        capabilities: Changed times of the provider.
        settings: Further settings.
        pace, manners: The studio's and the chat's times.
        fake_provider_options: Of the peer.
        clock_scale: Telegram seconds in one of ours.
        bots: How many bots share the stores, each with a house of its own.
        workers: Houses that work beside the first one's worker are `workers - 1`; 0 works not at all.
        wake: What runs in the first house, in place of a worker and polling.
        template: A migrated empty SQLite ledger to begin with, which saves the migration.
        per_second: The provider's price.
        redelivery_s: After how long the queue gives the task of a dead worker to another.
        peer: The provider itself; a sweep's answers each key with a text of its own.
    """

    folder: Path
    redis_url: str
    model: Model
    shape: ApiShape = "inworld"
    changes: Mapping[str, str | None] | None = None
    max_turns: int | None = None
    capabilities: Mapping[str, float] | None = None
    settings: Mapping[str, Any] | None = None
    timeouts: Timeouts = QUICK_TIMEOUTS
    edit_limits: EditLimits = QUICK_EDIT_LIMITS
    fake_provider_options: Mapping[str, Any] | None = None
    clock_scale: float = 60
    bots: int = 1
    workers: int = 1
    wake: Callable[[App], Sequence[Awaitable[None]]] | None = None
    template: Path | None = None
    per_second: Money = PER_SECOND
    redelivery_s: float = REDELIVERY_S
    fake_provider: type[FakeProvider] = FakeProvider


@dataclass
class AppEnvironment:
    """What a case or a test plays with. `houses[n]` serves `apis[n]`; workers beside them have no chat."""

    plan: EnvironmentConfig
    fake_provider: FakeProvider
    apis: list[BotApiServer]
    apps: list[App]
    stack: AsyncExitStack
    extra_workers: list[App] = field(default_factory=list)

    @property
    def app(self) -> App:
        return self.apps[0]

    @property
    def api(self) -> BotApiServer:
        return self.apis[0]

    async def start_worker(self) -> App:
        """Open one more house on the same stores that only works, and let it."""
        app = await self.stack.enter_async_context(
            _open_app(self.plan, self.fake_provider, self.api, self.app.settings)
        )
        app.ledger.shift = self.app.ledger.shift
        await self.stack.enter_async_context(running(run_worker(app, self.plan.redelivery_s)))
        self.extra_workers.append(app)
        return app

    @property
    def all_apps(self) -> list[App]:
        """Every house of the stage, those that only work included."""
        return [*self.apps, *self.extra_workers]

    async def flush(self) -> None:
        """Empty the whole Redis, the queue included."""
        client = connect(self.plan.redis_url)
        try:
            await client.flushall()
        finally:
            await client.aclose()


@asynccontextmanager
async def open_environment(plan: EnvironmentConfig) -> AsyncIterator[AppEnvironment]:
    """Open everything and let it run: updates by polling, workers, the sweep."""
    async with AsyncExitStack() as stack:
        options = dict(plan.fake_provider_options or {})
        options.setdefault("cents_per_second", plan.per_second.micros // 10_000)
        fake_provider = await stack.enter_async_context(
            plan.fake_provider(plan.folder / "peer", shape=plan.shape, **options)
        )
        env = AppEnvironment(plan, fake_provider, [], [], stack)
        settings = _settings(plan)
        for number in range(plan.bots):
            await _add_bot(env, settings, number)
        for _ in range(plan.workers - 1):
            await env.start_worker()
        yield env


def _settings(plan: EnvironmentConfig) -> Settings:
    var = plan.folder / "var"
    var.mkdir(parents=True, exist_ok=True)
    fixed = {
        "redis_url": SecretStr(plan.redis_url),
        "key_prefix": f"eval-{uuid4().hex[:8]}",
        "var_dir": var,
        "agents_dir": write_agent_specs(plan.folder / "agents", plan.max_turns, **(plan.changes or {})),
    }
    settings = read_settings(_env_file=None, **fixed | dict(plan.settings or {}))
    if plan.template is not None and settings.ledger_url.startswith("sqlite:///"):
        shutil.copy(plan.template, settings.ledger_url.removeprefix("sqlite:///"))
    return settings


async def _add_bot(env: AppEnvironment, settings: Settings, number: int) -> None:
    plan, enter = env.plan, env.stack.enter_async_context
    digits, _, rest = TOKEN.partition(":")
    api = BotApiServer(
        f"{int(digits) + number}:{rest}",
        clock_scale=plan.clock_scale, media_dir=plan.folder / f"telegram{number}", seed=number,
    )  # fmt: skip
    env.apis.append(await enter(api))
    app = await enter(_open_app(plan, env.fake_provider, api, settings))
    env.apps.append(app)
    parts = plan.wake(app) if plan.wake else _parts(app, plan.redelivery_s, works=number < plan.workers)
    await enter(running(*parts))  # type: ignore[arg-type]  # a test's parts are any awaitables


def _parts(app: App, redelivery_s: float, *, works: bool) -> Sequence[Awaitable[None]]:
    return (run_polling(app), run_worker(app, redelivery_s)) if works else (run_polling(app),)


@asynccontextmanager
async def _open_app(
    plan: EnvironmentConfig, fake_provider: FakeProvider, api: BotApiServer, settings: Settings
) -> AsyncIterator[App]:
    local = settings.model_copy(
        update={"telegram_bot_token": SecretStr(api.token), "telegram_api_url": api.base_url}
    )
    dialect = DIALECTS[plan.shape]
    listed = prices(plan.per_second)
    times: dict[str, Any] = dict(QUICK_CAPABILITIES) | dict(plan.capabilities or {})
    quick = replace(capabilities_of(dialect, listed), **times)
    provider = OpenAICompat(fake_provider.base_url, FAKE_KEY, dialect, listed, capabilities=quick)
    async with open_app(
        local,
        models=SingleModelProvider(plan.model),
        provider=provider,
        timeouts=plan.timeouts,
        edit_limits=plan.edit_limits,
    ) as app:
        yield app


def write_agent_specs(folder: Path, max_turns: int | None = None, /, **changes: str | None) -> Path:
    """Copy agents/ to `folder` with lines of generate_video changed: `declare(p, cooldown=None,
    approval="always")`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in declarations_folder().glob("*.md"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for name, value in changes.items():
            at = [i for i, line in enumerate(lines) if line.startswith(f"    {name}:")]
            if at and value is None:
                del lines[at[0]]
            elif at:
                lines[at[0]] = f"    {name}: {value}"
        if max_turns is not None and path.stem == "director":
            lines = [f"max_turns: {max_turns}" if line.startswith("max_turns:") else line for line in lines]
        (folder / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


_UNBOOKED_STATES: Final = (VideoState.SUBMITTING, VideoState.IN_DOUBT, VideoState.HOLD)


def is_settled(request: Request, video: Video | None) -> bool:
    """Say whether nothing more will become of a request by itself, and its user knows."""
    if video is None:
        return (
            request.state not in (RequestState.OPEN, RequestState.ORDERED) and request.told == request.state
        )
    return (
        video.state in FINAL_STATES | {VideoState.HOLD, VideoState.AWAITING_APPROVAL}
        and request.told == video.state
    )


async def assert_ledger_matches(ledger: Ledger, fake_provider: ProviderLog) -> None:
    """The ledger's charges less its credits are what the provider kept, job by job.

    A job may be missing from the books only while a video waits for somebody to say whose it is.
    """
    query = select(entries).where(entries.c.kind.in_(("charge", "credit")))
    unsettled = select(func.count()).where(videos.c.state.in_(_UNBOOKED_STATES))
    booked: Counter[str] = Counter()
    async with ledger.read() as conn:
        for row in await conn.execute(query):
            booked[row.job_id or "unknown"] += row.micros if row.kind == "charge" else -row.micros
        waiting = await conn.scalar(unsettled) or 0
    net = fake_provider.net()
    unbooked = net.keys() - booked.keys()
    assert {job: micros for job, micros in booked.items() if micros} == {
        job: micros for job, micros in net.items() if job not in unbooked
    }, "the ledger and the provider's own charge log disagree"
    assert len(unbooked) <= waiting, f"charged and in nobody's books: {unbooked}"
