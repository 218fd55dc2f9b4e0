"""What happened in a game, as a case: a counterexample of the machine becomes a line of defence."""

from typing import Any, Final

import yaml

from sandbox.video_api.server import Outcome
from telemetry.failpoints import Point

_PROVOKED: Final = ("in doubt", "operator needed", "a doubt is not settled", "held for a person")
"""What the house logs as an error when a provider fails, and rightly."""


class Story:
    """Writes a game down in the words of a case. The machine's own steps (`work`) are rests there.

    Attributes:
        keyed: Whether the provider honours keys.
        sound: Whether every request had a valid call and nobody died for good: each must come.
    """

    def __init__(self) -> None:
        self.keyed = self.sound = True
        self._turns: list[dict[str, Any]] = [{"calls": [{}]}]
        self._events: list[dict[str, Any]] = []
        self._deaths: list[dict[str, Any]] = []
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
        # Before anything is sent: a case does not wait for its director, who would be past the point.
        self._deaths += [{"worker": "start"}, {"worker": "kill", "at": at}]

    def redis_flush(self) -> None:
        self._events.append({"redis": "flush"})

    def advance_clock(self, seconds: int) -> None:
        self._events.append({"shift": f"{seconds}s"})

    def case(self, name: str = "J99") -> dict[str, Any]:
        """Return the case as it would stand in a file."""
        faults = {"provider": {"script": self._script}} if self._script else {}
        return {
            "id": name,
            "title": "Found by the machine; say here in one sentence what must hold.",
            "policy": {"name": "script", "options": {"turns": self._turns}},
            "shape": "inworld" if self.keyed else "openai",
            **faults,
            "limits": {"cooldown": None},
            "events": [*self._deaths, *self._events],
            "expect": self._expect(),
        }

    def _expect(self) -> dict[str, Any]:
        """What the machine itself holds: with nothing in the way each comes, else once at most."""
        sure = self.sound and not self._script
        counts: dict[str, Any] = {
            name: self._sent if sure else {"most": self._sent} for name in ("paid", "delivered")
        }
        errors = {"errors": list(_PROVOKED)} if self._script else {}
        return counts | {"attempts": {"least": 1}} | errors

    def yaml(self) -> str:
        """Return the case as YAML, ready for `evals/cases/`."""
        return yaml.safe_dump([self.case()], sort_keys=False, allow_unicode=True, width=120)
