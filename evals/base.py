"""What every part of a case is: closed to fields that it does not know, and words for what is wrong."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class EvalError(Exception):
    """A run cannot begin or go on; the message is one sentence for the person who started it."""


class Said(BaseModel):
    """Base of everything that a YAML case says: frozen and closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Count(Said):
    """How often something may happen: a number, or its bounds."""

    least: int = Field(default=0, ge=0)
    most: int | None = Field(default=None, ge=0)

    def holds(self, found: int) -> bool:
        return self.least <= found and (self.most is None or found <= self.most)

    def __str__(self) -> str:
        if self.most == self.least:
            return str(self.least)
        if self.most is None:
            return f"≥ {self.least}"
        return f"≤ {self.most}" if not self.least else f"{self.least} to {self.most}"


def _count(value: Any) -> Any:
    return {"least": value, "most": value} if isinstance(value, int) else value


def _number_too(schema: dict[str, Any]) -> None:
    """Let editors know that a bare number is read as well."""
    schema["anyOf"] = [{"type": "integer", "minimum": 0}, {"$ref": schema.pop("$ref")}]


def text_too(schema: dict[str, Any]) -> None:
    """Let editors know that a bare text is read as well."""
    other = {key: schema.pop(key) for key in ("$ref", "type", "items") if key in schema}
    schema["anyOf"] = [{"type": "string"}, other]


Counted = Annotated[Count, BeforeValidator(_count), Field(json_schema_extra=_number_too)]
"""`paid: 1`, or `paid: {most: 1}`."""


def _many(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


Words = Annotated[tuple[str, ...], BeforeValidator(_many), Field(json_schema_extra=text_too)]
"""One text, or several."""
