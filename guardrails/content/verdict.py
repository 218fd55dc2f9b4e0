"""The verdicts of the content policy: for the guard, for operators and for the agent."""

from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

LONGEST_MATCH: Final = 40  # characters

VerdictWord = Literal["allowed", "refused", "closed"]
ContentCategory = Literal[
    "minor",
    "sexual",
    "violence",
    "real_person",
    "copyrighted_character",
    "self_harm",
    "hate",
    "illicit",
    "other",
]


@dataclass(frozen=True, slots=True)
class ContentVerdict:
    """The verdict about one text.

    Attributes:
        word: `allowed`, `refused`, or `closed` if the check could not be completed (fail closed).
        category: Why it was refused, from a closed set; None for the other two words.
        rule: The rule's id, `moderation:<category>` or `moderation:<failure>`; for operators only.
        matched: What the rule objects to, exactly as the user wrote it, so that they can reword it: at most
            `LONGEST_MATCH` characters, not escaped. Empty about minors and for moderation. Never logged.
    """

    word: VerdictWord
    category: ContentCategory | None = None
    rule: str | None = None
    matched: str = field(default="", repr=False)


class Judge(Protocol):
    """Returns a verdict about a text and never raises."""

    async def judge(self, text: str) -> ContentVerdict: ...


class PictureJudge(Protocol):
    """Returns a verdict about a picture, a JPEG, and never raises."""

    async def judge_picture(self, jpeg: bytes) -> ContentVerdict: ...


ALLOWED: Final = ContentVerdict("allowed")

# The gravest first: where several rules object, the first of these is returned.
SEVERITY: Final[tuple[ContentCategory, ...]] = (
    "minor",
    "sexual",
    "violence",
    "self_harm",
    "hate",
    "illicit",
    "real_person",
    "copyrighted_character",
    "other",
)
