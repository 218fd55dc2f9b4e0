"""Secrets in files, as Docker and Kubernetes mount them: NAME_FILE names the file with the value of NAME."""

from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SUFFIX: Final = "_FILE"

_MAX_BYTES: Final = 100_000


def secret_fields(settings: type[BaseSettings]) -> frozenset[str]:
    """Return the names of the settings that are secrets."""
    return frozenset(
        name
        for name, field in settings.model_fields.items()
        if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ()))
    )


class SecretFiles(PydanticBaseSettingsSource):
    """Reads NAME_FILE of each secret from the same places as NAME.

    Args:
        settings: The class whose secrets may be in files.
        places: Names and values, the first place that has a name counts: the environment, then `.env`.
    """

    def __init__(self, settings: type[BaseSettings], *places: Any) -> None:
        super().__init__(settings)
        self._given: dict[str, str] = {}
        for place in reversed(places):
            self._given |= {name.upper(): value for name, value in place.items() if value}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Return nothing: `__call__` reads all fields at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that are in files.

        Raises:
            ValueError: A file cannot be read, is empty, or its secret is given in both ways. The message has
                the variable and never the value.
        """
        return {
            name: self._read(name.upper(), path)
            for name in sorted(secret_fields(self.settings_cls))
            if (path := self._given.get(f"{name.upper()}{SUFFIX}"))
        }

    def _read(self, name: str, path: str) -> str:
        if self._given.get(name):
            raise ValueError(f"{name}{SUFFIX} and {name} are both set; set one of them")
        try:
            with Path(path).open(encoding="utf-8") as file:
                value = file.read(_MAX_BYTES).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ValueError(f"{name}{SUFFIX} {path} cannot be read ({why})") from None
        if not value:
            raise ValueError(f"{name}{SUFFIX} {path} is empty")
        return value
