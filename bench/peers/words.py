"""Checks every sentence that the model was answered against the provider's charge log, by machine.

A sentence is read for what it claims, in the words that guards use; then the claim is compared with what
had been charged when it was made.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from bench.peers.place import Line, Place, lines

Claim = Literal["done", "not done", "unknown", "in progress", "refused", "unavailable", "nothing"]

RECEIPT: Final = re.compile(r"R-[0-9a-f]{8}-([\w-]*\w)")
_RETRY: Final = re.compile(
    r"(?:please|you (?:may|can|should)|later,?) (?:re)?try|try (?:it |the \w+ )?again|"
    r"(?<!not )\bretry (?:it|the|later|with)",
    re.IGNORECASE,
)
_NO_RETRY: Final = re.compile(
    r"(?:do not|don't|never|without|no need to|not to|nor) (?:\w+ ){0,4}(?:re)?try[^.;]*", re.IGNORECASE
)
_IN_PROGRESS: Final = (
    r"in[- ]progress|in[- ]flight|(?:is|already|still) (?:running|runs)|being made|under way"
)
_UNKNOWN: Final = (
    r"unknown|in[- ]?doubt|can(?:not|'t) (?:say|tell)|may (?:or may not )?have|might have|"
    r"not (?:yet )?known|uncertain|being checked|unresolved|ambiguous|could not be confirmed"
)
_NOT_DONE: Final = (
    r"nothing (?:was|is|has been|will be) (?:sent|charged|paid|done|made|bought|run|executed)|"
    r"(?:was|were|is|has) not (?:been )?(?:sent|charged|paid|done|made|executed|run|carried out)|"
    r"did not (?:happen|run)|not executed"
)
_REFUSED: Final = r"limit|quota|budget|refused|not allowed|denied|exceeded|blocked|not permitted"
_UNAVAILABLE: Final = (
    r"unavailable|can(?:not|'t) be reached|not reachable|could not be reached|store|database"
)
_DONE: Final = (
    r"already (?:been )?(?:done|made|charged|completed|executed|sent)|"
    r"(?:was|were|is|has been) (?:charged|done|made|completed|executed)"
)
_CLAIMS: Final[tuple[tuple[Claim, re.Pattern[str]], ...]] = tuple(
    (claim, re.compile(pattern, re.IGNORECASE))
    for claim, pattern in (
        ("unknown", _UNKNOWN),
        ("in progress", _IN_PROGRESS),
        ("not done", _NOT_DONE),
        ("done", _DONE),
        ("refused", _REFUSED),
        ("unavailable", _UNAVAILABLE),
    )
)  # fmt: skip
_NEW: Final = re.compile(
    r"nothing (?:new|more|else) (?:\w+ ){1,2}\w+|not (?:sent|charged|run|executed|done) (?:again|twice)|"
    r"it is not (?:made|charged|run) a second time",
    re.IGNORECASE,
)
"""Says that this call did nothing; says nothing of the calls before it."""
_NEVER_BEGAN: Final = 0.5
"""Seconds in which a call that another process admitted may not yet have begun, or just have ended."""


def claim_of(text: str) -> Claim:
    """Return what a sentence says about the effect that was asked for."""
    if RECEIPT.search(text):
        return "done"
    said = _NEW.sub(" ", text)
    for claim, pattern in _CLAIMS:
        if pattern.search(said):
            return claim
    return "nothing"


def invites_retry(text: str) -> bool:
    """Say whether a sentence asks for the call to be made again."""
    return _RETRY.search(_NO_RETRY.sub(" ", text)) is not None


@dataclass(frozen=True)
class Facts:
    """What had happened for one item of one act while a sentence was being made."""

    effects: list[Line]
    running: bool
    told_before: bool


def _facts(place: Place, said: Line, earlier: list[Line]) -> Facts:
    def mine(one: Line) -> bool:
        return bool(one["act"] == said["act"] and one["item"] == said["item"])

    until = float(said["until"])
    effects = [one for one in lines(place.effects) if mine(one)]
    calls = [one for one in lines(place.calls) if mine(one)]
    ended = {one["call"]: float(one["at"]) for one in calls if one["what"] == "ended"}
    began = [one for one in calls if one["what"] == "began"]
    dead = {int(one["pid"]): float(one["at"]) for one in lines(place.calls) if one["what"] == "killed"}

    def end(one: Line) -> float:
        return min(ended.get(one["call"], float("inf")), dead.get(int(one["pid"]), float("inf")))

    def runs() -> bool:
        since = float(said["since"]) - _NEVER_BEGAN
        return any(one["at"] <= until + _NEVER_BEGAN and end(one) >= since for one in began)

    return Facts(
        effects=[one for one in effects if one["began"] <= until],
        running=runs(),
        told_before=any(
            mine(one) and one["until"] <= said["since"] and RECEIPT.search(one["text"]) for one in earlier
        ),
    )


def fault(place: Place, said: Line, earlier: list[Line], *, store_was_hurt: bool) -> str | None:
    """Return what is wrong with a sentence, or None if it is true."""
    text, facts = str(said["text"]), _facts(place, said, earlier)
    claim = claim_of(text)
    if invites_retry(text) and facts.effects:
        return "invites a retry of what was charged"
    wrong: dict[str, str | None] = {
        "done": _wrong_done(text, facts),
        "not done": "says that nothing was charged, and it was" if facts.effects else None,
        "in progress": None if facts.running else "says in progress, and no call was running",
        "nothing": "says nothing about the effect",
    }
    if facts.told_before and not store_was_hurt:
        wrong["unknown"] = "says unknown of what was known before"
    return wrong.get(claim)


def _wrong_done(text: str, facts: Facts) -> str | None:
    known = {one["receipt"] for one in facts.effects}
    named = {match.group(0) for match in RECEIPT.finditer(text)}
    if named and not named <= known:
        return "hands back the receipt of something else"
    return None if known else "says done, and nothing was charged"


def faults(place: Place, *, store_was_hurt: bool = False) -> list[str]:
    """Return the fault of every sentence of a trial that is not true, with the sentence."""
    found, earlier = [], []
    for said in sorted(lines(place.sentences), key=lambda one: float(one["until"])):
        if (wrong := fault(place, said, earlier, store_was_hurt=store_was_hurt)) is not None:
            found.append(f"{wrong}: {str(said['text'])[:160]!r}")
        earlier.append(said)
    return found
