"""What the rehearsal model sees of a conversation, and what a decent director would make of it.

Everything is derived from the items that the SDK hands over: the model keeps no memory of its own, so that
two workers, or a run that is resumed, see the same scene and say the same words.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Language = Literal["en", "es", "pt"]
SECONDS: Final = (4, 8, 12)
UPRIGHT: Final = "720x1280"
WIDE: Final = "1280x720"
CAPTION_ROOM: Final = 200
_PROMPT_ROOM: Final = 600
_NOT_WORDS: Final = frozenset({"So", "Sk", "Cf", "Co"})  # emojis, their modifiers and joiners
_LONGEST_WISH: Final = 20  # "the 90s" is a decade, not a length

_NAMED: Final[Mapping[str, Language]] = {
    "en": "en", "english": "en",
    "es": "es", "spanish": "es", "español": "es",
    "pt": "pt", "portuguese": "pt", "português": "pt",
}  # fmt: skip
_LANGUAGE: Final = re.compile(r"^language of the user: *([^\W\d_]+)", re.IGNORECASE | re.MULTILINE)
_LENGTH: Final = re.compile(
    r"(?<![\w.,$])(\d{1,2})[ -]?(?:s|secs?|seconds?|segs?|segundos?)\b", re.IGNORECASE
)
_LANDSCAPE: Final = re.compile(
    r"\b(?:horizontal|landscape|wide|widescreen|apaisad[oa]|panor[aâá]mic[oa])\b|\b16:9\b", re.IGNORECASE
)
_STYLES: Final[Mapping[Language, tuple[str, ...]]] = {
    "en": (
        "One continuous shot, slow dolly in, soft early light, natural sound.",
        "One continuous shot, handheld at eye level, warm colours, the sound of the place.",
        "One continuous shot, slow pan from left to right, clear air, quiet music.",
    ),
    "es": (
        "Un solo plano, travelling lento, luz suave de la mañana, sonido natural.",
        "Un solo plano, cámara en mano a la altura de los ojos, colores cálidos, sonido del lugar.",
        "Un solo plano, paneo lento de izquierda a derecha, aire limpio, música tranquila.",
    ),
    "pt": (
        "Um só plano, aproximação lenta, luz suave da manhã, som natural.",
        "Um só plano, câmera na mão à altura dos olhos, cores quentes, som do lugar.",
        "Um só plano, panorâmica lenta da esquerda para a direita, ar limpo, música calma.",
    ),
}
_CAPTION_END: Final[Mapping[Language, str]] = {
    "en": "one small film, just for this chat",
    "es": "una pequeña película, solo para este chat",
    "pt": "um pequeno filme, só para este chat",
}


@dataclass(frozen=True, slots=True)
class Shot:
    """The arguments of one `generate_video` call."""

    prompt: str
    seconds: int
    size: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One moment of one run.

    Attributes:
        idea: The last thing that the user said; the run began there.
        language: From the line `Language of the user:` of the instructions; English without one.
        turn: How many answers the model has given in this run.
        position: How many items the whole conversation has, earlier runs of a session included.
        tools: The names of the tools that may be called.
        answers: What `generate_video` was answered in this run, in order.
    """

    idea: str
    language: Language
    turn: int
    position: int
    tools: frozenset[str]
    answers: tuple[str, ...]


def read_scene(instructions: str | None, items: str | Sequence[Any], tools: Iterable[str]) -> Scene:
    """Read the moment from the model's input."""
    said: list[Any] = [{"role": "user", "content": items}] if isinstance(items, str) else list(items)
    starts = [index for index, item in enumerate(said) if item.get("role") == "user"]
    run = said[starts[-1] :] if starts else said
    return Scene(
        idea=_clean(_text(run[0].get("content"))) if starts else "",
        language=_language(instructions or ""),
        turn=_turns(run),
        position=len(said),
        tools=frozenset(tools),
        answers=_answers(run),
    )


def shot_of(scene: Scene) -> Shot:
    """Turn the idea into one shot: its own words, a style, and the length and shape that it asks for."""
    idea = trimmed(scene.idea, _PROMPT_ROOM).rstrip(". ")
    styles = _STYLES[scene.language]
    style = styles[int(digest(scene.idea), 16) % len(styles)]
    return Shot(prompt=f"{idea}. {style}", seconds=_seconds(scene.idea), size=_size(scene.idea))


def caption_of(scene: Scene) -> str:
    """Return a caption of at most 200 characters, on one line and without emojis."""
    end = _CAPTION_END[scene.language]
    letters = unicodedata.normalize("NFC", scene.idea).replace("\ufe0f", "")
    plain = "".join(sign for sign in letters if unicodedata.category(sign) not in _NOT_WORDS)
    idea = trimmed(plain, CAPTION_ROOM - len(end) - 3).rstrip(".!? ")
    return f"{idea[:1].upper()}{idea[1:]} — {end}" if idea else f"{end[0].upper()}{end[1:]}"


def trimmed(text: str, room: int) -> str:
    """Return `text` on one line and in at most `room` characters, cut between words where there are any."""
    line = " ".join(text.split())
    if len(line) <= room:
        return line
    return f"{line[: room - 1].rsplit(' ', 1)[0].rstrip(',;: ')}…"


def digest(*parts: object) -> str:
    """Return eight hexadecimal digits that are the same for the same parts, in every process."""
    return hashlib.blake2s("\x1f".join(map(str, parts)).encode(), digest_size=4).hexdigest()


def _seconds(idea: str) -> int:
    match = _LENGTH.search(idea)
    wish = int(match[1]) if match else 0
    if not 0 < wish <= _LONGEST_WISH:
        return 8
    return min(SECONDS, key=lambda length: (abs(length - wish), length))


def _size(idea: str) -> str:
    return WIDE if _LANDSCAPE.search(idea) else UPRIGHT


def _language(instructions: str) -> Language:
    match = _LANGUAGE.search(instructions)
    return _NAMED.get(match[1].lower(), "en") if match else "en"


def _clean(text: str) -> str:
    # A lone surrogate in tool arguments ends a run with a raw UnicodeEncodeError.
    return text.encode("utf-8", "replace").decode()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or () if isinstance(part, Mapping))


def _turns(run: Sequence[Any]) -> int:
    """Count the model's answers: whatever it said between two things that were said to it is one."""
    by_model = [_is_the_models(item) for item in run]
    return sum(now and not before for before, now in zip([False, *by_model], by_model, strict=False))


def _is_the_models(item: Any) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning")


def _answers(run: Sequence[Any]) -> tuple[str, ...]:
    calls = {
        item["call_id"]
        for item in run
        if item.get("type") == "function_call" and item.get("name") == "generate_video"
    }
    return tuple(
        _output(item.get("output"))
        for item in run
        if item.get("type") == "function_call_output" and item.get("call_id") in calls
    )


def _output(output: Any) -> str:
    return _text(output) if isinstance(output, (str, list)) else str(output)
