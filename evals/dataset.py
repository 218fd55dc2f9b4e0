"""Reads, selects and scaffolds the YAML cases, and writes the JSON schema for editors."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from evals.case import ID, Case, CaseFile
from evals.events import EvalError

CASES: Final = Path(__file__).parent / "cases"
SCHEMA: Final = CASES / "schema.json"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same in C, where PyYAML was built with it: four times as fast."""


class DatasetError(EvalError):
    """A case file or a selection cannot be used; the message names the file, the field and what is wrong."""


def read_file(path: Path) -> CaseFile:
    """Read one file of cases.

    Raises:
        DatasetError: It is not YAML, or not valid.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506 - it is a safe one
        return CaseFile.model_validate(found)
    except ValidationError as error:
        lines = [f"{_place(found, one['loc'])}: {one['msg']}" for one in error.errors()]
        raise DatasetError(f"{path.name}: " + "; ".join(lines[:3])) from None
    except (yaml.YAMLError, OSError) as error:
        raise DatasetError(f"{path.name}: {error}") from None


def _place(found: Any, loc: Sequence[int | str]) -> str:
    """Return the path of an error, with a case's id in place of its index."""
    if len(loc) > 1 and loc[0] == "cases" and isinstance(loc[1], int):
        case = found["cases"][loc[1]]
        name = case.get("id", f"case {loc[1] + 1}") if isinstance(case, dict) else f"case {loc[1] + 1}"
        return ".".join(map(str, [name, *loc[2:]]))
    return ".".join(map(str, loc)) or "file"


def read_all(folder: Path = CASES) -> list[Case]:
    """Read every case, sorted by id."""
    cases = [case for path in sorted(folder.glob("*.yaml")) for case in read_file(path).cases]
    ids = [case.id for case in cases]
    if twice := {one for one in ids if ids.count(one) > 1}:
        raise DatasetError(f"{', '.join(sorted(twice))} is defined in two files")
    return sorted(cases, key=lambda case: case.id)


def choose(
    cases: Sequence[Case], suite: str = "full", tags: Sequence[str] = (), ids: Sequence[str] = ()
) -> list[Case]:
    """Return the selected cases: by id, or else by suite and tags.

    Raises:
        DatasetError: An id is unknown, or no case has all the tags.
    """
    if unknown := [one for one in ids if not any(case.id == one for case in cases)]:
        raise DatasetError(f"{', '.join(unknown)} is not a case; known: {', '.join(c.id for c in cases)}")
    if ids:
        return [case for case in cases if case.id in ids]
    wanted = ["smoke", *tags] if suite == "smoke" else list(tags)
    found = [case for case in cases if all(tag in (*case.tags, case.category) for tag in wanted)]
    if not found:
        known = sorted({tag for case in cases for tag in case.tags})
        raise DatasetError(f"no case has the tags {', '.join(wanted)}; known: {', '.join(known)}")
    return found


@dataclass(frozen=True)
class Selection:
    """Cases to be played.

    Attributes:
        cases: The cases themselves.
        source: Where they are from: `cases`, or the name of a file of texts.
        left_out: What of the source cannot be played, a sentence each; a run without it is incomplete.
        notes: What is strange about the source and is played all the same.
    """

    cases: Sequence[Case]
    source: str = "cases"
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()

    def only(self, cases: Sequence[Case]) -> "Selection":
        """Return the selection with these of its cases; what was left out matters to a whole run alone."""
        if len(cases) == len(self.cases):
            return replace(self, cases=cases)
        return replace(self, cases=cases, left_out=(), notes=())


def failed_ids(report: Path, selection: Selection, broken: str | None) -> list[str]:
    """Return the ids of the cases that were not ok in a report.json; empty if all were.

    Raises:
        DatasetError: It is not such a report, or one of other cases, or against another mutant.
    """
    try:
        found = json.loads(report.read_text("utf-8"))
        source, against = found["source"], found["broken"]
        names = [one["name"] for one in found["cases"] if one["verdict"] != "ok"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{report} is no report.json of this version ({type(error).__name__}): run without --failed"
        ) from None
    if (source, against) != (selection.source, broken):
        raise DatasetError(
            f"{report} is of {_described(source, against)}, not of {_described(selection.source, broken)}"
        )
    return list(dict.fromkeys(name.partition("#")[0] for name in names))


def _described(source: str, broken: str | None) -> str:
    return f"{source} against {broken or 'the shipped app'}"


def schema() -> str:
    """Return the JSON schema of a case file, as committed in evals/cases/schema.json."""
    return json.dumps(CaseFile.model_json_schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


_NEW: Final = """\
  - id: {id}
    title: One sentence that must hold.
    layer: guard               # the layer whose mutants this kills: guard, ledger, worker or chat
    policy: {{name: insist, times: 5}}
    events:
      - send: /create a quiet market at dawn
    expect: {{paid: 1, delivered: 1, outcome: DELIVERED, attempts: {{least: 5}}, reasons: replay}}
"""


def scaffold(name: str, folder: Path = CASES) -> Path:
    """Append a case to the file of its category, and return that file.

    Raises:
        DatasetError: The id is invalid or taken, or no file has the category. Nothing is written then: with
            one invalid id in a file, no command could read the cases.
    """
    if not re.fullmatch(ID, name):
        raise DatasetError(
            f"{name!r} is not a case id; an id is a category's letter and a number, as in C02 or C02b"
        )
    if any(case.id == name for case in read_all(folder)):
        raise DatasetError(f"{name} already exists")
    found = sorted(folder.glob(f"{name[:1].lower()}_*.yaml"))
    if not found:
        raise DatasetError(f"there is no file of category {name[:1]!r} in {folder.name}")
    with found[0].open("a", encoding="utf-8") as file:
        file.write("\n" + _NEW.format(id=name))
    return found[0]
