"""Reads the arguments of a call for a Python function, or for a tool that exists already."""

import asyncio
import copy
import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from agents import FunctionTool, RunContextWrapper
from agents.function_schema import FuncSchema, function_schema
from pydantic import BaseModel, ValidationError

from ..arguments import describe_problems, parse_raw
from .requests import mine

_CONTEXT_NAMES: Final = ("ctx", "context", "wrapper", "run_context", "tool_context")
"""A first parameter with one of these names, and no annotation or `Any`, is the run's context."""

_UNTYPED: Final = (inspect.Parameter.empty, Any, "Any", "typing.Any")


class Body(Protocol):
    """What a guarded tool runs, and how its arguments are read."""

    is_async: bool

    def read(self, raw: str) -> tuple[Any, str]:
        """Return the arguments as `key=`, `cost=` and `verify=` get them, and as JSON with sorted keys.

        Raises:
            ValueError: They cannot be used.
        """
        ...

    def restore(self, stored: str) -> Any:
        """Return stored arguments as `read` returned them."""
        ...

    def start(self, context: Any, arguments: Any, raw: str) -> Awaitable[Any]:
        """Run the tool; a plain function runs in a thread."""
        ...


class Arguments(dict[str, Any]):
    """Arguments of a tool without a Python signature, as attributes and as items."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class FunctionBody:
    """A Python function, sync or async, with or without the context as its first parameter."""

    def __init__(self, function: Callable[..., Any], name: str | None, description: str | None) -> None:
        self.is_async = inspect.iscoroutinefunction(function)
        self.schema: FuncSchema = function_schema(
            _with_annotated_context(function), name_override=name, description_override=description
        )
        self._function = function

    def read(self, raw: str) -> tuple[Any, str]:
        """See `Body`."""
        found = parse_raw(raw or "{}")
        if not isinstance(found, dict):
            raise ValueError("they are not an object")  # noqa: TRY004 - as every other fault of a call
        arguments = self._validated(found)
        return arguments, json.dumps(arguments.model_dump(mode="json"), sort_keys=True)

    def restore(self, stored: str) -> Any:
        """See `Body`."""
        return self._validated(json.loads(stored))

    def _validated(self, found: dict[str, Any]) -> BaseModel:
        try:
            return self.schema.params_pydantic_model.model_validate(found)
        except ValidationError as error:
            raise ValueError(describe_problems(error)) from None

    def start(self, context: Any, arguments: Any, raw: str) -> Awaitable[Any]:
        """See `Body`."""
        del raw
        positional, named = self.schema.to_call_args(arguments)
        if self.schema.takes_context:
            positional = [_unwrapped(context), *positional]
        if self.is_async:
            return self._function(*positional, **named)  # type: ignore[no-any-return]
        return asyncio.to_thread(self._function, *positional, **named)


class ToolBody:
    """A tool that exists already, as one of an MCP server or of another package."""

    is_async = True

    def __init__(self, tool: FunctionTool) -> None:
        self.tool = tool

    def read(self, raw: str) -> tuple[Any, str]:
        """See `Body`."""
        found = parse_raw(raw or "{}")
        if not isinstance(found, dict):
            raise ValueError("they are not an object")  # noqa: TRY004 - as every other fault of a call
        missing = [one for one in self.tool.params_json_schema.get("required", ()) if one not in found]
        if missing:
            raise ValueError(f"{', '.join(missing)}: required")
        return Arguments(found), json.dumps(found, sort_keys=True)

    def restore(self, stored: str) -> Any:
        """See `Body`."""
        return Arguments(json.loads(stored))

    def start(self, context: Any, arguments: Any, raw: str) -> Awaitable[Any]:
        """See `Body`."""
        del arguments
        return self.tool.on_invoke_tool(_unwrapped(context), raw)


def _unwrapped(context: Any) -> Any:
    """Return the run's context as the tool knows it: around the host's own object."""
    inner = copy.copy(context)
    inner.context = mine(context)
    return inner


def _with_annotated_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with this signature whose context parameter is annotated as the SDK wants it."""
    signature = inspect.signature(function)
    first = next(iter(signature.parameters.values()), None)
    if first is None or first.annotation not in _UNTYPED or first.name not in _CONTEXT_NAMES:
        return function

    @functools.wraps(function)
    def described(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    parameters = list(signature.parameters.values())
    parameters[0] = first.replace(annotation=RunContextWrapper[Any])
    described.__annotations__ = {**function.__annotations__, first.name: RunContextWrapper[Any]}
    described.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return described
