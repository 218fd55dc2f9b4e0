"""Outlook: may this user order now, and if not, when? Asked of the script that `/create` asks, and of SQL."""

from dataclasses import dataclass

from guardrails.admission import PAID_TOOL, Admission, Ask
from ledger import limits as counting
from ledger.database import Ledger
from ledger.limits import Limits, Standing
from ledger.money import Money
from ledger.words import Verdict


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a user stands at `now` (milliseconds).

    Attributes:
        word: `admitted`, or what refuses: an open breaker, else the limit that lasts longest. `closed`: only
            the ledger could be asked, and it refuses nothing.
        until: When nothing refuses any more; None if nobody knows, or nothing refuses.
    """

    now: int
    standing: Standing
    word: Verdict
    until: int | None = None


async def outlook(
    admission: Admission, ledger: Ledger, user_id: int, price: Money, limits: Limits
) -> Outlook:
    """Look, without taking anything, whether one more video at `price` would be admitted."""
    # An id that no request has: the question is about the next one, whatever this user has under way.
    ask = Ask(PAID_TOOL, f"outlook:{user_id}", user_id, price=price, limits=limits)
    decision = await admission.look(ask)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        standing = await counting.standing(conn, user_id, price, limits, now)
    refusals: list[tuple[Verdict, int | None]] = [(one.verdict, one.until) for one in standing.denied]
    if decision.word not in ("admitted", "replay", "closed"):
        refusals.append((decision.word, decision.until))
    if not refusals:
        return Outlook(now, standing, "closed" if decision.word == "closed" else "admitted")
    # The script names the first limit alone, and each must have ended: the longest wait is the true one.
    word, until = max(refusals, key=_weight)
    return Outlook(now, standing, word, until)


def _weight(refusal: tuple[Verdict, int | None]) -> tuple[bool, bool, int]:
    word, until = refusal
    return word == "breaker", until is None, until or 0
