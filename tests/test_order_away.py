"""SQL is away when the order is written: nothing is paid, the user is told, and it is taken up later."""

from sqlalchemy.exc import OperationalError

from chat.i18n import translator
from ledger import orders
from ledger.models import RequestState, VideoState

EN = translator("en")


async def test_an_order_that_cannot_be_written_is_told_and_taken_up(app_env, monkeypatch):
    """The first two attempts meet a ledger that takes no order: no POST, and the chat says which attempt it
    is; the third attempt orders, pays once and delivers.
    """
    env = await app_env()
    real, failed, posted = orders.place, [], []

    async def place(*args, **more):
        if len(failed) < 2:
            failed.append(1)
            posted.append(len(env.fake_provider.posts()))
            raise OperationalError("INSERT", {}, OSError("the server is gone"))
        return await real(*args, **more)

    monkeypatch.setattr(orders, "place", place)
    request, video = await env.create()
    assert (request.state, request.attempts) == (RequestState.ORDERED, 3)
    assert video.state is VideoState.DELIVERED
    assert (len(failed), posted) == (2, [0, 0])
    told = EN("retrying", attempt=2)
    assert await env.api.calls.wait_for(lambda call: told in str(call.params.get("text")), 5)
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1
