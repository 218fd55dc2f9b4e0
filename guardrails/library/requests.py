"""The act of a user, as it travels through a run in the SDK's context, around the host's own context."""

from typing import Any, Final

_OWN: Final = ("_act", "_user", "_mine")


class GuardedRequest:
    """What `Guard.request` returns: who asks, and what for. Give it to `Runner.run` as `context`.

    A guarded tool sees the host's own object as `ctx.context`. Whatever else reads the run's context
    (other tools, hooks, instructions) may use this object in its place: attributes and items of the host's
    object can be read and set through it, and `mine(…)` returns it.
    """

    __slots__ = _OWN

    def __init__(self, act: str, user: str, mine: Any) -> None:
        object.__setattr__(self, "_act", act)
        object.__setattr__(self, "_user", user)
        object.__setattr__(self, "_mine", mine)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_mine"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._mine, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._mine, name)

    def __getitem__(self, name: Any) -> Any:
        return self._mine[name]

    def __setitem__(self, name: Any, value: Any) -> None:
        self._mine[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._mine

    def __repr__(self) -> str:
        return f"<guarded request around {type(self._mine).__name__}>"  # ids may name people


def request_of(context: Any) -> GuardedRequest | None:
    """Return the request of a run's context; None where there is none."""
    inner = getattr(context, "context", None)
    return inner if isinstance(inner, GuardedRequest) else None


def act_of(request: GuardedRequest) -> tuple[str, str]:
    """Return the ids of act and user."""
    return request._act, request._user  # noqa: SLF001 - its names must not hide those of the host's object


def mine(context: Any) -> Any:
    """Return the host's own object from a run's context, or from what `Guard.request` returned."""
    inner = context if isinstance(context, GuardedRequest) else getattr(context, "context", context)
    return inner._mine if isinstance(inner, GuardedRequest) else inner  # noqa: SLF001 - as above
