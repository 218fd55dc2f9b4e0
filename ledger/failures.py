"""Why an order ended badly, waits for a person, or cannot go on: one closed table of reasons.

The words are stored in `videos.failure`. What an operator reads about each is here, and names the setting
that mends it. What a user reads is in `chat/locales/*.yaml`, under state and reason (`chat.status_message`).
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Failure(StrEnum):
    """A reason, as `videos.failure` stores it."""

    # Refused before anything was charged.
    POLICY = "policy"
    INVALID = "invalid"
    AUTH = "auth"
    FUNDS = "funds"
    UNREACHABLE = "unreachable"
    PRICE_CHANGED = "price_changed"
    CHAT_REFUSED = "chat_refused"
    WITHDRAWN = "withdrawn"
    BANNED = "banned"
    NOT_OFFERED = "not_offered"
    PICTURE_GONE = "picture_gone"
    # The outcome of the POST was unknown, and how that was resolved.
    ABSENT = "absent"
    SETTLED = "settled"
    IN_DOUBT = "in_doubt"
    CANNOT_ASK = "cannot_ask"
    NO_PROVIDER = "no_provider"  # written by the version before; today ACCOUNT_UNKNOWN
    ACCOUNT_UNKNOWN = "account_unknown"
    # The provider took the order, and how its job ended.
    FAILED = "failed"
    MODERATED = "moderated"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    # The job is, or may be, there, and its video is not.
    GONE = "gone"
    ACCESS_REFUSED = "access_refused"
    OVERDUE = "overdue"
    NO_ANSWER = "no_answer"
    BAD_ASSET = "bad_asset"
    TOO_BIG = "too_big"
    DISK = "disk"
    # A job whose user had read that nothing was charged.
    LATE = "late"


F = Failure
_REFUSED: Final = frozenset({F.POLICY, F.INVALID, F.AUTH, F.FUNDS, F.UNREACHABLE})
_BAD_ENDS: Final = frozenset({F.FAILED, F.MODERATED, F.CANCELLED, F.EXPIRED})

REASONS: Final[Mapping[str, frozenset[Failure]]] = MappingProxyType(
    {
        "HOLD": frozenset(
            {
                F.IN_DOUBT, F.CANNOT_ASK, F.NO_PROVIDER, F.ACCOUNT_UNKNOWN, F.GONE, F.ACCESS_REFUSED,
                F.OVERDUE, F.NO_ANSWER, F.BAD_ASSET, F.TOO_BIG, F.DISK,
            }
        ),
        "FAILED_PAID": _BAD_ENDS | {F.GONE},
        "FAILED_UNPAID": _REFUSED | _BAD_ENDS | {F.ABSENT, F.SETTLED},
        "EXPIRED": frozenset({F.PRICE_CHANGED, F.NOT_OFFERED, F.PICTURE_GONE, F.DISK}),
        "CANCELLED": frozenset({F.CHAT_REFUSED, F.WITHDRAWN, F.BANNED}),
    }
)  # fmt: skip
"""The reasons that each state may have. Every pair has its own text for the user, in every language."""

EXPLANATIONS: Final[Mapping[Failure, str]] = MappingProxyType(
    {
        F.POLICY: "the provider's content rules refused the order; nothing was charged",
        F.INVALID: (
            "the provider refused the order as it was written, nothing was charged: compare VIDEO_PRICES and"
            " VIDEO_DIALECT with what it offers"
        ),
        F.AUTH: "the provider did not accept VIDEO_API_KEY; nothing was charged",
        F.FUNDS: "the account of VIDEO_API_KEY has no funds: top it up at the provider; nothing was charged",
        F.UNREACHABLE: (
            "the provider could not be reached, nothing was charged: check VIDEO_BASE_URL and the network"
        ),
        F.PRICE_CHANGED: (
            "VIDEO_PRICES no longer has the price that the user was shown, so nothing was sent or charged"
        ),
        F.CHAT_REFUSED: "the bot may not write to the chat, so nothing was sent or charged",
        F.NOT_OFFERED: "its length or size was not on offer any more when its user tapped; nothing was sent",
        F.BANNED: "an admin banned its user before it was paid; nothing was charged",
        F.PICTURE_GONE: (
            "its picture could not be sent along: it was removed after a day or by its user, or the account"
            " takes none any more; nothing was sent or charged"
        ),
        F.WITHDRAWN: "its user asked for another video before tapping; nothing was sent or charged",
        F.ABSENT: "the provider's list shows no such job, twice: nothing was charged",
        F.SETTLED: "a person resolved it as unpaid",
        F.IN_DOUBT: (
            "the answer to the POST was lost, and the provider could not say whether it made the job: look at"
            " the account of VIDEO_API_KEY, then `resolve`"
        ),
        F.CANNOT_ASK: (
            "the answer to the POST was lost, and every question about it raised an error: check"
            " VIDEO_BASE_URL and VIDEO_API_KEY, look at the provider's account, then `resolve`"
        ),
        F.NO_PROVIDER: (
            "no process has its provider configured: set VIDEO_PROVIDER back until it has ended, or `resolve`"
        ),
        F.ACCOUNT_UNKNOWN: (
            "no process has the account that took it: set it as VIDEO_ACCOUNT or in VIDEO_DRAIN until it has"
            " ended, or `resolve`"
        ),
        F.FAILED: "the provider took the order and its job failed",
        F.MODERATED: "the provider's content rules withheld the video after it had taken the order",
        F.CANCELLED: "the job was cancelled at the provider, not by OneTake: ask who uses VIDEO_API_KEY",
        F.EXPIRED: "the provider calls the job expired: it was not finished, or not fetched, in its time",
        F.GONE: (
            "the provider says that it does not have the job or its file: check that VIDEO_BASE_URL and"
            " VIDEO_API_KEY are those that ordered it, then `resolve`"
        ),
        F.ACCESS_REFUSED: (
            "the provider refuses questions about the job, or its download: check VIDEO_API_KEY; it is tried"
            " again for a day, then `resolve`"
        ),
        F.OVERDUE: (
            "the provider has not finished the job in its time: look at it there; a video that comes within a"
            " day is delivered, then `resolve`"
        ),
        F.NO_ANSWER: (
            "the provider did not answer questions about the job, or its download, until it was overdue:"
            " check VIDEO_BASE_URL; it is tried again for a day, then `resolve`"
        ),
        F.BAD_ASSET: "what was downloaded is not a video: look at the job at the provider, then `resolve`",
        F.TOO_BIG: (
            "the video is too big to be downloaded and sent: offer smaller sizes or lengths in VIDEO_PRICES,"
            " get this one from the provider by hand, then `resolve`"
        ),
        F.DISK: (
            "MEDIA_DIR does not take a file: free space there or make it writable; orders wait unpaid,"
            " finished videos are downloaded as soon as it does"
        ),
        F.LATE: "the job turned up after its user had read that nothing was charged",
    }
)
"""One sentence for operators for each reason; where a setting mends it, its name."""

_BY_WORD: Final[Mapping[str, str]] = {str(one): words for one, words in EXPLANATIONS.items()}


def explanation(failure: str | None) -> str:
    """Return the operators' sentence of a stored reason; empty for none, or for one of another version."""
    return _BY_WORD.get(failure or "", "")
