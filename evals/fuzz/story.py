"""What happened in a game, as a case: a counterexample of the machine becomes a line of defence."""

from typing import Any

import yaml

from evals.provider.words import Outcome
from telemetry.points import Point


class Story:
    """Writes a game down in the words of a case. The machine's own steps (`work`) are rests there."""

    def __init__(self) -> None:
        self.keyed = True
        self._turns: list[dict[str, Any]] = [{"calls": [{}]}]
        self._events: list[dict[str, Any]] = []
        self._script: list[Outcome] = []
        self._sent = 0

    def deliver(self) -> None:
        self._sent += 1
        self._events.append({"send": "/create a market at dawn", "named": f"message {self._sent}"})

    def redeliver(self, number: int) -> None:
        self._events.append({"redeliver": f"message {number}", "times": 1})

    def model_calls(self, turns: list[dict[str, Any]]) -> None:
        """Keep the latest turns: a case has one script for all runs."""
        self._turns = turns

    def work(self) -> None:
        if self._events and "rest" not in self._events[-1]:
            self._events.append({"rest": 1})

    def provider_fault(self, outcome: Outcome) -> None:
        self._script.append(outcome)

    def crash_worker(self, at: Point) -> None:
        self._events += [{"worker": "start"}, {"worker": "kill", "at": at}]

    def redis_flush(self) -> None:
        self._events.append({"redis": "flush"})

    def advance_clock(self, seconds: int) -> None:
        self._events.append({"shift": f"{seconds}s"})

    def case(self, name: str = "J99") -> dict[str, Any]:
        """Return the case as it would stand in a file."""
        script = {"provider": {"script": self._script}} if self._script else {}
        return {
            "id": name,
            "title": "Found by the machine; say here in one sentence what must hold.",
            "policy": {"name": "script", "options": {"turns": self._turns}},
            "shape": "inworld" if self.keyed else "openai",
            **script,
            "limits": {"cooldown": None},
            "events": self._events,
            "expect": {
                "paid": {"most": self._sent},
                "delivered": {"most": self._sent},
                "attempts": {"least": 1},
            },
        }

    def yaml(self) -> str:
        """Return the case as YAML, ready for `evals/cases/`."""
        return yaml.safe_dump([self.case()], sort_keys=False, allow_unicode=True, width=120)
