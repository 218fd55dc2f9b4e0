"""Whether what the user read is true: every claim in the chats against the ledger and the charge log."""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

import chat
from evals.case import Case, Language
from evals.evidence import Evidence, Fate
from ledger.identity import short_id
from ledger.money import Money

_WORDS: Final = Path(chat.__file__).parent / "words"
_LANGUAGES: Final[tuple[Language, ...]] = ("en", "es", "pt")
_PRICE: Final = re.compile(r"\$\d+(?:\.\d{2,6})?")
_SUCCESS: Final = ("ready", "ready_late", "delivered", "succeeded")
_UNPAID: Final = (
    "no_order",
    "cancelled",
    "failed_absent",
    "failed_unreachable",
    "failed_policy",
    "failed_unpaid",
)
_GAP: Final = re.compile(r"\{\w+\}|<[^>]+>")


def lies(case: Case, found: Evidence) -> list[str]:
    """Return what some message claims and is not so."""
    del case
    wrong = _videos_claimed(found)
    by_mark = {short_id(fate.request): fate for fate in found.fates}
    for line in found.lines:
        if not line.bot:
            continue
        fate = next((one for mark, one in by_mark.items() if f"#{mark}" in line.text), None)
        if fate is not None:
            wrong += _about(fate, line.text, video=line.video)
    return wrong


def _videos_claimed(found: Evidence) -> list[str]:
    """No more messages that say a video is ready than videos that were delivered."""
    delivered = Counter(line.chat for line in found.lines if line.video)
    claims = Counter(
        line.chat for line in found.lines if line.bot and not line.video and _says(line.text, _SUCCESS)
    )
    return [
        f"chat {chat_id}: {number} messages say that a video is ready, {delivered[chat_id]} came"
        for chat_id, number in claims.items()
        if number > delivered[chat_id]
    ]


def _about(fate: Fate, text: str, *, video: bool) -> list[str]:
    """What one message says of one request."""
    wrong = []
    if video and fate.video != "DELIVERED":
        wrong.append(f"{fate.request}: a video stands in the chat and the ledger says {fate.word}")
    if not video and fate.booked_micros == 0 and _says(text, _SUCCESS):
        wrong.append(f"{fate.request}: nothing was paid, and a message says that the video is ready")
    if fate.booked_micros and _says(text, _UNPAID):
        wrong.append(f"{fate.request}: {Money(fate.booked_micros)} was paid, and a message says nothing was")
    if video:
        booked = str(Money(fate.booked_micros))
        prices = _PRICE.findall(text.rpartition("\n")[2])
        if prices != [booked]:
            wrong.append(f"{fate.request}: the message says {', '.join(prices)}, the books say {booked}")
    return wrong


def other_languages(language: Language, texts: Sequence[str]) -> list[str]:
    """Return the texts that are made from another language's words and not from this one's."""
    wrong = []
    for text in texts:
        spoken = {one for one in _LANGUAGES if any(fixed in text for fixed in _fixed(one))}
        if spoken and language not in spoken:
            wrong.append(f"{text[:60]!r} is {', '.join(sorted(spoken))}")
    return wrong


def _says(text: str, names: Sequence[str]) -> bool:
    return any(
        all(part in text for part in _parts(_texts(language)[name]))
        for language in _LANGUAGES
        for name in names
        if name in _texts(language)
    )


@functools.cache
def _texts(language: Language) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((_WORDS / f"{language}.yaml").read_text(encoding="utf-8"))
    return found


@functools.cache
def _parts(template: str) -> tuple[str, ...]:
    """The fixed pieces of a text, long enough to say something."""
    return tuple(part.strip() for part in _GAP.split(template) if len(part.strip()) > 3)


@functools.cache
def _fixed(language: Language) -> tuple[str, ...]:
    """The fixed pieces by which a language's texts are known: long ones that no other language has."""
    mine = {part for text in _texts(language).values() for part in _parts(text) if len(part) > 14}
    others = {
        part
        for one in _LANGUAGES
        if one != language
        for text in _texts(one).values()
        for part in _parts(text)
    }
    return tuple(sorted(mine - others))
