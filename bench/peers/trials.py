"""The sixteen trials, and the edges of quota and budget. Each returns what must have been charged.

A pytest module: `bench.peers.plugin` gives it the adapter, the stores and the seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from bench.peers.adapter import Run
from bench.peers.body import Body
from bench.peers.player import Part
from bench.peers.stage import Stage

Wanted = dict[tuple[str, str], int] | int
"""Effects by act and item; a number: effects in all, whichever acts got them."""

ONCE: Final[Wanted] = {("act-1", "A"): 1}
LONGEST_WAIT_S: Final = 5.0
"""The longest that a duplicate waits for the first call, as the libraries are armed here."""
NOTES: Final = ("a poster", "a poster, please", "the poster again", "one poster", "try the poster", "poster!")


@dataclass(frozen=True)
class Trial:
    """One way to charge twice, or never, or to say something untrue about it."""

    name: str
    title: str
    play: Callable[[Stage], Wanted]


def _calls(number: int) -> list[tuple[str, str]]:
    return [("A", f"{NOTES[one % len(NOTES)]} ({one})") for one in range(number)]


def _turns(number: int) -> list[list[tuple[str, str]]]:
    return [[call] for call in _calls(number)]


def parallel(stage: Stage) -> Wanted:
    """13 calls with the same arguments in one turn."""
    stage.play(stage.part([[("A", "a poster")] * 13], after_s=stage.random.uniform(0, 0.08)))
    return ONCE


def paraphrases(stage: Stage) -> Wanted:
    """13 calls, one per turn, each in other words."""
    stage.play(stage.part(_turns(13)))
    return ONCE


def two_runs(stage: Stage) -> Wanted:
    """13 calls over two runs of one act, the second in a new process."""
    first = stage.random.randint(3, 10)
    stage.play(stage.part([_calls(first)]))
    stage.play(stage.part(_turns(13 - first)))
    return ONCE


def timeout(stage: Stage) -> Wanted:
    """The effect, then a timeout, and five retries by the model."""
    stage.play(stage.part(_turns(6), way="timeout"))
    return ONCE


def kill(stage: Stage) -> Wanted:
    """SIGKILL between the effect and the answer; then the act is redelivered."""
    process = stage.start(stage.part(_turns(1), after_s=0.05))
    stage.wait_for("effect", process)
    stage.random_sleep(0.06)
    stage.kill(process)
    stage.redeliver(stage.part(_turns(1)))
    return ONCE


def two_processes(stage: Stage) -> Wanted:
    """Two processes play one act at the same time."""
    stage.play(*[stage.part(_turns(2), after_s=stage.random.uniform(0, 0.1)) for _ in range(2)])
    return ONCE


def redeliveries(stage: Stage) -> Wanted:
    """Five redeliveries at once, in five processes."""
    stage.play(*[stage.part(_turns(1), after_s=stage.random.uniform(0, 0.3)) for _ in range(5)])
    return ONCE


def emptied(stage: Stage) -> Wanted:
    """The store is emptied between two calls (the faster one of two, the only one of one)."""
    stage.play(stage.part(_turns(1)))
    stage.hurt = True
    stage.stores[0].empty()
    stage.play(stage.part(_turns(2)))
    return ONCE


def away(stage: Stage) -> Wanted:
    """The store is away: an act that is done stays so, a new one is not paid before the store is back."""
    store = stage.stores[stage.seed % len(stage.stores)]
    stage.play(stage.part(_turns(1)))
    stage.hurt = True
    store.cut()
    try:
        stage.play(stage.part(_turns(2)))
        stage.play(stage.part(_turns(2), act="act-2"))
        stage.notes += ["paid while its store was away"] if ("act-2", "A") in stage.effects() else []
    finally:
        store.mend()
    stage.redeliver(stage.part(_turns(1), act="act-2"))
    return {("act-1", "A"): 1, ("act-2", "A"): 1}


def two_items(stage: Stage) -> Wanted:
    """Two items in one act are two effects, and each call gets the receipt of its own item."""
    both = [("A", "a poster"), ("B", "a banner")]
    stage.random.shuffle(both)
    stage.play(stage.part([both]))
    return {("act-1", "A"): 1, ("act-1", "B"): 1}


def cancelled(stage: Stage) -> Wanted:
    """The run is cancelled after the effect; then the act is redelivered."""
    cancel_after_s = stage.random.uniform(0, 0.04)
    stage.play(stage.part(_turns(1), after_s=0.05, cancel_after_s=cancel_after_s))
    stage.redeliver(stage.part(_turns(1)))
    return ONCE


def slow(stage: Stage) -> Wanted:
    """A call outlasts any lease and any wait, its effect at its beginning or at its end; two redeliveries."""
    lease_s = max(1.0, stage.adapter.lease_s)
    takes_s = lease_s * 3 + LONGEST_WAIT_S
    at_end = stage.seed % 2 == 1
    before_s, after_s = (takes_s, 0.01) if at_end else (0.01, takes_s)
    part = stage.part(_turns(1), way="slow", before_s=before_s, after_s=after_s)
    process = stage.start(part)
    stage.wait_for("began", process)
    stage.sleep(lease_s * stage.random.uniform(1.3, 1.8))
    stage.play(part)
    stage.join(process)
    stage.play(stage.part(_turns(1)))
    return ONCE


def not_sent(stage: Stage) -> Wanted:
    """The provider refuses the connection before anything is sent; the next call is made."""
    stage.play(stage.part(_turns(2), way="not_sent"))
    return ONCE


def next_day(stage: Stage) -> Wanted:
    """The act is redelivered after 25 hours."""
    stage.play(stage.part(_turns(1)))
    for store in stage.stores:
        store.age(25)
    stage.play(stage.part(_turns(2), hours=25))
    return ONCE


def restarted(stage: Stage) -> Wanted:
    """The process is killed at any moment of the act, once or twice, and started again."""
    part = stage.part(_turns(2), before_s=0.05, after_s=0.05)
    for _ in range(stage.random.randint(1, 2)):
        process = stage.start(part)
        stage.wait_for("began", process)
        stage.random_sleep(0.1)
        stage.kill(process)
    stage.redeliver(part)
    return ONCE


def restored(stage: Stage) -> Wanted:
    """A store is restored from a snapshot made before the call; then the act is redelivered."""
    store = stage.stores[stage.seed % len(stage.stores)]
    stage.play(stage.part(_turns(1), act="act-0"))
    store.snapshot()
    stage.play(stage.part(_turns(1)))
    stage.hurt = True
    store.restore()
    stage.play(stage.part(_turns(2)))
    return {("act-0", "A"): 1, ("act-1", "A"): 1}


def _crowd(stage: Stage) -> Wanted:
    def part(number: int) -> Part:
        runs = [Run(f"act-{number}-{one}", _turns(1)) for one in range(5)]
        return replace(stage.part([]), runs=runs, body=Body(stage.place, after_s=0.005))

    stage.play(*[part(number) for number in range(4)])
    return 5


TRIALS: Final = (
    Trial("parallel", "13 calls in one turn", parallel),
    Trial("paraphrases", "13 paraphrases", paraphrases),
    Trial("two_runs", "13 calls over two runs of one act", two_runs),
    Trial("timeout", "effect, then a timeout and five retries", timeout),
    Trial("kill", "kill -9 between effect and answer", kill),
    Trial("two_processes", "two processes at once", two_processes),
    Trial("redeliveries", "five redeliveries at once", redeliveries),
    Trial("emptied", "store emptied between two calls", emptied),
    Trial("away", "store away", away),
    Trial("two_items", "two items in one act", two_items),
    Trial("cancelled", "run cancelled after the effect", cancelled),
    Trial("slow", "slow call beyond any lease", slow),
    Trial("not_sent", "refused before anything was sent", not_sent),
    Trial("next_day", "redelivered after 25 h", next_day),
    Trial("restarted", "guard restarted mid-act", restarted),
    Trial("restored", "store restored from an old snapshot", restored),
)
EDGES: Final = (
    Trial("quota", "quota of 5, 20 acts from 4 processes", _crowd),
    Trial("budget", "budget of $15 at $3, 20 acts from 4 processes", _crowd),
)


def test_trial(stage: Stage, trial: Trial, verdict: Callable[[Trial, Wanted], None]) -> None:
    """The effects are exactly those wanted, and every sentence that the model got is true."""
    verdict(trial, trial.play(stage))
