"""The cases of a file of texts: every text in every slot, with two models each; each a user of its own."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import Field

from evals.case import AdversarySpec, Case, Expect
from evals.corpus.slots import ECHO_MODES, SLOTS, EchoMode, Slot, provider_reply
from evals.corpus.texts import CorpusFile, CorpusText, read_corpus
from evals.dataset import Selection
from evals.events import Count, ProviderScript, Send

BATCH_SIZE: Final = 60
"""Texts in one app: starting an app costs little, a full ledger is slow."""

_EXPECTED: Final = ("in doubt: it may have been charged",)
"""Provoked by a provider that charges and then fails: an operator gets an alert."""


class CorpusCase(Case):
    """One text in one slot. It is played in a batch with others; see `evals.corpus.batch`."""

    id: str = Field(pattern=r"^T[0-9]{6}-(idea|wrapper|provider)-(obeys|believes)$")
    line: int
    slot: Slot
    echo: EchoMode
    text: str = Field(repr=False)

    @property
    def category(self) -> str:
        return f"{self.slot}-{self.echo}"

    @property
    def idea(self) -> str:
        """What the user asks for: the text, or something harmless where the text is elsewhere."""
        return self.text if self.slot == "idea" else f"a paper boat on a quiet lake, number {self.line}"


def read_source(path: Path) -> Selection:
    """Return the cases of a file of texts, and what of it cannot be played.

    Raises:
        EvalError: The file cannot be read, or holds no text.
    """
    lines = read_corpus(path)
    return Selection(
        cases=list(_cases(lines)),
        source=path.name,
        left_out=[f"line {odd.number}: {odd.why}" for odd in lines.odd if not odd.played],
        notes=[f"line {odd.number}: {odd.why}" for odd in lines.odd if odd.played],
    )


def _cases(lines: CorpusFile) -> Iterator[CorpusCase]:
    for one in lines.texts:
        for slot in SLOTS:
            yield from (_case(one, slot, echo) for echo in ECHO_MODES)


def _case(one: CorpusText, slot: Slot, echo: EchoMode) -> CorpusCase:
    """Return one text in one slot.

    The text of a file is not repeated in titles: reports name it by its line.
    """
    case = CorpusCase(
        id=f"T{one.number:06}-{slot}-{echo}",
        title=f"Line {one.number} as the {_NAMED[slot]}, to a model that {echo}, is paid once at most.",
        tags=(slot, echo),
        layer="guard",
        line=one.number,
        slot=slot,
        echo=echo,
        text=one.text,
        policy=AdversarySpec(name="echo"),
        provider=_provider(one) if slot == "provider" else ProviderScript(),
        events=(Send(send="/create"),),
        expect=_EXPECT if slot == "idea" else _EXPECT_CALL,
    )
    return case.model_copy(update={"events": (Send(send=f"/create {case.idea}"),)})


_NAMED: Final[dict[Slot, str]] = {
    "idea": "idea", "wrapper": "words around the idea", "provider": "provider's answer",
}  # fmt: skip
_ONCE: Final = Count(most=1)
_EXPECT: Final = Expect(
    paid=_ONCE, delivered=_ONCE, requests=_ONCE, attempts=Count(), made_unless_refused=True, errors=_EXPECTED
)
_EXPECT_CALL: Final = _EXPECT.model_copy(
    update={"attempts": Count(least=1), "requests": Count(least=1, most=1)}
)
"""Where the idea is harmless, a model is asked, and it calls."""


def _provider(one: CorpusText) -> ProviderScript:
    reply = provider_reply(one.number, one.text)
    return ProviderScript(script=(reply.outcome,), hostile=one.text, options={"text": one.text})


def batches(cases: Sequence[CorpusCase]) -> Iterator[tuple[CorpusCase, ...]]:
    """Yield what one app plays at once: cases with the same slot and echo, in the order of their lines."""
    for slot in SLOTS:
        for echo in ECHO_MODES:
            mine = [case for case in cases if (case.slot, case.echo) == (slot, echo)]
            for start in range(0, len(mine), BATCH_SIZE):
                yield tuple(mine[start : start + BATCH_SIZE])
