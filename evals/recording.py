"""What a model said in a case, as JSON: normalised items, turn by turn, without ids that vary.

The `replay` policy plays such a file, so a case that went wrong with a live model can be played again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from evals.base import EvalError, Said
from evals.case import Case
from evals.evidence import Evidence, Turn

_CALL: Final = "function_call"


class Recording(Said):
    """One case's turns, in the order in which they were said."""

    case: str
    policy: str
    turns: tuple[Turn, ...]


def record(folder: Path, case: Case, evidence: Evidence, name: str | None = None) -> Path:
    """Write down what the model said in one playing; return the file."""
    made = Recording(case=case.id, policy=case.policy.name, turns=tuple(normalised(evidence.turns)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or case.id}.json"
    path.write_text(json.dumps(made.model_dump(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def normalised(turns: Sequence[Turn]) -> list[Turn]:
    """Number call ids in the order of their first use: the same stay the same, and nothing else is kept."""
    numbers: dict[str, str] = {"": ""}

    def told(item: dict[str, Any]) -> dict[str, Any]:
        if item.get("type") != _CALL:
            return item
        number = numbers.setdefault(item["call_id"], f"call_{len(numbers)}")
        return {**item, "call_id": number}

    said = [(turn, [told(item) for item in turn.items if _kept(item)]) for turn in turns]
    return [turn.model_copy(update={"items": items}) for turn, items in said if items]


def _kept(item: dict[str, Any]) -> bool:
    """Words and calls; a model's reasoning is its own."""
    return item.get("type") == _CALL or bool(item.get("text"))


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        EvalError: It is none.
    """
    try:
        return Recording.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise EvalError(f"{path} is no recording: {type(error).__name__}") from None
