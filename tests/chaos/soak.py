"""The soak: seeded traffic and faults over the whole app, then a quiet phase, then every check.

    make soak REQUESTS=200 SEED=7 PROVIDER=blind
    make soak REQUESTS=200 DATABASE=postgresql ROUGH=1

A rough one also lets a second account take the orders after half of the requests, while the first drains;
steps the ledger's clock by five minutes and back, without the provider's; and makes PostgreSQL read-only
for a while.

The plan (who sends what, which fault follows which) repeats with the seed. Which request a fault meets does
not: that depends on the machine. Exit code 1 when a check failed; its requests are listed with transitions.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from evals.environment import RequestAndVideo, is_settled, write_agent_specs
from guardrails.admission import RESERVATION_GRACE_S
from guardrails.limits import Limits
from guardrails.money import Money
from guardrails.redis_client import connect
from ledger import transitions
from ledger.models import VideoState
from sandbox.proxy import Proxy
from sandbox.telegram.user import Person
from sandbox.video_api.openai import FakeProvider
from telemetry.failpoints import FAILPOINTS
from tests.chaos.soak_faults import MODEL_BEHAVIORS, STEP_S, Control, FaultSchedule, SoakConfig
from tests.chaos.soak_taps import Taps, is_open_offer
from tests.support import checks, services
from tests.support.checks import Breach
from tests.support.worker_process import ProcessEnvironment, WorkerPool, open_process_env

PREFIX, QUOTA = "soak", 10
# High enough that a usual person may order at will, low enough that a greedy one meets quota and budget.
POLICY = {
    "approval": "always",
    "quota": f"{QUOTA}/day", "cooldown": None, "breaker": "{everyone: 100000/5m}",
    "budget": "{user: $10/day, everyone: $1000000/day}",
}  # fmt: skip
LIMITS = Limits(quota=QUOTA, user_budget=Money.parse("$10"), everyone_budget=Money.parse("$1000000"))
# A worker may spend half the slack between reading the clock and its POST: with less, under load, it sends
# nothing.
TIMEOUTS = {"run_s": 6, "slack_s": 6, "refresh_s": 2}
QUICK = {"submit_timeout_s": 1.5, "poll_s": 0.05, "grace_s": 0.1, "settle_s": 6.0, "absent_gap_s": 0.5}
_BILLS = {"bills_failed": True, "bills_moderated": True}
PROVIDERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "keyed": ("inworld", {}, QUICK),
    "listable": ("openai", _BILLS, QUICK),
    "blind": ("openai", {**_BILLS, "listing": False}, {**QUICK, "listing": False}),
}
"""What the provider documents: honours keys, lists its jobs, or neither."""

POST_OUTCOMES = (
    "charge_drop", "charge_hang", "charge_500", "charge_cut", "charge_html", "charge_202_no_id", "drop",
    "500", "refuse_400", "refuse_policy", "refuse_401", "refuse_402", "throttle_429", "429",
)  # fmt: skip
FIRST_USER = 1001
THINGS = ("a lighthouse", "a quiet market", "un faro", "uma praia", "a paper boat", "a red kite", "una plaza")
MOST_OPEN, PAUSE_OPEN, PAUSE_S = 60, 15, 150.0
"""With 60 requests open, faults and traffic pause until 15 are left: a long soak would otherwise cut Redis
every two seconds and finish little. If 150 s without faults are not enough, the traffic ends.
"""
LAST_FAULTS_S = 15.0
"""Faults continue after the last request until most of what was sent met some, but no longer than this."""

TEXTS_S = 5.0


@dataclass
class Soak:
    """What one soak was asked for, and its results.

    Attributes:
        seconds: After this nothing new is sent.
        quiet_s: How long everything may take to settle without faults.
        rough: Two accounts, steps of the ledger's clock, a ledger that is read-only for a while.
    """

    requests: int = 200
    seed: int = 7
    provider: str = "keyed"
    database: str = "sqlite"
    workers: int = 3
    seconds: float = 600
    quiet_s: float = 150
    sabotage: str | None = None
    rough: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    breaches: list[dict[str, Any]] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command that repeats it."""
        words = [f"--{n} {getattr(self, n)}" for n in ("requests", "seed", "provider", "database")]
        words += [f"--sabotage '{self.sabotage}'"] if self.sabotage else []
        words += ["--rough"] if self.rough else []
        return f"python -m tests.chaos.soak {' '.join(words)}"


