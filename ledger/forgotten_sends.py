"""An order whose time is over, and of which a send is known that this ledger has lost."""

from uuid import uuid4

from ledger.database import Ledger, transaction
from ledger.models import Video, VideoState
from ledger.transitions import PICTURE_FENCE, OwnColumns, transition_in


@transaction
async def doubt_expired_send(
    ledger: Ledger, video: Video, submits: int, first_at: int, sent_at: int
) -> Video | None:
    """Move QUEUED by SUBMITTING to IN_DOUBT, in one transaction and without a send; None if it has moved.

    A ledger that was restored after the order's half hour would otherwise end it unpaid.

    Args:
        ledger: Where the order is stored.
        video: The order.
        submits: The number of the lost send.
        first_at: When the order's first send began.
        sent_at: When the lost send began: its job is searched for around that time.
    """
    fence = uuid4().hex if video.picture is None else f"{PICTURE_FENCE}{uuid4().hex}"
    columns: OwnColumns = {"submits": submits, "submitted_at": first_at, "sent_at": sent_at}
    begun: OwnColumns = {**columns, "fence": fence, "deadline_at": 0}
    why = f"send {submits} is remembered in Redis and not here: the ledger lost it, so it asks first"
    async with ledger.write() as conn:
        queued, submitting, doubt = VideoState.QUEUED, VideoState.SUBMITTING, VideoState.IN_DOUBT
        key = video.request_id
        if await transition_in(ledger, conn, key, queued, submitting, "shoot", why, columns=begun) is None:
            return None
        return await transition_in(
            ledger, conn, key, submitting, doubt, "shoot", why, columns=columns, fence=fence
        )
