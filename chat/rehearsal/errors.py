"""What may go wrong: a wrong use of the rehearsal itself, or a refusal as Telegram words it."""

from typing import Any


class RehearsalError(Exception):
    """The rehearsal was asked for something it cannot do; the message says what and what to do instead."""


class ApiError(RehearsalError):
    """A refusal that the bot reads: HTTP status, Telegram's own description, extra parameters."""

    def __init__(self, code: int, description: str, parameters: dict[str, Any] | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = parameters


def bad_request(reason: str) -> ApiError:
    return ApiError(400, f"Bad Request: {reason}")


def forbidden(reason: str) -> ApiError:
    return ApiError(403, f"Forbidden: {reason}")


def conflict(reason: str) -> ApiError:
    return ApiError(409, f"Conflict: {reason}")
