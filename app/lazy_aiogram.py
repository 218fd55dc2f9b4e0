"""aiogram's names for `app`, imported without building the models of Telegram's 450 types.

aiogram declares `defer_build` for its types and then builds every one of them at import. Of these we use a
dozen. Building each when it is first used saves 1.9 s of CPU and 100 MB at every start (measured with aiogram
3.31: `import app.processes` takes 3.0 s instead of 4.9 s). Where aiogram was imported before this module,
nothing is changed.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydantic import BaseModel

_TYPES: Final = "aiogram.types"


@contextmanager
def _deferred_builds() -> Iterator[None]:
    """Import `aiogram.types` and skip the one loop that rebuilds each of its models.

    That loop also gives each model its namespace. So every module of the types is given the names instead.
    """
    if _TYPES in sys.modules:
        yield
        return
    rebuild = BaseModel.__dict__["model_rebuild"]

    def rebuild_later(cls: type[BaseModel], /, **arguments: Any) -> bool | None:
        if cls.__module__.startswith(f"{_TYPES}.") and arguments.keys() == {"_types_namespace"}:
            return None
        result: bool | None = rebuild.__get__(None, cls)(**arguments)
        return result

    BaseModel.model_rebuild = classmethod(rebuild_later)  # type: ignore[assignment, method-assign]  # for one import
    try:
        types = importlib.import_module(_TYPES)
    finally:
        BaseModel.model_rebuild = rebuild  # type: ignore[method-assign]  # as it was
    names = {name: getattr(types, name) for name in types.__all__}
    for module in [name for name in sys.modules if name.startswith(f"{_TYPES}.")]:
        for name, value in names.items():
            vars(sys.modules[module]).setdefault(name, value)
    yield


with _deferred_builds():
    from aiogram import Bot
    from aiogram.client.default import DefaultBotProperties
    from aiogram.client.session.aiohttp import AiohttpSession
    from aiogram.client.telegram import TelegramAPIServer
    from aiogram.enums import ParseMode
    from aiogram.exceptions import (
        ClientDecodeError,
        TelegramNetworkError,
        TelegramRetryAfter,
        TelegramServerError,
        TelegramUnauthorizedError,
    )
    from aiogram.utils.token import TokenValidationError

__all__ = [
    "AiohttpSession",
    "Bot",
    "ClientDecodeError",
    "DefaultBotProperties",
    "ParseMode",
    "TelegramAPIServer",
    "TelegramNetworkError",
    "TelegramRetryAfter",
    "TelegramServerError",
    "TelegramUnauthorizedError",
    "TokenValidationError",
]
