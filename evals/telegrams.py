"""What Telegram's server does beside carrying messages: it numbers them, and brings updates again."""

from evals import events
from evals.base import EvalError
from sandbox.telegram.server import BotApi
from sandbox.telegram.updates import Update
from sandbox.telegram.user import Bubble

_DAY_S = 86_400


def skip_to(number: int | None, api: BotApi, chat: int) -> None:
    """Use up the message numbers before `number`.

    Raises:
        EvalError: It is used already.
    """
    while number is not None and number > 1 and (last := api.world.messages.next_id(chat)) != number - 1:
        if last >= number:
            raise EvalError(f"message {number} is used already")


async def again(api: BotApi, update: Update, event: events.Redeliver) -> None:
    """Deliver an update again, as the event says."""
    if not event.renumbered:
        await api.redeliver(update.id, event.times)
        return
    for _ in range(event.times):
        api.world.updates.push(update.kind, update.body, update.lane, _DAY_S)


def button_of(bubble: Bubble, words: str) -> str | None:
    """Return the text of a message's button that begins with `words`."""
    return next((text for text in bubble.button_texts if text.startswith(words)), None)
