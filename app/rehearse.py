"""A house with nothing configured: the local Bot API, the embedded server, the preview provider."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agents import ModelProvider
from pydantic import SecretStr

from app.house import House, open_house
from app.settings import Settings
from chat.desk import Manners
from sandbox.telegram.server import BotApi

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
