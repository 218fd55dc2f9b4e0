"""The whole app on loopback, for evals, tests and benchmarks.

Bot API server, Redis, ledger and provider are real servers or files; only the model is scripted. What was
charged is in the provider's own log (`fake_provider.net()`), which scorers and tests compare with the ledger.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from agents import Model, ModelProvider
from pydantic import SecretStr
from redis.exceptions import RedisError
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.application import App, open_app
from app.pacing import LOCAL_SEND_LIMITS
from app.processes import REDELIVERY_S, run_polling, run_worker, running
from app.settings import Settings, read_settings
from chat.context import EditLimits
from chat.send_limits import SendLimits
from evals.waiting import wait_until
from guardrails.money import Money
from guardrails.redis_client import connect
from ledger import requests, schema
from ledger.database import Ledger
from ledger.models import FINAL_STATES, Request, RequestState, Video, VideoState
from ledger.schema import entries, videos
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from providers.pricing import ModelPrice, PriceList, capabilities_of
from sandbox.model import SandboxModel
from sandbox.telegram.server import TOKEN, BotApiServer
from sandbox.telegram.user import Person
from sandbox.video_api.charge_log import ProviderLog
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY, ApiShape
from tools.agent_spec import declarations_folder
from worker.context import Timeouts

SIZES: Final = ("720x1280", "1280x720", "1024x1792", "1792x1024")


def prices(per_second: Money) -> PriceList:
    """Return a price list with one price for every size."""
    model = ModelPrice(seconds=(4, 8, 12), per_second=dict.fromkeys(SIZES, per_second))
    return PriceList(priced_on=date(2026, 11, 22), source="the fake provider", models={"sora-2": model})


PER_SECOND: Final = Money.parse("$0.10")
PRICES: Final = prices(PER_SECOND)
PRICE: Final = Money.parse("$0.80")
"""Of one video of eight seconds."""

QUICK_TIMEOUTS: Final = Timeouts(
    run_s=20, retry_s=0.2, sweep_s=0.2, refresh_s=5, alerts_s=0.2, lease_s=2, fetch_s=3, failed_most_s=1,
    poll_most_s=0.2, ask_s=0.1,
)  # fmt: skip
QUICK_EDIT_LIMITS: Final = EditLimits(
    private_s=0.05, group_s=0.05, quiet_s=0.05, progress_s=0.05, ping_after_s=0, retry_s=0.3, lease_s=4,
    upload_s=6,
)  # fmt: skip
QUICK_CAPABILITIES: Final[Mapping[str, float]] = {
    "submit_timeout_s": 1.0, "poll_s": 0.05, "poll_per_s": 1000.0, "grace_s": 0.1, "settle_s": 1.0,
    "absent_gap_s": 0.3,
}  # fmt: skip


async def set_status_message(ledger: Ledger, request_id: str, message_id: int | None = 1) -> None:
    """Write that this message is the request's status message, as the chat does once it stands."""
    async with ledger.write() as conn:
        mine = update(schema.requests).where(schema.requests.c.request_id == request_id)
        await conn.execute(mine.values(status_message_id=message_id))


