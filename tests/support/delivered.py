"""A person with a delivered video, and what they see of it."""

from chat.i18n import translator
from ledger.models import Request, Video
from sandbox.telegram.bubbles import Bubble
from sandbox.telegram.user import Person

FREE = {"cooldown": None}
"""Changes of the declaration: the next video may follow at once."""


async def deliver_one(
    env, language: str = "en", user_id: int = 1001
) -> tuple[Person, Request, Video, Bubble]:
    """Have a person's video made; return them, its rows, and the message that shows it."""
    person = env.user(user_id, language=language)
    request, video = await env.create(user_id=user_id)
    shown = await person.wait_for(lambda one: is_video(one) and bool(one.buttons))
    return person, request, video, shown


def is_video(bubble: Bubble) -> bool:
    return bubble.media is not None and bubble.media.kind == "video"


def videos_of(person: Person, chat: int | None = None) -> list[Bubble]:
    return [one for one in person.history(chat=chat) if is_video(one)]


async def tap(person: Person, shown: Bubble, button: str, chat: int | None = None) -> dict:
    """Tap a button and return the answer: `text` and `alert`."""
    return await person.wait_for_answer(await person.tap(shown.id, button, chat=chat), 20)


def again_button(price, language: str = "en") -> str:
    return translator(language)("button_again", price=price)
