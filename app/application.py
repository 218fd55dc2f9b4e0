"""App, open_app(), open_sandboxed_app(): builds every component; picks model and moderation."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from agents import Model, ModelProvider, OpenAIProvider
from aiogram import Bot
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.enums import ParseMode
from docket import Docket
from openai import AsyncOpenAI
from pydantic import SecretStr

from app.embedded_redis import embedded_valkey, private_folder
from app.settings import Settings, SettingsError
from chat.context import Desk, Manners
from chat.i18n import check_texts
from chat.middleware import CallTraces
from chat.notifier import tell
from chat.updates import read_json
from guardrails.admission import Admission, Keys
from guardrails.policy import limits_of, rates_of
from guardrails.redis_client import connect
from ledger import database
from ledger.database import Ledger
from providers.base import Provider
from providers.registry import choose_content, choose_provider
from sandbox.model import RehearsalModel
from sandbox.telegram.server import BotApi
from telemetry.exporter import watched
from telemetry.metrics import VIDEOS_STARTED
from tools.agent_factory import DIRECTOR, Crew, load_declarations
from tools.agent_spec import declarations_folder
from tools.context import Offer
from tools.sdk_tracing import bridged
from worker.context import Pace, Studio
from worker.queue import Queue, open_docket
from worker.tasks import register


class RehearsalModels(ModelProvider):
    """Gives every agent the same rehearsal model, whatever name its declaration asks for."""

    def __init__(self, model: RehearsalModel | None = None) -> None:
        self.model = model or RehearsalModel()

    def get_model(self, model_name: str | None) -> Model:  # noqa: ARG002 - the interface names it
        return self.model


def choose_models(
    api_key: str | None, base_url: str | None = None, api: Literal["responses", "chat"] = "responses"
) -> ModelProvider:
    """Return the models of the endpoint that is configured; without a key, the rehearsal model.

    Model calls cost little and change nothing, so this client may retry.
    """
    if api_key is None:
        return RehearsalModels()
    client = AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=2, timeout=60)
    return OpenAIProvider(openai_client=client, use_responses=api == "responses")


@dataclass(frozen=True)
class House:
    """All parts of one process. `stopping` is set once its worker is told to end."""

    settings: Settings
    bot: Bot
    ledger: Ledger
    docket: Docket
    desk: Desk
    studio: Studio
    crew: Crew
    stopping: asyncio.Event


@asynccontextmanager
async def open_house(
    settings: Settings,
    *,
    models: ModelProvider | None = None,
    provider: Provider | None = None,
    pace: Pace | None = None,
    manners: Manners | None = None,
) -> AsyncIterator[House]:
    """Open every part, and close them all in the reverse order.

    Args:
        settings: Where the parts are.
        models: Plays the agents; by default what the settings name.
        provider: Makes the videos; by default what the settings name.
        pace: The studio's times; tests make them short.
        manners: The chat's times; on a local Bot API nobody is banned for quick edits.
    """
    check_texts()
    declarations = load_declarations(settings.agents_dir or declarations_folder())
    policy = declarations[DIRECTOR].tools["generate_video"]
    limits = limits_of(policy)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(watched(settings.outlet))
        stack.enter_context(bridged(content=settings.trace_content))
        redis_url = _redis_url(settings, stack)
        ledger = Ledger(settings.ledger_url, shift=settings.clock_shift)
        stack.push_async_callback(ledger.close)
        await database.upgrade(ledger)
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        admission = Admission(redis, ledger, Keys(settings.key_prefix), limits)
        bot = await _bot(settings, stack)
        # Bots that share the stores have a queue each: only its own workers can speak for a bot.
        docket = await stack.enter_async_context(open_docket(f"{settings.key_prefix}-{bot.id}", redis_url))
        queue = Queue(docket)
        provider = provider or choose_provider(settings)
        stack.push_async_callback(provider.close)
        providers: Mapping[str, Provider] = {provider.name: provider}
        model = settings.video_model or provider.capabilities.models[0]
        offer = Offer(provider.name, model, provider.capabilities, provider.quote)
        try:
            offer.cheapest()
        except ValueError as error:
            known = ", ".join(provider.capabilities.models)
            raise SettingsError(f"VIDEO_MODEL: {error}; known: {known}") from None
        VIDEOS_STARTED.expect(provider=offer.provider, model=offer.model)
        content, moderation = choose_content(settings)
        if moderation is not None:
            stack.push_async_callback(moderation.aclose)
        crew = Crew(declarations, models or _models(settings), ledger, admission, content, offer, queue)
        rates = rates_of(policy)
        studio = Studio(ledger, admission, queue, providers, rates, settings.media, pace or Pace())
        desk = Desk(
            bot, ledger, admission, queue, studio, offer, limits, manners or Manners(),
            settings.allowed_users, settings.admins, settings.day_marks,
        )  # fmt: skip
        stopping = asyncio.Event()
        register(docket, studio, crew, partial(tell, desk), stopping)
        yield House(settings, bot, ledger, docket, desk, studio, crew, stopping)


def _redis_url(settings: Settings, stack: AsyncExitStack) -> str:
    """Return the Redis to use; without one, hold the data folder and run the embedded server in it."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    stack.enter_context(private_folder(settings.var_dir))
    return stack.enter_context(embedded_valkey(settings.var_dir / "valkey"))


def _models(settings: Settings) -> ModelProvider:
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    return choose_models(key, settings.openai_base_url, settings.openai_api)


async def _bot(settings: Settings, stack: AsyncExitStack) -> Bot:
    if settings.telegram_bot_token is None:
        raise SettingsError(
            "TELEGRAM_BOT_TOKEN is not set; `make chat` runs without one, against a local Bot API"
        )
    session = AiohttpSession(api=TelegramAPIServer.from_base(settings.telegram_api_url), json_loads=read_json)
    session.middleware(CallTraces())
    bot = Bot(
        settings.telegram_bot_token.get_secret_value(),
        session=session,
        default=DefaultBotProperties(parse_mode=ParseMode.HTML),
    )
    stack.push_async_callback(session.close)
    return bot


QUICK = Manners(private_s=0.5, group_s=0.5, tick_s=0.2, retry_s=2)
"""Nobody is banned for quick edits on a local Bot API."""


@asynccontextmanager
async def rehearsal(
    settings: Settings,
    folder: Path,
    *,
    models: ModelProvider | None = None,
    port: int = 0,
    keep: bool = False,
) -> AsyncIterator[tuple[House, BotApi]]:
    """Open a house whose Telegram is local and whose stores lie in `folder`.

    Args:
        settings: A model endpoint, if one is set there, is used; stores and token are not.
        folder: Everything that is written lies below it.
        models: Plays the agents in place of the settings' choice.
        port: Of the local Bot API and its page; 0 takes a free one.
        keep: The chats outlive the process.
    """
    chats = folder / "chats"
    api = BotApi(port=port, state_dir=chats) if keep else BotApi(port=port, media_dir=chats)
    async with api:
        local = settings.model_copy(
            update={
                "telegram_bot_token": SecretStr(api.token),
                "telegram_api_url": api.base_url,
                "redis_url": None,
                "database_url": None,
                "video_provider": "local",
                "video_model": None,
                "var_dir": folder,
                "media_dir": None,
                "allowed_users": frozenset(),
            }
        )
        async with open_house(local, models=models, manners=QUICK) as house:
            yield house, api
