"""Imports aiogram in a third of the time: the schema of a Telegram type is built when it is first used.

aiogram says `defer_build` of its 450 types and then builds every one at import: 2 seconds of each start, for
types of which we use a dozen. This holds that one loop back, and lends each of the types' modules the names
that the loop would have lent. Where aiogram was imported before, nothing is changed.
"""

import importlib
import sys
from typing import Any, Final

from pydantic import BaseModel

_TYPES: Final = "aiogram.types"


def import_telegram_types() -> None:
    """Import `aiogram.types`, if nobody did, without building what nobody asks for."""
    if _TYPES in sys.modules:
        return
    build = BaseModel.__dict__["model_rebuild"]

    def later(cls: type[BaseModel], /, **given: Any) -> bool | None:
        deferred = cls.__module__.startswith(f"{_TYPES}.") and given.keys() == {"_types_namespace"}
        answer: bool | None = None if deferred else build.__get__(None, cls)(**given)
        return answer

    BaseModel.model_rebuild = classmethod(later)  # type: ignore[assignment, method-assign]  # for one import
    try:
        types = importlib.import_module(_TYPES)
    finally:
        BaseModel.model_rebuild = build  # type: ignore[method-assign]  # as it was
    names = {name: getattr(types, name) for name in types.__all__}
    for module in [name for name in sys.modules if name.startswith(f"{_TYPES}.")]:
        for name, value in names.items():
            vars(sys.modules[module]).setdefault(name, value)