class SingleModelProvider(ModelProvider):
    """Gives every agent the same model, which may be replaced between runs."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def get_model(self, model_name: str | None) -> Model:
        del model_name
        return self.model


def quick_provider(
    base_url: str,
    shape: str,
    capabilities: Mapping[str, Any] | None = None,
    per_second: Money = PER_SECOND,
) -> OpenAICompat:
    """Build the adapter for a fake provider, with times short enough for tests."""
    dialect, listed = DIALECTS[shape], prices(per_second)
    quick: dict[str, Any] = {**QUICK_CAPABILITIES, **(capabilities or {})}
    known = replace(capabilities_of(dialect, listed), **quick)
    return OpenAICompat(base_url, FAKE_KEY, dialect, listed, capabilities=known)


@dataclass(frozen=True)
class EnvironmentConfig:
    """How an environment is built. The defaults are quick and benign.

    Attributes:
        folder: All that the environment writes is below it.
        redis_url: Keys get a prefix of their own.
        model: Plays every agent.
        shape: The API that the provider documents: `inworld` honours idempotency keys, the others list jobs.
        changes: Changed lines of generate_video's guard policy; see `write_agent_specs`.
        max_turns: Of the director, if not the declared ones.
        capabilities: Changed capabilities of the provider.
        settings: Further settings by name.
        timeouts, edit_limits: Times of the worker and of the chat.
        send_limits: How many messages the chat sends.
        fake_provider_options: Arguments of `fake_provider`.
        clock_scale: Telegram seconds in one real second.
        bots: Number of bots, each an app of its own on the same stores.
        accounts: Number of provider accounts, each a server of its own. Bot n orders at account n, and those
            after the last account at the last; a further worker is one of the first bot.
        workers: Number of apps that run a worker: the first bots', then extra ones without a chat.
        wake: What runs in the first app, in place of polling and a worker.
        template: A migrated empty SQLite ledger to copy, which saves the migration.
        per_second: The provider's price.
        redelivery_s: Seconds after which the queue gives a dead worker's task to another.
        fake_provider: The provider's class.
    """

    folder: Path
    redis_url: str
    model: Model = field(default_factory=SandboxModel)
    shape: ApiShape = "inworld"
    changes: Mapping[str, str | None] | None = None
    max_turns: int | None = None
    capabilities: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    timeouts: Timeouts = QUICK_TIMEOUTS
    edit_limits: EditLimits = QUICK_EDIT_LIMITS
    send_limits: SendLimits = LOCAL_SEND_LIMITS
    fake_provider_options: Mapping[str, Any] | None = None
    clock_scale: float = 60
    bots: int = 1
    accounts: int = 1
    workers: int = 1
    wake: Callable[[App], Sequence[Awaitable[None]]] | None = None
    template: Path | None = None
    per_second: Money = PER_SECOND
    redelivery_s: float = REDELIVERY_S
    fake_provider: type[FakeProvider] = FakeProvider


RequestAndVideo = tuple[Request, Video | None]


@dataclass
class AppEnvironment:
    """Everything that runs. `apps[n]` serves the bot of `apis[n]`; `extra_workers` have no chat.

    `fake_providers` are the servers of the accounts.
    """

    config: EnvironmentConfig
    fake_providers: list[FakeProvider]
    apis: list[BotApiServer]
    apps: list[App]
    stack: AsyncExitStack
    extra_workers: list[App] = field(default_factory=list)

    @property
    def app(self) -> App:
        return self.apps[0]

    @property
    def fake_provider(self) -> FakeProvider:
        """The server of the first account."""
        return self.fake_providers[0]

    def account_of(self, bot: int) -> FakeProvider:
        """Return the server at which the bot with this number orders."""
        return self.fake_providers[min(bot, len(self.fake_providers) - 1)]

    @property
    def api(self) -> BotApiServer:
        return self.apis[0]

    @property
    def model(self) -> Any:
        """The model of `config`, which a test may question about what it was asked."""
        return self.config.model

    @property
    def all_apps(self) -> list[App]:
        """Every app, those without a chat included."""
        return [*self.apps, *self.extra_workers]

    def user(self, user_id: int = 1001, name: str = "Ana", language: str = "en") -> Person:
        return self.api.user(user_id, name, language_code=language)

    async def latest(self, user_id: int = 1001) -> RequestAndVideo | None:
        found = await requests.list_for_user(self.app.ledger, user_id, 1)
        return found[0] if found else None

    async def wait_settled(
        self, user_id: int = 1001, count: int = 1, seconds: float = 30
    ) -> list[RequestAndVideo]:
        """Wait until the user's `count` latest requests are settled; return them, newest first."""
        found: list[RequestAndVideo] = []

        async def check() -> bool:
            found[:] = await requests.list_for_user(self.app.ledger, user_id, count)
            return len(found) == count and all(is_settled(*one) for one in found)

        await wait_until(check, seconds, f"{count} requests of {user_id} to end")
        return found

    async def create(self, idea: str = "a quiet market at dawn", user_id: int = 1001) -> RequestAndVideo:
        """Send one /create as a person does and wait until its request is settled."""
        known = len(await requests.list_for_user(self.app.ledger, user_id, 100))
        await self.user(user_id).send(f"/create {idea}")

        async def check() -> bool:
            return len(await requests.list_for_user(self.app.ledger, user_id, 100)) > known

        await wait_until(check, 10, "the request")
        return (await self.wait_settled(user_id))[0]

    async def is_run_over(self) -> bool:
        """Say whether no run of the agent is under way."""
        return not any(app.dispatcher.running("run_agent") for app in self.all_apps)

    async def start_worker(self) -> App:
        """Open one more app on the same stores that only runs a worker."""
        app = await self.stack.enter_async_context(
            _open_app(self.config, self.fake_provider, self.api, self.app.settings)
        )
        app.ledger.shift = self.app.ledger.shift
        await self.stack.enter_async_context(running(run_worker(app, self.config.redelivery_s)))
        self.extra_workers.append(app)
        return app

    async def flush(self) -> None:
        """Empty the whole Redis, the queue included."""
        client = connect(self.config.redis_url)
        try:
            await client.flushall()
        finally:
            await client.aclose()


