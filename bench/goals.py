"""The table of goals, in the order in which it is printed."""

from typing import Final

from bench.results import Goal

GOALS: Final[dict[str, Goal]] = {
    "admission.take": Goal("admission, new call ÷ no-op EVALSHA, p50, one at a time", "1.96", "≤ 1.4", 1.4),
    "admission.check": Goal("admission, check only ÷ no-op EVALSHA, p50", "1.85", "≤ 1.4", 1.4),
    "admission.replay": Goal("admission, repeated call ÷ no-op EVALSHA, p50", "1.36", "≤ 1.3", 1.3),
    "admission.fifty": Goal("admission, 50 at once ÷ 50 no-ops at once", "4.4", "≤ 1.6", 1.6),
    "admission.closed": Goal("wrongly closed of 500 at once", "54–160", "0", 0),
    "admission.growth": Goal(
        "growth of admission from 0 to N orders in the window", "×1,000 at 10⁵", "≤ 1.2× at 10⁶", 1.2
    ),
    "admission.stop": Goal(
        "longest stop of the Redis thread by a script of ours, ms", "6,700 at 10⁵", "≤ 10 at 10⁶", 10, False
    ),
    "admission.rebuild": Goal("rebuild of the counters of an emptied Redis, s", "–", "≤ 5 at 10⁵", 5, False),
    "libraries.limits": Goal("admission ÷ four moving windows of `limits`, CPU", "0.53", "≤ 0.5", 0.5),
    "libraries.idemkit": Goal("admission ÷ idemkit's idempotent call, CPU", "0.72", "≤ 0.6", 0.6),
    "libraries.powertools": Goal("admission ÷ AWS Powertools' idempotency, CPU", "0.92", "≤ 0.9", 0.9),
    "agent_run": Goal("guarded `Runner.run` with ledger and traces ÷ bare run, CPU", "3.6", "≤ 1.8", 1.8),
    "create.cpu": Goal("CPU of a whole /create (instant provider) ÷ bare run", "22–27", "≤ 8", 8),
    "create.lost": Goal("of these commands, ended without a video", "–", "0", 0),
    "create.transactions": Goal("SQL transactions per /create", "37 (267 with waiting)", "≤ 14", 14),
    "create.statements": Goal("SQL statements per /create", "133", "≤ 40", 40),
    "create.commands": Goal("Redis commands per /create", "184–250", "≤ 80", 80),
    "create.waiting": Goal("SQL transactions more for ten times the waiting, per /create", "230", "0", 0.5),
    "create.rate": Goal(
        "/create per second, bot + 1 worker", "3–10", "≥ 25 on 2 cores", 25, False, at_least=True
    ),
    "create.workers": Goal("CPU per /create with 2 workers ÷ with 1", "1.7", "≤ 1.1", 1.1),
    "answers.text": Goal("answer to a text, median, s", "–", "≤ 1", 1, False),
    "answers.refusal_private": Goal("refusal that needs no model, private, p95, s", "9–16", "≤ 1", 1, False),
    "answers.refusal_group": Goal("refusal that needs no model, group, p95, s", "9–16", "≤ 1", 1, False),
    "answers.offer_private": Goal("offer by an instant model, private, p95, s", "–", "≤ 3", 3, False),
    "answers.offer_group": Goal("offer by an instant model, group, p95, s", "–", "≤ 3", 3, False),
    "polling.lag": Goal(
        "5,000 jobs in flight on one worker, asked every 30 s: lag p95, s",
        "4,500 never asked",
        "< 2",
        2,
        False,
    ),
    "polling.never": Goal("of them, jobs that were never asked about", "4,500", "0", 0),
    "polling.memory": Goal("the same: memory of the worker, MB", "–", "< 300", 300, False),
    "questions.sqlite": Goal(
        "slowest growth of a timed question, many ÷ few requests, SQLite", "timeouts", "≤ 1.5", 1.5
    ),
    "questions.postgresql": Goal(
        "slowest growth of a timed question, many ÷ few requests, PostgreSQL", "timeouts", "≤ 1.5", 1.5
    ),
    "orders.place": Goal("opening and placing an order ÷ opening a request", "–", "–"),
    "orders.repeat": Goal("placing the same order again ÷ opening a request", "–", "–"),
    "orders.collector": Goal("a /create with a collector that never answers ÷ without one", "–", "–"),
    "preview.cpu": Goal("CPU of a preview ÷ encoding its frames", "–", "≤ 1.5", 1.5),
    "start.bot": Goal("start of a bot with WORKER=apart, s", "5.7", "≤ 2.5", 2.5, False),
    "start.worker": Goal("start of a worker ÷ importing agents and aiogram, CPU", "–", "≤ 1.3", 1.3),
    "start.costs": Goal("`python -m bot costs`, s", "5–7", "≤ 1", 1, False),
    "start.idle": Goal("CPU of an idle worker, per cent of a core", "4–6", "< 2", 2, False),
}
