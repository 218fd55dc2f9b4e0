"""Builds every part of one process from the settings: `open_app`, `open_sandboxed_app`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from docket import Docket
from pydantic import SecretStr

from app.accounts import collect_accounts, read_image_price_list, read_price_list
from app.embedded_redis import embedded_valkey, private_folder
from app.lazy_aiogram import AiohttpSession, Bot, DefaultBotProperties, ParseMode, TelegramAPIServer
from app.pacing import SwitchedEditLimits, SwitchedSendLimits
from app.redis_check import find_unsafe
from app.settings import LOCAL, Settings, SettingsError, provider_names
from app.store_start import until_available
from chat.context import AlertLinks, ChatContext, EditLimits
from chat.conversations import Conversations
from chat.free_limit import FreeLimit
from chat.i18n import check_locales
from chat.middleware import CallTraces, KeptResponses, NewerAnswers
from chat.notifier import notification_steps
from chat.send_limits import SendLimiter, SendLimits
from chat.updates import read_json
from guardrails.admission import Admission, RedisKeys
from guardrails.content.policy import ContentPolicy, shipped_rules
from guardrails.money import Money
from guardrails.policy import rates_of
from guardrails.redis_client import RedisClient, connect
from ledger import database, due_work
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.migrate import newest_revision
from providers.base import NotConfigured, Provider
from providers.images import ANSWERS_FOLDER, IMAGE_MAKERS, ImageProvider
from providers.registry import ProviderConfig, create_provider
from sandbox.telegram.flood import Pacing
from sandbox.telegram.server import BotApiServer
from telemetry import exporter, metrics
from telemetry.resource import Role
from telemetry.tracing import TRACER_PROVIDER
from tools.agent_factory import DIRECTOR, AgentFactory, load_declarations, paid_offers
from tools.agent_spec import Declaration, declarations_folder
from tools.model_prices import ModelBudget, read_model_prices
from tools.offer import Offer, PaidOffer
from tools.registry import GENERATE_VIDEO, TOOLS, guarded_tools, paid_tools
from worker.clocks import Clocks
from worker.context import Timeouts, WorkerContext
from worker.dispatcher import Dispatcher
from worker.media_probe import refuses_files
from worker.orphans import Orphans
from worker.pictures import forget_pictures
from worker.poll_limits import PollLimits
from worker.queue import Queue, open_docket
from worker.rate_limits import RateLimiter
from worker.steps import worker_steps
from worker.tasks import register
from worker.witness import Witness

if TYPE_CHECKING:
    from agents import ModelProvider

    from guardrails.content.moderation import Moderation


def choose_model_provider(
    api_key: str | None, base_url: str | None = None, api: Literal["responses", "chat"] = "responses"
) -> "ModelProvider":
    """Return the models of the configured endpoint; without a key, the scripted model of the sandbox."""
    # Imported here, because a bot without a worker does not load the agents SDK.
    from sandbox.model import SandboxModelProvider
    from tools.model_endpoint import endpoint_models

    return SandboxModelProvider() if api_key is None else endpoint_models(api_key, base_url, api)


def model_budget(settings: Settings) -> ModelBudget:
    """Return what models cost and may cost in a day.

    Raises:
        SettingsError: MODEL_PRICES cannot be used.
    """
    prices, path = None, settings.model_prices
    if path is not None:
        try:
            prices = read_model_prices(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"MODEL_PRICES {path} cannot be used: {error}") from error
    caps = [
        None if cap is None else Money.parse(f"${cap}")
        for cap in (settings.model_day_cap, settings.model_user_day_cap)
    ]
    return ModelBudget(prices, *caps)


def choose_provider(settings: Settings) -> Provider:
    """Return the provider that VIDEO_PROVIDER names; an adapter is imported only when it is chosen.

    Raises:
        SettingsError: The provider lacks something; the message says what to set.
    """
    if settings.video_provider == LOCAL:
        from sandbox.preview.provider import LocalProvider

        return LocalProvider(settings.var_dir / "provider")
    config = ProviderConfig(
        api_key=settings.video_api_key.get_secret_value() if settings.video_api_key else "",
        base_url=settings.video_base_url or "",
        dialect=settings.video_dialect,
        prices=read_price_list(settings.video_prices, "VIDEO_PRICES"),
        proxy_retries_off=settings.video_proxy_retries_off,
    )
    try:
        return create_provider(settings.video_provider, config)
    except NotConfigured as error:
        raise SettingsError(f"VIDEO_PROVIDER {settings.video_provider}: {error}") from None


def choose_images(settings: Settings) -> ImageProvider | None:
    """Return what makes stills: the server of IMAGE_BASE_URL, the sandbox beside test videos, or nothing.

    Raises:
        SettingsError: The server lacks something; the message says what to set.
    """
    folder = settings.media / ANSWERS_FOLDER
    if settings.image_base_url is None:
        if settings.video_provider != LOCAL:
            return None
        from sandbox.preview.images import SandboxImages

        return ImageProvider(SandboxImages(settings.var_dir / "images"), folder)
    from providers.openai_images import OpenAIImages

    key = settings.image_api_key.get_secret_value() if settings.image_api_key else ""
    try:
        prices = read_image_price_list(settings.image_prices)
        return ImageProvider(OpenAIImages(settings.image_base_url, key, prices), folder)
    except NotConfigured as error:
        raise SettingsError(f"IMAGE_BASE_URL: {error}") from None


def choose_content(settings: Settings) -> "tuple[ContentPolicy, Moderation | None]":
    """Return the content policy, and the moderation client in it, which its opener closes."""
    if settings.moderation_api_key is None:
        return ContentPolicy(), None
    from guardrails.content.moderation import OPENAI_URL, Moderation  # it brings the openai client

    moderation = Moderation(settings.moderation_api_key, settings.moderation_base_url or OPENAI_URL)
    return ContentPolicy(moderation=moderation), moderation


def declare_names() -> None:
    """Fill telemetry's closed sets of names from the registries, so that none is counted as `other`."""
    metrics.declare_names(tools=guarded_tools(), providers=(*provider_names(), *IMAGE_MAKERS))
    metrics.declare_build(newest_revision())
    exporter.declare_tools(TOOLS)