@asynccontextmanager
async def open_environment(config: EnvironmentConfig) -> AsyncIterator[AppEnvironment]:
    """Start everything: updates by polling, workers."""
    async with AsyncExitStack() as stack:
        options = dict(config.fake_provider_options or {})
        options.setdefault("cents_per_second", config.per_second.micros // 10_000)
        fake_providers = [
            await stack.enter_async_context(
                config.fake_provider(config.folder / f"provider{number or ''}", shape=config.shape, **options)
            )
            for number in range(config.accounts)
        ]
        env = AppEnvironment(config, fake_providers, [], [], stack)
        settings = _settings(config)
        for number in range(config.bots):
            await _add_bot(env, settings, number)
        for _ in range(config.workers - 1):
            await env.start_worker()
        yield env


def _settings(config: EnvironmentConfig) -> Settings:
    var = config.folder / "var"
    var.mkdir(parents=True, exist_ok=True)
    fixed = {
        "redis_url": SecretStr(config.redis_url),
        "key_prefix": f"eval-{uuid4().hex[:8]}",
        "var_dir": var,
        "agents_dir": write_agent_specs(config.folder / "agents", config.max_turns, **(config.changes or {})),
    }
    settings = read_settings(_env_file=None, **fixed | dict(config.settings or {}))
    if config.template is not None and settings.ledger_url.startswith("sqlite:///"):
        shutil.copy(config.template, settings.ledger_url.removeprefix("sqlite:///"))
    return settings


async def _add_bot(env: AppEnvironment, settings: Settings, number: int) -> None:
    config, enter = env.config, env.stack.enter_async_context
    digits, _, rest = TOKEN.partition(":")
    api = BotApiServer(
        f"{int(digits) + number}:{rest}",
        clock_scale=config.clock_scale, media_dir=config.folder / f"telegram{number}", seed=number,
    )  # fmt: skip
    env.apis.append(await enter(api))
    app = await enter(_open_app(config, env.account_of(number), api, settings))
    env.apps.append(app)
    with suppress(RedisError, SQLAlchemyError, OSError, TimeoutError):
        await app.chat.admission.refresh()  # so that no first command meets the counters' first rebuild
    parts = (
        config.wake(app) if config.wake else _parts(app, config.redelivery_s, works=number < config.workers)
    )
    await enter(running(*parts))  # type: ignore[arg-type]  # a test's parts are any awaitables


def _parts(app: App, redelivery_s: float, *, works: bool) -> Sequence[Awaitable[None]]:
    return (run_polling(app), run_worker(app, redelivery_s)) if works else (run_polling(app),)


@asynccontextmanager
async def _open_app(
    config: EnvironmentConfig, fake_provider: FakeProvider, api: BotApiServer, settings: Settings
) -> AsyncIterator[App]:
    local = settings.model_copy(
        update={
            "telegram_bot_token": SecretStr(api.token),
            "telegram_api_url": api.base_url,
            "deployment_environment": "evals",
        }
    )
    provider = quick_provider(fake_provider.base_url, config.shape, config.capabilities, config.per_second)
    async with open_app(
        local,
        models=SingleModelProvider(config.model),
        provider=provider,
        timeouts=config.timeouts,
        edit_limits=config.edit_limits,
        send_limits=config.send_limits,
    ) as app:
        yield app


def write_agent_specs(folder: Path, max_turns: int | None = None, /, **changes: str | None) -> Path:
    """Copy agents/ to `folder` with lines of generate_video changed.

    `write_agent_specs(folder, cooldown=None, approval="always")` deletes one line and changes another. No tap
    is asked for unless `approval` says so: what is tested is what the model does by itself.
    """
    changes = {"approval": "never", **changes}
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
    """Say whether a request changes no more by itself and its user was notified of its state."""
    if video is None:
        return (
            request.state not in (RequestState.OPEN, RequestState.ORDERED) and request.told == request.state
        )
    return (
        video.state in FINAL_STATES | {VideoState.HOLD, VideoState.AWAITING_APPROVAL}
        and request.told == video.state
    )


async def booked_by_job(ledger: Ledger) -> dict[str, tuple[str, int]]:
    """Return request and net micro-dollars (charges less refunds) of every job in the ledger."""
    booked: dict[str, tuple[str, int]] = {}
    async with ledger.read() as conn:
        # Of videos: orders of other tools are charged elsewhere.
        query = select(entries).where(
            entries.c.kind.in_(("charge", "credit")), entries.c.request_id.not_like("%#%")
        )
        for row in await conn.execute(query):
            job = row.job_id or "unknown"
            micros = row.micros if row.kind == "charge" else -row.micros
            booked[job] = row.request_id, micros + booked.get(job, ("", 0))[1]
    return booked


async def assert_ledger_matches(ledger: Ledger, *accounts: ProviderLog) -> None:
    """Assert that the ledger's charges less its refunds are what the accounts kept, job by job.

    A job may be missing from the ledger only while a video waits for an operator to say whose it is.
    """
    # In this order: what is charged and booked while this reads is no difference.
    before = _net_of(accounts)
    async with ledger.read() as conn:
        unsettled = select(func.count()).where(videos.c.state.in_(_UNBOOKED_STATES))
        waiting = await conn.scalar(unsettled) or 0
    booked = await booked_by_job(ledger)
    net = _net_of(accounts)
    assert {job: micros for job, (_, micros) in booked.items() if micros} == {
        job: micros for job, micros in net.items() if job in booked
    }, "the ledger and the provider's own charge log disagree"
    unbooked = before.keys() - booked.keys()
    assert len(unbooked) <= waiting, f"charged and not in the ledger: {unbooked}"


def _net_of(accounts: Sequence[ProviderLog]) -> dict[str, int]:
    return {job: micros for one in accounts for job, micros in one.net().items()}
