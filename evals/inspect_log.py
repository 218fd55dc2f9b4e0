"""Writes a run as a log of inspect-ai, for its viewer: `inspect view --log-dir FOLDER`.

The format is its `EvalLog`, version 2 (inspect_ai/log/_log.py; 0.3.285 reads it). inspect-ai itself is
no dependency: it would bring dozens of distributions for the one file that is written here.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from evals.evidence import Evidence, Turn
from evals.results import Result, Results
from telemetry.version import VERSION

_COUNTS: Final = ("attempts", "paid", "delivered")


def write_inspect_log(folder: Path, results: Results) -> Path:
    """Write the log of a run that just ended, under a name of its own; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    log = inspect_log(results, datetime.now(UTC))
    stamp = log["eval"]["created"].replace(":", "-")
    path = folder / f"{stamp}_onetake_{log['eval']['task_id']}.json"
    # Hostile texts hold half surrogates, which neither UTF-8 nor the reader accepts, not even escaped.
    path.write_bytes(json.dumps(log, ensure_ascii=False, indent=1).encode("utf-8", "replace"))
    return path


def inspect_log(results: Results, ended: datetime) -> dict[str, Any]:
    """Return a run as an `EvalLog`."""
    began = ended - timedelta(seconds=results.seconds)
    return {
        "version": 2,
        "status": "success",
        "eval": _spec(results, began),
        "plan": {"name": "plan", "steps": []},
        "results": _totals(results),
        "stats": {"started_at": _iso(began), "completed_at": _iso(ended)},
        "samples": [_sample(result) for result in results.results],
    }


def _spec(results: Results, began: datetime) -> dict[str, Any]:
    ids = list(dict.fromkeys(result.case.id for result in results.results))
    models = {result.case.policy.options.get("model") for result in results.results} - {None}
    return {
        "eval_id": uuid4().hex[:22],
        "run_id": uuid4().hex[:22],
        "task_id": uuid4().hex[:22],
        "created": _iso(began),
        "task": "onetake",
        "task_args": {"guard": results.broken},
        "dataset": {"name": results.source, "samples": len(ids), "sample_ids": ids},
        "model": f"live/{models.pop()}" if models else "scripted/adversary",
        "config": {"epochs": max((result.turn for result in results.results), default=1)},
        "packages": {"onetake": VERSION},
        "metadata": {"wrong": list(results.wrong), "left_out": list(results.left_out)},
    }


def _totals(results: Results) -> dict[str, Any]:
    played = [result for result in results.results if result.evidence is not None]
    passed = sum(result.verdict == "ok" for result in played)
    counts = [
        _total(name, "mean", sum(getattr(one.evidence, name) for one in played), len(played))
        for name in _COUNTS
    ]
    scores = [_total("expectations", "accuracy", passed, len(played)), *counts]
    return {"total_samples": len(results.results), "completed_samples": len(played), "scores": scores}


def _total(scorer: str, metric: str, total: int, number: int) -> dict[str, Any]:
    value = total / number if number else 0.0
    return {"name": scorer, "scorer": scorer, "metrics": {metric: {"name": metric, "value": value}}}


def _sample(result: Result) -> dict[str, Any]:
    found = result.evidence
    sample: dict[str, Any] = {
        "id": result.case.id,
        "epoch": result.turn,
        "input": "\n".join(line.text for line in found.lines if not line.bot) if found else "",
        "target": result.case.title,
        "metadata": {"category": result.case.category, "layer": result.case.layer, "verdict": result.verdict},
    }
    if found is None:
        return sample | {"error": _error(result)}
    messages = list(_messages(found))
    return sample | {
        "messages": messages,
        "output": _output(messages),
        "scores": _scores(result, found),
        "total_time": round(found.seconds, 3),
        "metadata": sample["metadata"] | _shown(found),
    }


def _error(result: Result) -> dict[str, str]:
    return {"message": result.trouble, "traceback": result.traceback, "traceback_ansi": result.traceback}


def _scores(result: Result, found: Evidence) -> dict[str, Any]:
    answer = f"paid {found.paid}, delivered {found.delivered}, {found.attempts} attempts"
    verdict = "C" if result.verdict == "ok" else "I"
    checks = "\n".join(f"{'ok' if one.holds else 'FAILED'} {one.name}: {one.reason}" for one in result.checks)
    whole = {"value": verdict, "answer": answer, "explanation": checks}
    return {"expectations": whole} | {name: {"value": getattr(found, name)} for name in _COUNTS}


def _shown(found: Evidence) -> dict[str, Any]:
    """Return what a reader of a failed case needs and no transcript of a model says."""
    return {
        "chat": [f"{'bot' if line.bot else 'person'}: {line.text}" for line in found.lines],
        "ends": [f"{fate.request}: {fate.end}, notified {fate.told}" for fate in found.fates],
        "charges": [f"{one.job} {one.micros} for {one.request}" for one in found.charges],
        "errors": found.errors,
        "tracebacks": found.tracebacks,
    }


def _messages(found: Evidence) -> Iterator[dict[str, Any]]:
    """Yield what the models read and said, run by run: idea, answers, and what their calls got."""
    answers = _answers_of_tools(found.heard)
    idea: str | None = None
    for turn in found.turns:
        if turn.idea != idea:
            idea = turn.idea
            yield {"role": "user", "content": idea, "source": "input"}
        calls = [item for item in turn.items if item.get("type") == "function_call"]
        yield _assistant(turn, calls)
        for item in calls:
            said = answers.get(item["call_id"], "(no answer)")
            named = {"tool_call_id": item["call_id"], "function": item["name"]}
            yield {"role": "tool", "content": said, **named}


def _assistant(turn: Turn, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    text = "\n".join(item["text"] for item in turn.items if item.get("text"))
    made = [
        {"id": one["call_id"], "function": one["name"], "arguments": _arguments(one["arguments"])}
        for one in calls
    ]
    said = {"role": "assistant", "content": text, "source": "generate", "model": turn.agent}
    return said | ({"tool_calls": made} if made else {})


def _arguments(text: str) -> dict[str, Any]:
    """Return arguments as the viewer wants them, an object; what is none is shown as it was written."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"raw": text}


def _answers_of_tools(heard: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in heard:
        try:
            items = json.loads(text)
        except ValueError:
            continue
        some = [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []
        found |= {
            one["call_id"]: str(one.get("output"))
            for one in some
            if one.get("type") == "function_call_output"
        }
    return found


def _output(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    last = next((one for one in reversed(messages) if one["role"] == "assistant"), None)
    if last is None:
        return {"model": "", "choices": []}
    return {"model": last["model"], "choices": [{"message": last, "stop_reason": "stop"}]}


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