@dataclass
class Run:
    """One soak under way.

    Attributes:
        providers: The servers of all accounts.
        sent: The ids of all commands.
        rows: The ledger when it was last read.
        blocked: Users who blocked the bot: what it has to say waits until they write again.
    """

    soak: Soak
    env: ProcessEnvironment
    pool: WorkerPool
    proxy: Proxy
    redis: Redis
    control: Control
    providers: Sequence[FakeProvider]
    sent: list[str] = field(default_factory=list)
    rows: list[RequestAndVideo] = field(default_factory=list)
    blocked: set[int] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    pauses: int = 0
    _read_next: float = 0

    def set_clock(self, shift: int) -> None:
        """Move the one clock: of SQL, of Redis (scripts are given the shift) and of the providers."""
        self.control.shift = shift
        for one in self.providers:
            one.clock_s = shift
        self.step_clock(self.control.step)

    def step_clock(self, step: int) -> None:
        """Step the clock of the ledger and of Redis alone to so many seconds beside the true one."""
        self.control.step = step
        self.env.ledger.shift = self.control.ledger_shift
        self.control.write()

    def change_account(self) -> None:
        """Let the second account take the orders: every worker restarts with it, and the first drains."""
        self.control.account = 1
        self.control.write()
        self.faults["account changed"] += 1
        for worker in self.pool.workers:
            self.pool.send(worker, signal.SIGTERM, "stopped")

    @property
    def open(self) -> int:
        """How many requests are under way."""
        return len(self.sent) - sum(self._ended(one) for one in self.rows)

    def _ended(self, found: RequestAndVideo) -> bool:
        if found[0].user_id in self.blocked:
            return True
        return is_settled(*found) and not is_open_offer(found)

    async def read(self) -> None:
        """Read the ledger, in at most 20 % of the time; one that is unavailable now is read later."""
        began = time.monotonic()
        if began < self._read_next:
            return
        with suppress(SQLAlchemyError, OSError):
            self.rows = await self.env.all_requests()
        self._read_next = time.monotonic() + min(5 * (time.monotonic() - began), 1.0)

    async def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.1)
            await self.read()
        return True

    async def settle(self, seconds: float) -> None:
        """Wait until all is settled and confirmed; the checks name what is not."""
        self._read_next = 0
        await self.read()
        await self.wait(lambda: self.open == 0 and not self.env.api.pending_updates, seconds)
        self._read_next = 0
        await self.read()


