"""1,500 jobs hang at the provider: every one is asked about, and new commands still end in a video."""

import time

import pytest
from sqlalchemy import update

from evals.environment import AppEnvironment
from ledger.models import VideoState
from ledger.schema import entries, requests, transitions, videos
from tests.support.app_harness import open_app_env
from tests.support.waiting import wait_until

pytestmark = pytest.mark.nightly

HANGING = 1_500
_FIRST_USER = 700_000
NO_USER_LIMITS = {"cooldown": None, "quota": None, "budget": None, "breaker": "{everyone: 100000/5m}"}


async def hang_jobs(env: AppEnvironment, count: int) -> list[str]:
    """Store `count` accepted orders whose jobs the provider has and never finishes; return the jobs."""
    now, app = int(time.time() * 1000), env.app
    rows: dict[str, list[dict]] = {"requests": [], "videos": [], "entries": [], "moves": []}
    jobs = []
    for number in range(count):
        request, user = f"tg:{app.bot.id}:-:{_FIRST_USER + number}:1", _FIRST_USER + number
        fields = {"model": "fake", "prompt": "a market", "seconds": 8, "size": "720x1280"}
        job = env.fake_provider._charge("fake", fields, f"hung-{number}", f"hung-{number}")
        job.word = "in_progress"
        jobs.append(job.id)
        named = {"request_id": request, "user_id": user}
        rows["requests"].append(
            named
            | {"bot_id": app.bot.id, "chat_id": user, "message_id": 1, "language": "en", "idea": "a market"}
            | {"state": "ORDERED", "told": "ACCEPTED", "created_at": now, "updated_at": now}
        )
        rows["videos"].append(
            named
            | {"state": "ACCEPTED", "provider": app.chat.offer.provider, "model": "fake"}
            | {"prompt": "a market", "seconds": 8, "size": "720x1280", "quote_micros": job.micros}
            | {"expires_at": now, "job_id": job.id, "progress": 50, "submits": 1, "ordered_at": now}
            | {"submitted_at": now, "sent_at": now, "accepted_at": now, "updated_at": now, "due_at": now}
        )
        for kind, held in (("hold", None), ("charge", job.id)):
            cause = held or "order"
            rows["entries"].append(
                named
                | {"kind": kind, "cause": cause, "job_id": held, "n": 1, "micros": job.micros, "at": now}
            )
        rows["moves"].append(
            {"request_id": request, "subject": "video", "from_state": "SUBMITTING", "to_state": "ACCEPTED"}
            | {"who": "shoot", "why": "test", "at": now}
        )
    async with app.ledger.write() as conn:
        for table, name in ((requests, "requests"), (videos, "videos"), (entries, "entries")):
            await conn.execute(table.insert(), rows[name])
        await conn.execute(transitions.insert(), rows["moves"])
        # Their users have read it: this test is not about 1,500 messages.
        await conn.execute(update(requests).where(requests.c.told == "ACCEPTED").values(notify_at=None))
    return jobs


async def test_new_commands_end_while_jobs_hang(tmp_path, valkey):
    """The newest hanging job is asked about too, and five new commands are made and delivered."""
    async with open_app_env(
        tmp_path, valkey.connection_url, changes=NO_USER_LIMITS, capabilities={"overdue_s": 3_600}
    ) as env:
        jobs = await hang_jobs(env, HANGING)
        for user in range(1, 6):
            _, video = await env.create(user_id=user)
            assert video is not None
            assert video.state is VideoState.DELIVERED

        async def all_asked() -> bool:
            return all(env.fake_provider.jobs[job].polls > 0 for job in jobs)

        await wait_until(all_asked, 120, "every hanging job to be asked about")
        asked = [env.fake_provider.jobs[job].polls for job in jobs]
        assert max(asked) <= 20 * min(asked), "the oldest starve the newest"
        assert sum(env.fake_provider.net().values()) == sum(
            job.micros for job in env.fake_provider.jobs.values()
        )
