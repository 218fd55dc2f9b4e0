"""The verdicts of the content policy: for the guard, for operators and for the agent."""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

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
    """The verdict about one text; it never contains a piece of that text.

    Attributes:
        word: `allowed`, `refused`, or `closed` if the check could not be completed (fail closed).
        category: Why it was refused, from a closed set; None for the other two words.
        rule: The rule's id, `moderation:<category>` or `moderation:<failure>`; for operators only.
    """

    word: VerdictWord
    category: ContentCategory | None = None
    rule: str | None = None


class Judge(Protocol):
    """Returns a verdict about a text and never raises."""

    async def judge(self, text: str) -> ContentVerdict: ...


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

_NAMES: Final[dict[ContentCategory, str]] = {
    "minor": "a minor in a sexual or violent context",
    "sexual": "sexual content or nudity",
    "violence": "graphic violence",
    "real_person": "a real person",
    "copyrighted_character": "a copyrighted character",
    "self_harm": "self-harm",
    "hate": "hate or harassment",
    "illicit": "instructions for wrongdoing",
    "other": "content that the moderation service flagged",
}


def reason_for_model(verdict: ContentVerdict) -> str:
    """Return one sentence for the agent whose call was judged: what is true and what to do.

    It invites no second call: a different idea is a new command of the user, with its own request.
    """
    if verdict.word == "allowed":
        return "The content policy has no objection."
    if verdict.word == "closed":
        return (
            "The content check could not be completed, so this call was refused and nothing was made or "
            "paid: tell the user plainly that the check is unavailable at the moment, do not call the tool "
            "any more for this request, and say that a new /create command later will be checked afresh."
        )
    name = _NAMES[verdict.category or "other"]
    return (
        f"This idea was refused by the content policy ({name}), and nothing was made or paid: tell the "
        "user so plainly, do not call the tool any more for this request, neither reworded nor with a "
        "disguised prompt, "
        f"and say that a different idea without {name} needs a new /create command from the user."
    )
