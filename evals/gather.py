"""Gathers the evidence of a case from where it stands: charge log, ledger, chats."""

from sqlalchemy import select

from evals.acts import Actors
from evals.evidence import Charge, Evidence, Fate, Line
from evals.policies.policy import Policy
from evals.resting import books_agree
from evals.stage import Stage
from evals.unmet import unmet
from ledger import reports
from ledger.database import Ledger
from ledger.identity import provider_key
from ledger.schema import requests, videos
from sandbox.telegram.user import bubble_of

_TEXTS = ("sendMessage", "editMessageText", "editMessageMedia", "sendVideo", "editMessageCaption")


async def gather(evidence: Evidence, actors: Actors, policy: Policy) -> None:
    """Fill `evidence` in from the stage as it stands now."""
    stage = actors.stage
    owner = await owners(stage)
    evidence.charges = await _charges(stage, owner)
    evidence.posts = [owner.get(one["headers"].get("idempotency-key", "")) for one in stage.peer.posts()]
    try:
        await books_agree(stage.house.ledger, stage.peer)
    except AssertionError as error:
        evidence.books = str(error).partition("\n")[0]
    evidence.fates = await _fates(actors)
    evidence.lines = _lines(actors)
    evidence.delivered = sum(line.video for line in evidence.lines)
    evidence.texts = _texts(stage)
    # A case that stopped early did not come to all of its faults: why it stopped is reason enough.
    evidence.unmet = [] if evidence.missed else unmet(actors, policy)
    diary = policy.diary
    evidence.turns = diary.turns
    evidence.emitted, evidence.heard, evidence.model_calls = diary.emitted, diary.heard, diary.calls


async def owners(stage: Stage) -> dict[str, str]:
    """Return which request each of our keys is for. A mutant's shadow, `id~call`, is the same user's act."""
    async with stage.house.ledger.read() as conn:
        ids = list(await conn.scalars(select(requests.c.request_id)))
    return {provider_key(one): one.partition("~")[0] for one in ids}


async def _charges(stage: Stage, owner: dict[str, str]) -> list[Charge]:
    jobs: dict[str, str | None] = {line["job"]: owner.get(line["key"]) for line in stage.peer.charges()}
    lines = [*stage.peer.charges(), *stage.peer.refunds()]
    if stage.plan.shape != "inworld":  # these send no key: jobs are found by what the ledger holds
        jobs |= await _by_job(stage.house.ledger)
    return [
        Charge(job=one["job"], key=one.get("key", ""), micros=one["micros"], request=jobs.get(one["job"]))
        for one in lines
    ]


async def _by_job(ledger: Ledger) -> dict[str, str | None]:
    async with ledger.read() as conn:
        rows = await conn.execute(
            select(videos.c.job_id, videos.c.request_id).where(videos.c.job_id.is_not(None))
        )
        return {row.job_id: row.request_id.partition("~")[0] for row in rows}


async def _fates(actors: Actors) -> list[Fate]:
    names = {number: name for name, number in reversed(actors.ids.items())}
    found = []
    for request, video in await actors.everything():
        if "~" in request.request_id:
            continue  # a mutant's, see `evals.mutants.guards`
        booked = await reports.charged(actors.stage.house.ledger, request.request_id)
        found.append(
            Fate(
                request=request.request_id,
                who=names[request.user_id],
                state=request.state,
                video=video and video.state,
                told=request.told,
                reason=request.reason,
                quote_micros=video.quote_micros if video else 0,
                booked_micros=booked.micros,
            )
        )
    return found


def _lines(actors: Actors) -> list[Line]:
    """Every message that stands in a chat, by bot and chat in the order of its number."""
    found = []
    for api in actors.stage.apis:
        for number in (*api.world.crowd.cards, *api.world.crowd.groups):
            for record in api.world.messages.of(number):
                bubble = bubble_of(record, max(0, number))
                video = bubble.media is not None and bubble.media.kind == "video"
                bot = record.message["from"]["is_bot"]
                line = Line(chat=str(number), bot=bot, text=bubble.text, video=video and bot)
                found.append(line.model_copy(update={"at": api.token.partition(":")[0]}))
    return found


def _texts(stage: Stage) -> list[Line]:
    """Every text that Telegram took from the bot, edits included, in order."""
    found = []
    for api in stage.apis:
        for call in api.calls.of(*_TEXTS):
            if call.performed:
                text = str(
                    call.params.get("text") or call.params.get("caption") or call.params.get("media") or ""
                )
                found.append(Line(chat=str(call.params.get("chat_id", "")), bot=True, text=text))
    return found
