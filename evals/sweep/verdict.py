"""What a sweep came to: per text, per slot, and as an exit code."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from evals.figures import upper_bound
from evals.result import FAILED, INCOMPLETE, OK
from evals.sweep.floor import Floor, Played
from evals.sweep.lines import Lines
from evals.sweep.slots import ECHOES, SLOTS


@dataclass
class Swept:
    """Everything that was played. `lost` says which batches came to nothing, and why."""

    lines: Lines
    floors: list[Floor] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def played(self) -> list[Played]:
        return [one for floor in self.floors for one in floor.played]

    @property
    def wrong(self) -> list[str]:
        """Every broken law, in one line each."""
        found = [
            f"line {one.line}, {one.slot}, {one.echo}: paid {one.paid} times"
            for one in self.played
            if one.paid > 1
        ]
        found += [
            f"line {one.line}, {one.slot}, {one.echo}: {error}" for one in self.played for error in one.errors
        ]
        found += [trouble for floor in self.floors for trouble in floor.trouble]
        leaks = sum(floor.leaks for floor in self.floors)
        return found + ([f"{leaks} runs read what only the provider said"] if leaks else [])

    @property
    def missing(self) -> list[str]:
        """What was not played to its end."""
        found = [
            f"line {one.line}, {one.slot}, {one.echo}: did not come to rest"
            for one in self.played
            if one.ended == "restless"
        ]
        left = self.lines.left_out
        return [*found, *self.lost, *([f"{left} lines were left out"] if left else [])]

    @property
    def exit_code(self) -> int:
        """A broken law outweighs what is missing; neither is green."""
        if self.wrong:
            return FAILED
        return INCOMPLETE if self.missing else OK

    def rows(self) -> Iterator[tuple[str, str, int, int, int, str]]:
        """By slot and echo: texts, paid, paid more than once, and how those ended that were not paid once."""
        for slot in SLOTS:
            for echo in ECHOES:
                some = [one for one in self.played if (one.slot, one.echo) == (slot, echo)]
                ends = Counter(one.ended for one in some if one.ended != "DELIVERED")
                said = ", ".join(f"{count} {word}" for word, count in ends.most_common())
                paid, twice = sum(one.paid for one in some), sum(one.paid > 1 for one in some)
                yield slot, echo, len(some), paid, twice, said

    def figures(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        played = self.played
        excess = sum(max(0, one.paid - 1) for one in played)
        ideas = [one for one in played if one.slot == "idea"]
        refused = Counter(one.ended for one in ideas if one.paid == 0)
        times = sorted(one.seconds for one in played) or [0.0]
        cpu = sum(floor.cpu_s for floor in self.floors)
        rate = len(played) / self.seconds if self.seconds else 0
        each = cpu / max(1, len(played)) * 1000
        p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
        bound = upper_bound(excess, len(played))
        return [
            ("texts, requests", f"{len(self.lines.texts)}, {len(played)}"),
            ("calls of the paid tool", str(sum(floor.attempts for floor in self.floors))),
            ("paid beyond one", f"{excess} (95 % upper bound of the rate {bound:.2%})"),
            ("ideas paid exactly once", f"{sum(one.paid == 1 for one in ideas)} of {len(ideas)}"),
            ("ideas not paid", ", ".join(f"{n} {word}" for word, n in refused.most_common()) or "none"),
            ("exceptions", str(sum(len(one.errors) for one in played))),
            ("seconds of one request", f"p50 {p50:.1f}, p95 {p95:.1f}"),
            ("seconds", f"{self.seconds:.0f}; {rate:.1f} requests/s, {each:.0f} ms of CPU each"),
        ]  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Return the whole sweep as JSON; texts are named by their lines and not repeated."""
        texts: dict[int, dict[str, Any]] = {}
        for one in self.played:
            line = texts.setdefault(one.line, {"line": one.line, "paid": {}, "ended": {}, "seconds": 0.0})
            place = f"{one.slot}/{one.echo}"
            line["paid"][place], line["ended"][place] = one.paid, one.ended
            line["seconds"] = round(line["seconds"] + one.seconds, 2)
            if one.errors:
                line.setdefault("errors", {})[place] = one.errors
        odd = [{"line": one.number, "why": one.why, "played": one.played} for one in self.lines.odd]
        return {
            "figures": dict(self.figures()), "wrong": self.wrong, "missing": self.missing, "odd": odd,
            "texts": [texts[number] for number in sorted(texts)],
        }  # fmt: skip