class Traffic:
    """People who order, repeat themselves, cancel, and block the bot."""

    def __init__(self, run: Run) -> None:
        chance = random.Random(run.soak.seed)
        # Drawn separately, so that one more draw in one of them leaves the others as they were.
        self.people, faults, provider, taps = (random.Random(chance.random()) for _ in range(4))
        self.run, self.env, self.requests = run, run.env, run.soak.requests
        self.schedule, self.taps = FaultSchedule(run, faults), Taps(run, taps)
        self.ends_at = time.monotonic() + run.soak.seconds

        def draw(share: float, words: Sequence[str], usual: str, count: int) -> list[Any]:
            return [provider.choice(words) if provider.random() < share else usual for _ in range(count)]

        self.outcomes = draw(0.4, POST_OUTCOMES, "accept", self.requests * 3)
        self.fates = draw(0.12, ("fail", "moderate"), "video", self.requests * 2)

    async def play(self) -> None:
        """Send every request under faults, until all are sent or time is up; then end all faults."""
        run, outcomes, fates = self.run, deque(self.outcomes), deque(self.fates)
        for provider in run.providers:
            provider.outcomes, provider.fates = outcomes, fates
        await self.taps.lift_questions(range(FIRST_USER, FIRST_USER + self._crowd))
        injecting = asyncio.create_task(self.schedule.inject())
        try:
            await self._send_all()
            await run.wait(lambda: run.open <= len(run.sent) // 4, LAST_FAULTS_S)
        finally:
            injecting.cancel()
            await asyncio.gather(injecting, *self.schedule.tasks, return_exceptions=True)
            self._end_faults()
        for user_id in sorted(run.blocked):
            await self.person(user_id).send("/status")  # unblocks the bot
        run.blocked.clear()
        self.taps.hurry = True

    def _end_faults(self) -> None:
        provider, run = self.env.fake_provider, self.run
        for name, planned, left in (
            ("provider", self.outcomes, provider.outcomes), ("job", self.fates, provider.fates),
        ):  # fmt: skip
            met = Counter(planned[: len(planned) - len(left)])
            run.faults.update(
                {f"{name}: {word}": n for word, n in met.items() if word not in ("accept", "video")}
            )
            left.clear()
        run.proxy.mode = "pass"
        for one in run.providers:
            one.content = "video"
        run.step_clock(0)
        self.env.api.heal()
        run.control.armed = False
        run.control.write()
        for worker in run.pool.workers:
            run.pool.send(worker, signal.SIGCONT)

    def person(self, user_id: int) -> Person:
        return self.env.api.user(user_id, f"P{user_id}", language_code=("en", "es", "pt")[user_id % 3])

    @property
    def _crowd(self) -> int:
        return max(6, self.requests // 3)

    async def _send_all(self) -> None:
        crowd, greedy = self._crowd, 2 + self._crowd // 40
        while len(self.run.sent) < self.requests and time.monotonic() < self.ends_at:
            await asyncio.sleep(self.people.expovariate(10))
            await self.run.read()
            if self.run.open >= MOST_OPEN:
                await self._pause()
            if len(self.run.sent) >= self.requests // 2:
                self._change_account_once()
            place = self.people.randrange(greedy if self.people.random() < 0.15 else crowd)
            await self._act(self.person(FIRST_USER + place))

    def _change_account_once(self) -> None:
        if self.run.soak.rough and not self.run.control.account:
            self.run.change_account()

    async def _pause(self) -> None:
        """Stop faults and traffic until most of what is under way has ended."""
        self.run.pauses += 1
        self.schedule.active.clear()
        seconds = min(PAUSE_S, self.ends_at - time.monotonic())
        if not await self.run.wait(lambda: self.run.open <= PAUSE_OPEN, seconds):
            self.ends_at = time.monotonic()
        self.schedule.active.set()

    async def _act(self, person: Person) -> None:
        chance, later = self.people, self.schedule.later
        behavior = "benign" if chance.random() < 0.4 else chance.choice(MODEL_BEHAVIORS)
        thing = "Mickey Mouse dances" if chance.random() < 0.04 else chance.choice(THINGS)
        idea = f"{thing} number {len(self.run.sent)} {behavior}"
        for _ in range(1 + (chance.random() < 0.08)):  # a double text is two requests
            bubble = await person.send(f"/create {idea}")
            self.run.sent.append(f"tg:{self.env.api.world.bot['id']}:-:{person.id}:{bubble.id}")
            update = person.last_update
            if update is not None and chance.random() < 0.25:
                later(chance.random(), self._redeliver(update.id, chance.randint(1, 3)))
        self.run.blocked.discard(person.id)
        for share, act in (
            (0.10, lambda: person.edit(bubble.id, f"/create {idea}, but better")),
            (0.05, lambda: person.forward(bubble)),
            (0.06, lambda: person.send("/cancel")),
            (0.03, lambda: person.send("and make it rain")),
            (0.03, lambda: self._block(person)),
        ):
            if chance.random() < share:
                later(chance.random(), act())

    async def _redeliver(self, update_id: int, times: int) -> None:
        self.run.faults["update delivered again"] += times
        await self.env.api.redeliver(update_id, times)

    async def _block(self, person: Person) -> None:
        self.run.faults["user blocked the bot"] += 1
        self.run.blocked.add(person.id)
        await person.block()


async def settle_holds(run: Run) -> int:
    """Resolve each hold as an operator does, by the provider's own log; return how many there were."""
    ledger, held = run.env.ledger, [one for one in run.rows if one[1] and one[1].state is VideoState.HOLD]
    for request, video in held:
        made = checks.jobs_of(run.providers, video)
        claimed = await transitions.claimed_jobs(ledger, [video.account or video.provider], made)
        jobs = [job for job in made if job not in claimed]
        if job := video.job_id or next(iter(jobs), None):
            await transitions.adopt_job(ledger, request.request_id, job, "operator:soak", None)
        else:
            await transitions.transition(
                ledger, request.request_id, VideoState.HOLD, VideoState.FAILED_UNPAID,
                "operator:soak", "not in the provider's log", failure="absent",
            )  # fmt: skip
    return len(held)


async def wrong_texts(run: Run, rows: Sequence[RequestAndVideo]) -> list[Breach]:
    """Compare chat and ledger; a notifier that was paused may mend an older edit for a few seconds."""
    end = time.monotonic() + TEXTS_S
    while True:
        wrong = [
            breach
            for one in rows
            for breach in await checks.wrong_text(run.env.api, run.env.ledger, LIMITS, *one)
        ]
        if not wrong or time.monotonic() > end:
            return wrong
        await asyncio.sleep(0.2)


async def check_all(run: Run) -> list[Breach]:
    """Run every check, after the workers have stopped."""
    env, soak = run.env, run.soak
    found = [
        *checks.paid_once(run.providers, run.rows), *checks.none_lost(run.sent, run.rows),
        *await wrong_texts(run, run.rows), *await checks.ledger_matches(env.ledger, run.providers),
        *checks.within_quota(run.rows, QUOTA),
        *[Breach("lost", one[0].request_id, "an open offer") for one in run.rows if is_open_offer(one)],
        *[Breach("unconfirmed", "-", f"update {number}") for number in env.api.pending_updates],
        *[Breach("failed", "-", f"a worker {end} ×{n}") for end, n in run.pool.ends.items() if "with" in end],
    ]  # fmt: skip
    # A worker without its ledger at the start exits and is replaced; a paused one may hold the lock.
    blocked = sum(run.faults[name] for name in ("sql locked", "sql connections ended", "worker paused"))
    if run.pool.ends["not started"] > blocked:
        found.append(Breach("failed", "-", f"{run.pool.ends['not started']} workers did not start"))
    # A reservation whose release was lost is dropped when it is older than any run.
    run.set_clock(run.control.shift + RESERVATION_GRACE_S + 60)
    found += await checks.counters_match(run.redis, env.ledger, PREFIX, LIMITS)
    found += await checks.breaker_closed(env.ledger)
    if len(run.sent) < soak.requests:
        found.append(Breach("short", "-", f"{len(run.sent)} of {soak.requests} requests were sent in time"))
    return found


async def judge(run: Run, keeper: "asyncio.Task[None]", say: Callable[[str], None]) -> None:
    """Check what is held, resolve it, stop the workers, check the rest; fill in the results."""
    soak, env = run.soak, run.env
    breaches = await wrong_texts(run, [one for one in run.rows if one[1] and one[1].state is VideoState.HOLD])
    held = 0
    try:
        held = await settle_holds(run)
    except SQLAlchemyError as error:
        breaches.append(Breach("store", "-", f"the ledger is locked without faults: {type(error).__name__}"))
    if held:
        say(f"        {held} holds resolved by the provider's log")
        await run.settle(soak.quiet_s)  # a delivery that failed waits longer with each failure
    run.pool.closing = True
    await keeper
    if stuck := await run.pool.stop():
        breaches.append(Breach("stop", "-", f"{stuck} workers did not stop when asked"))
    await run.settle(0)
    for breach in [*breaches, *await check_all(run)]:
        names = [name for name in breach.request_id.split() if name != "-"]
        shown = {name: await checks.transitions_of(env.ledger, name) for name in names[:5]}
        soak.breaches.append({**asdict(breach), "transitions": shown})
    states = Counter(str(video.state if video else request.state) for request, video in run.rows)
    failed = Counter(one["check"] for one in soak.breaches)
    soak.metrics |= {
        "requests": len(run.sent),
        "paid": sum(len(one.charges()) for one in run.providers),
        "delivered": states["DELIVERED"],
        "paid and failed": states["FAILED_PAID"],
        "refunded by the provider": sum(len(one.refunds()) for one in run.providers),
        "ended unpaid": states["FAILED_UNPAID"] + states["EXPIRED"],
        "never ordered (refused, cancelled)": sum(states[s] for s in ("REFUSED", "NO_ORDER", "CANCELLED")),
        "held, then resolved by an operator": held,
        "messages doubled (allowed)": checks.doubled_videos(env.api, run.rows),
        "duplicates": failed["duplicate"],
        "lost": failed["lost"],
        "posts": sum(len(one.posts()) for one in run.providers),
        "kills": sum(n for end, n in run.pool.ends.items() if end == "killed" or end.startswith("at ")),
        "flushes": run.faults["redis flushed"],
        "pauses between faults": run.pauses,
        "clock ahead at the end, seconds": run.control.shift,
    }
    if soak.rough:
        soak.metrics["paid at the second account"] = len(run.providers[1].charges())
    soak.faults, soak.ends = dict(sorted(run.faults.items())), dict(sorted(run.pool.ends.items()))


@asynccontextmanager
async def open_run(soak: Soak, folder: Path) -> AsyncIterator[tuple[Run, "asyncio.Task[None]"]]:
    """Start stores, Telegram, provider and workers; end all of them afterwards."""
    shape, options, capabilities = PROVIDERS[soak.provider]
    (folder / "valkey").mkdir()
    server = services.start(folder / "valkey")
    redis, control = connect(server.connection_url), Control(folder / "control.json")
    control.write()
    chance = random.Random(soak.seed)
    try:
        async with (
            Proxy("127.0.0.1", server.port) as proxy,
            open_process_env(
                folder, f"redis://127.0.0.1:{proxy.port}/0", shape=shape, database_url=soak.database,
                provider_options=options, capabilities=capabilities, timeouts=TIMEOUTS,
                settings={"key_prefix": PREFIX, "agents_dir": write_agent_specs(folder / "agents", **POLICY)},
                config=SoakConfig, control=control.path, sabotage=soak.sabotage,
            ) as env,
            AsyncExitStack() as stack,
        ):  # fmt: skip
            providers = [env.fake_provider]
            if soak.rough:
                second = FakeProvider(folder / "second_provider", shape=shape, **options)
                providers.append(await stack.enter_async_context(second))
            drain = folder / "drain.yaml"
            drain.write_text(
                json.dumps([{"provider": "openai_compat", "base_url": env.fake_provider.base_url}])
            )

            def configure(place: int) -> SoakConfig:
                dies = control.armed and chance.random() < 0.5
                at = (chance.choice(FAILPOINTS), chance.randrange(6)) if dies else None
                parts = "worker" if place else "all"  # Telegram has one poller
                config = replace(env.config, parts=parts, dies_at=at)
                if not control.account:
                    return config
                return replace(
                    config,
                    provider={"base_url": providers[1].base_url, "shape": shape},
                    settings={**config.settings, "video_drain": drain},
                )

            pool = WorkerPool(configure, soak.workers)
            keeper = asyncio.create_task(pool.keep())
            try:
                yield Run(soak, env, pool, proxy, redis, control, providers), keeper
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
                pool.kill()
    finally:
        await redis.aclose()
        server.stop()


async def run(soak: Soak, folder: Path, say: Callable[[str], None]) -> Soak:
    """Run traffic and faults, the quiet phase and the checks; fill in the results."""
    began = time.monotonic()
    async with open_run(soak, folder) as (one, keeper):
        # Traffic begins when the app runs: how long its start takes depends on the machine.
        await one.env.api.calls.wait_for(lambda call: call.method == "getUpdates", timeout=60)
        traffic = Traffic(one)
        progress = asyncio.create_task(_progress(one, say))
        tapping = asyncio.create_task(traffic.taps.play())
        try:
            await traffic.play()
            if soak.rough:  # what was made due while the clock was ahead is late by the step, and no more
                one.set_clock(one.control.shift + STEP_S)
            busy = time.monotonic() - began
            say(f"{busy:4.0f} s  no more faults")
            await one.settle(soak.quiet_s)
            if one.open:
                one.pool.dump_stacks()
            await judge(one, keeper, say)
        finally:
            for task in (progress, tapping):
                task.cancel()
            await asyncio.gather(progress, tapping, return_exceptions=True)
    seconds = time.monotonic() - began
    soak.metrics |= {"seconds with faults": round(busy, 1), "seconds": round(seconds, 1)}
    soak.metrics["requests a minute"] = round(60 * len(one.sent) / seconds)
    return soak


async def _progress(one: Run, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(5)
        states = Counter(str(video.state if video else request.state) for request, video in one.rows)
        shown = ", ".join(f"{count} {word}" for word, count in states.most_common())
        say(f"{time.monotonic() - began:4.0f} s  {len(one.sent)}/{one.soak.requests} sent: {shown}")


def report(soak: Soak, console: Console) -> None:
    """Print the results on one page."""
    console.print(f"Soak: seed {soak.seed}, {soak.provider} provider, {soak.database}", style="bold")
    for name, value in soak.metrics.items():
        bad = name in ("duplicates", "lost") and value
        console.print(f"  {name:36}[{'red' if bad else 'bold'}]{value:>8}[/]", highlight=False)
    for title, found in (("Faults", soak.faults), ("Workers ended", soak.ends)):
        console.print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in found.items()))
    for one in soak.breaches:
        console.print(f"[red]{one['check']}[/] {one['request_id']}: {one['detail']}", highlight=False)
        for name, lines in one["transitions"].items():
            console.print("\n".join([f"    {name}", *(f"      {line}" for line in lines)]), highlight=False)
    verdict = (
        "[green]Every check passed.[/]" if not soak.breaches else f"[red]{len(soak.breaches)} failed.[/]"
    )
    console.print(f"{verdict} To repeat it: {soak.command}", highlight=False, soft_wrap=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run one soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3600, help="send nothing new after this")
    parser.add_argument("--provider", choices=tuple(PROVIDERS), default="keyed")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument("--sabotage", help="break the app on purpose, to see this fail")
    parser.add_argument("--rough", action="store_true", help="two accounts, clock steps, read-only ledger")
    parser.add_argument("--json", type=Path, help="write the results as JSON as well")
    parser.add_argument("--keep", type=Path, help="a new folder for stores and logs, which is kept")
    asked = vars(parser.parse_args(words))
    written, kept = asked.pop("json"), asked.pop("keep")
    console, soak = Console(), Soak(**asked)
    with tempfile.TemporaryDirectory(prefix="onetake-soak-") as folder:
        if kept is not None:
            kept.mkdir(parents=True)
        # As at ctrl-C, so that the workers end too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            say = partial(console.print, highlight=False, soft_wrap=True)
            asyncio.run(run(soak, kept or Path(folder), say))
    if not soak.metrics:
        return 130
    report(soak, console)
    if written is not None:
        written.write_text(json.dumps({"command": soak.command, **asdict(soak)}, indent=2) + "\n")
    return 1 if soak.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
