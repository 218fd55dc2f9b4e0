"""What a person's text is: an idea for a video, a question, small talk, or a command with a typing error."""

import re
from collections.abc import Collection
from typing import Final

from aiogram.types import Message

from chat.updates import clean

IDEA_CHARACTERS: Final = 4000
"""One message holds 4,096 UTF-16 units."""

IDEA_WORDS: Final = 3
"""A plain text of fewer words is small talk."""

_MAX_TYPING_ERRORS: Final = 2

# Beginnings that are hardly ever an idea: "when the sun sets" is one, "how much is it" is not.
_QUESTIONS: Final = """
    how much, how many, how do, how does, how can, how long, how to, what is, what's, what are, what can, what
    do, what does, who are, who is, why is, why are, why do, why does, why did, when is, when will, when can,
    where is, where are, where can, which model, can i, can you, could you, do i, do you, does it, does this,
    is it, is this, is there, are you, are there, will it, will you, help me,
    cuánto, cuanto, cuánta, cuánto cuesta, cuántos, cuantos, cuántas, cuantas, cómo se, como se, cómo puedo,
    como puedo, cómo funciona, como funciona, qué es, que es, qué puedo, que puedo, qué puedes, que puedes,
    qué haces, por qué, quién eres, quien eres, dónde está, donde esta, cuándo, puedo, puedes, se puede, tengo
    que, hay que, ayúdame, ayudame,
    quanto, quantos, quantas, como posso, como faço, como eu, o que é, o que posso, o que você, por que, quem
    é você, onde está, onde fica, posso, pode, você pode, voce pode, dá para, da para, tem como, preciso, me
    ajuda, me ajude
"""
_ASKS: Final = re.compile(
    r"[\s¿¡]*(?:" + "|".join(re.escape(one) for one in " ".join(_QUESTIONS.split()).split(", ")) + r")\b",
    re.IGNORECASE,
)
_COMMAND: Final = re.compile(r"/(\w+)(?:@\w+)?(?:\s+|$)")


def is_question(text: str) -> bool:
    """Return whether a text asks something, in any of our languages; it is then no idea by itself."""
    return text.rstrip(" .!…\"'»”)").endswith(("?", "؟", "？")) or _ASKS.match(text) is not None


def is_small_talk(text: str) -> bool:
    """Return whether a text is too short to be an idea."""
    return len(text.split()) < IDEA_WORDS


def idea_in(message: Message) -> str:
    """Return the idea in a text or caption, without a command before it."""
    text = clean(message.text or message.caption or "")
    command = _COMMAND.match(text)
    return text if command is None else text[command.end() :].strip()


def replied_idea(message: Message, bot_id: int) -> str:
    """Return the text that a message replies to, or the part of it that it quotes; nothing of the bot's."""
    source = message.reply_to_message
    if source is None or (source.from_user is not None and source.from_user.id == bot_id):
        return ""
    quoted = clean(message.quote.text) if message.quote is not None else ""
    return quoted or idea_in(source)


def nearest_command(text: str, known: Collection[str]) -> str | None:
    """Return the known command that a command with up to two typing errors means, if any."""
    command = _COMMAND.match(text)
    if command is None:
        return None
    said = command.group(1).lower()
    distances = {name: edit_distance(said, name) for name in known}
    nearest = min(distances, key=lambda name: distances[name], default=None)
    # Of a short word two errors leave nothing: "/x" is not "/buy".
    if nearest is None or distances[nearest] > min(_MAX_TYPING_ERRORS, len(nearest) // 2):
        return None
    return nearest


def edit_distance(one: str, other: str) -> int:
    """Return how many letters are inserted, left out, replaced or swapped with their neighbour.

    It is the optimal string alignment distance.
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
