"""Gauges of what waits for people: open requests, paid videos that are not delivered, processes, alerts."""

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import MICROS_PER_DOLLAR
from ledger import heartbeats, model_usage, operator_alerts
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.schema import requests, videos
from telemetry import metrics as shown


async def update(ledger: Ledger) -> None:
    """Set them all."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        await _set_oldest_open(conn, now)
        await _set_undelivered(conn, now)
    for role, found in (await heartbeats.alive(ledger)).items():
        shown.PROCESSES.set(found.count, role=role)
    counts = await operator_alerts.count(ledger)
    shown.ALERTS_OPEN.set(counts.open, acknowledged="no")
    shown.ALERTS_OPEN.set(counts.acknowledged, acknowledged="yes")
    shown.ALERTS_MISSED.set(counts.missed)
    shown.MODEL_COST_TODAY.set((await model_usage.spent_today(ledger)).everyone.micros / MICROS_PER_DOLLAR)


async def _set_oldest_open(conn: AsyncConnection, now: int) -> None:
    # Spelled out: so the partial index of open requests is used.
    query = select(func.min(requests.c.created_at)).where(text("requests.state = 'OPEN'"))
    oldest = await conn.scalar(query)
    shown.OLDEST_OPEN.set(0 if oldest is None else max(0, now - oldest) / 1000)


async def _set_undelivered(conn: AsyncConnection, now: int) -> None:
    query = select(func.count(), func.min(videos.c.updated_at)).where(videos.c.state == VideoState.SUCCEEDED)
    count, oldest = (await conn.execute(query)).one()
    shown.UNDELIVERED.set(count)
    shown.OLDEST_UNDELIVERED.set(0 if oldest is None else max(0, now - oldest) / 1000)