@dataclass(frozen=True)
class App:
    """All parts of one process. `dispatcher` and `orphans` work in a process that runs a worker.

    Attributes:
        redis: A client beside that of admission: a wait for its connections delays no guard.
        redis_url: Of the configured Redis, or of the embedded one.
    """

    settings: Settings
    bot: Bot
    ledger: Ledger
    docket: Docket
    chat: ChatContext
    worker: WorkerContext
    agent_factory: AgentFactory
    dispatcher: Dispatcher
    orphans: Orphans
    redis: RedisClient
    redis_url: SecretStr


@asynccontextmanager
async def open_app(  # noqa: PLR0915 - one statement for each part
    settings: Settings,
    *,
    runs_agents: bool = True,
    models: "ModelProvider | None" = None,
    provider: Provider | None = None,
    timeouts: Timeouts | None = None,
    edit_limits: EditLimits | None = None,
    send_limits: SendLimits | None = None,
) -> AsyncIterator[App]:
    """Open every part, and close them all in reverse order.

    Args:
        settings: Addresses and keys of the parts.
        runs_agents: Whether this process runs a worker. Without one, the agents SDK is not imported.
        models: The models of the agents; by default those that the settings name.
        provider: Makes the videos; by default the one that the settings name.
        timeouts: The worker's timeouts; tests shorten them.
        edit_limits: How often a message may be edited; a local Bot API bans no one for quick edits.
        send_limits: Telegram's limits, which a local Bot API does not have.
    """
    declare_names()
    check_locales()
    rules = asyncio.create_task(asyncio.to_thread(shipped_rules))  # while the stores are opened
    declarations = load_declarations(settings.agents_dir or declarations_folder())
    policy = declarations[DIRECTOR].tools[GENERATE_VIDEO]
    limits = declarations[DIRECTOR].limits_of(GENERATE_VIDEO, paid_tools())
    async with AsyncExitStack() as stack:
        role: Role = "onetake-worker" if runs_agents else "onetake-bot"
        await stack.enter_async_context(exporter.export_spans(settings.otlp, role))
        if runs_agents:
            from tools.sdk_tracing import bridge_sdk_traces

            stack.enter_context(bridge_sdk_traces(content=settings.trace_content))
            models = models or _models(settings)
        redis_url = await _open_redis(settings, stack)
        ledger = await _open_ledger(settings, stack)
        await _check_media(settings.media)
        redis = connect(redis_url, TRACER_PROVIDER)
        stack.push_async_callback(redis.aclose)
        provider = provider or choose_provider(settings)
        stack.push_async_callback(provider.close)
        images = choose_images(settings)
        offer = _offer(settings, provider)
        others: Mapping[str, PaidOffer] = {}
        if images is not None:
            stack.push_async_callback(images.close)
            others = _other_offers(settings, declarations, offer, images)
        admission = Admission(
            redis, LedgerCounters(ledger), RedisKeys(settings.key_prefix), limits, GENERATE_VIDEO,
            {tool: one.limits for tool, one in others.items()},
        )  # fmt: skip
        # A client of its own, untraced: sends must not take the connections of admission.
        limiter_redis = connect(redis_url)
        stack.push_async_callback(limiter_redis.aclose)
        limiter = RateLimiter(limiter_redis, settings.key_prefix)
        bot = await _bot(settings, SendLimiter(limiter, send_limits or SendLimits()), stack)
        # Each bot has its own queue in shared stores: only its own workers have its token.
        open_queue = partial(_open_queue, stack, f"{settings.key_prefix}-{bot.id}", redis_url)
        docket = await until_available(open_queue, "the queue")
        queue = Queue(docket)
        accounts = collect_accounts(settings, provider)
        stack.push_async_callback(accounts.close)
        providers: dict[str, Provider] = dict(accounts.by_account)
        if images is not None:
            providers[images.account] = images
        metrics.VIDEOS_STARTED.declare(provider=offer.provider, model=offer.model)
        await rules
        content, moderation = choose_content(settings)
        if moderation is not None:
            stack.push_async_callback(moderation.aclose)
        agent_factory = AgentFactory(
            declarations, models, ledger, admission, content, offer, queue.wake, others
        )
        rates = rates_of(policy)
        worker = WorkerContext(
            ledger, admission, queue, providers, rates, settings.media, timeouts or Timeouts(),
            PollLimits(limiter, providers).take, Witness(limiter_redis, settings.key_prefix), Clocks(ledger),
            bot.id, model_budget(settings), {tool: rates_of(one.policy) for tool, one in others.items()},
        )  # fmt: skip
        chat = ChatContext(
            bot, ledger, admission, queue, worker, offer, limits,
            Conversations(limiter_redis, settings.key_prefix, bot.id), content.rules,
            edit_limits or EditLimits(),
            settings.allowed_users, settings.admins, settings.day_cost_thresholds,
            asks=policy.needs_approval(offer.cheapest()), access_mode=settings.access,
            free_limit=FreeLimit(limiter_redis, settings.key_prefix, bot.id),
            pictures=settings.picture_policy, picture_judge=moderation,
            forgets=(partial(forget_pictures, worker.media_dir),), stars=settings.star_shop,
            links=AlertLinks(settings.page_url, (settings.jaeger_url or "").rstrip("/")), others=others,
        )  # fmt: skip
        dispatcher = Dispatcher(
            [*worker_steps(worker, agent_factory, settings.worker_concurrency), *notification_steps(chat)],
            partial(due_work.next_due, ledger, bot.id),
            worker.timeouts.sweep_s,
        )
        register(docket, dispatcher.kick)
        orphans = Orphans(worker, bot.id, provider.account)
        yield App(
            settings,
            bot,
            ledger,
            docket,
            chat,
            worker,
            agent_factory,
            dispatcher,
            orphans,
            limiter_redis,
            SecretStr(redis_url),
        )


