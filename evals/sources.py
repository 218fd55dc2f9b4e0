"""Where cases are from, and how they are played: YAML files one by one, a file of texts in batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from evals.case import Case
from evals.corpus.batch import play_batch
from evals.corpus.source import CorpusCase, batches, read_source
from evals.dataset import CASES, Selection, read_all
from evals.library.play import play_foreign
from evals.pool import Job
from evals.runner import play_alone


def read_selection(corpus: Path | None = None, folder: Path | None = None) -> Selection:
    """Read every case of a file of texts, or else of a folder of YAML files.

    Raises:
        EvalError: A file cannot be used.
    """
    if corpus is not None:
        return read_source(corpus)
    return Selection(read_all(folder or CASES))


def job_of(case: Case) -> Job:
    """Return how a case of a YAML file is played: in the bot, or in a foreign agent."""
    return Job((case,), play_alone if case.agent is None else play_foreign)


def jobs_of(cases: Sequence[Case]) -> Iterator[Job]:
    """Yield what one process plays at a time."""
    for case in cases:
        if not isinstance(case, CorpusCase):
            yield job_of(case)
    texts = [case for case in cases if isinstance(case, CorpusCase)]
    yield from (Job(batch, play_batch) for batch in batches(texts))