def _offer(settings: Settings, provider: Provider) -> Offer:
    return _offer_of(provider, settings.video_model, "VIDEO_MODEL")


def _offer_of(provider: Provider, named: str | None, setting: str) -> Offer:
    model = named or provider.capabilities.models[0]
    offer = Offer(provider.name, model, provider.capabilities, provider.quote, provider.account)
    try:
        offer.cheapest()
    except ValueError as error:
        known = ", ".join(provider.capabilities.models)
        raise SettingsError(f"{setting}: {error}; known: {known}") from None
    return offer


def _other_offers(
    settings: Settings, declarations: Mapping[str, Declaration], offer: Offer, images: Provider
) -> Mapping[str, PaidOffer]:
    stills = _offer_of(images, settings.image_model, "IMAGE_MODEL")
    return paid_offers(declarations, {"video": offer, "image": stills})


async def _open_queue(stack: AsyncExitStack, name: str, url: str) -> Docket:
    return await stack.enter_async_context(open_docket(name, url))


async def _open_ledger(settings: Settings, stack: AsyncExitStack) -> Ledger:
    ledger = Ledger(settings.ledger_url, shift=settings.clock_shift)
    stack.push_async_callback(ledger.close)
    await until_available(partial(database.migrate, ledger), "the ledger")
    return ledger


async def _check_media(folder: Path) -> None:
    if fault := await asyncio.to_thread(refuses_files, folder):
        raise SettingsError(f"MEDIA_DIR {folder} takes no file: {fault}")


async def _open_redis(settings: Settings, stack: AsyncExitStack) -> str:
    """Return the URL of Redis; without REDIS_URL, lock the data folder and run the embedded server in it.

    Raises:
        SettingsError: On this Redis an order could be made twice.
    """
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        if unsafe := await find_unsafe(url, settings.key_prefix):
            raise SettingsError(f"REDIS_URL: {unsafe}")
        return url
    stack.enter_context(private_folder(settings.var_dir))
    return stack.enter_context(embedded_valkey(settings.var_dir / "valkey"))


def _models(settings: Settings) -> "ModelProvider":
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    return choose_model_provider(key, settings.openai_base_url, settings.openai_api)


async def _bot(settings: Settings, send_limiter: SendLimiter, stack: AsyncExitStack) -> Bot:
    if settings.telegram_bot_token is None:
        raise SettingsError(
            "TELEGRAM_BOT_TOKEN is not set; `make chat` runs without one, against a local Bot API"
        )
    session = AiohttpSession(api=TelegramAPIServer.from_base(settings.telegram_api_url), json_loads=read_json)
    session.middleware(send_limiter)  # first, so that a call's span does not contain its wait
    session.middleware(CallTraces())
    session.middleware(KeptResponses())
    session.middleware(NewerAnswers())  # last, so that a call is traced as what it was
    bot = Bot(
        settings.telegram_bot_token.get_secret_value(),
        session=session,
        default=DefaultBotProperties(parse_mode=ParseMode.HTML),
    )
    stack.push_async_callback(session.close)
    return bot


@asynccontextmanager
async def open_sandboxed_app(
    settings: Settings,
    folder: Path,
    *,
    models: "ModelProvider | None" = None,
    port: int = 0,
    keep: bool = False,
    pacing: Pacing = "fast",
) -> AsyncIterator[tuple[App, BotApiServer]]:
    """Open an app with a local Telegram and embedded stores in `folder`.

    Args:
        settings: A model endpoint is used if it is set; stores, token and provider are not.
        folder: Everything is written below it.
        models: The models of the agents, instead of the settings' choice.
        port: Port of the local Bot API and its page; 0 takes a free one.
        keep: Keep the chats after the process ends.
        pacing: Whether Telegram's limits hold at the start; the page has a switch for them, which the bot's
            own limits follow.
    """
    chats = folder / "chats"
    api = BotApiServer(port=port, state_dir=chats) if keep else BotApiServer(port=port, media_dir=chats)
    api.pace(pacing)
    async with api:
        local = settings.model_copy(
            update={
                "telegram_bot_token": SecretStr(api.token),
                "telegram_api_url": api.base_url,
                "redis_url": None,
                "database_url": None,
                "video_provider": LOCAL,
                "video_model": None,
                "image_base_url": None,
                "var_dir": folder,
                "media_dir": None,
                "allowed_users": frozenset(),
                "access": "open",
                # What a person shows to their own machine leaves it for no provider.
                "pictures": settings.pictures or "unjudged",
            }
        )
        async with open_app(
            local,
            models=models,
            edit_limits=SwitchedEditLimits(retry_s=2, is_fast=lambda: api.pacing == "fast"),
            send_limits=SwitchedSendLimits(is_fast=lambda: api.pacing == "fast"),
        ) as app:
            yield app, api
