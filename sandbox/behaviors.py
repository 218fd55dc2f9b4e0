"""How the sandbox model behaves: it reads the conversation as a scene, and plans its calls from that."""

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from ledger.models import Language
from tools import generate_caption, generate_video, quota_left
from tools.registry import GENERATE_IMAGE
from tools.text import trimmed

SECONDS: Final = (4, 8, 12)
UPRIGHT: Final = "720x1280"
WIDE: Final = "1280x720"
MAX_CAPTION: Final = 200
_MAX_PROMPT: Final = 600
_NOT_WORDS: Final = frozenset({"So", "Sk", "Cf", "Co"})  # emojis, their modifiers and joiners
_LONGEST_S: Final = 20  # "the 90s" is a decade, not a length

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
class VideoCall:
    """The arguments of one `generate_video` call."""

    prompt: str
    seconds: int
    size: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One turn of one run, as read from the model's input.

    Attributes:
        idea: The user's last message, with which the run began.
        language: From the line `Language of the user:` of the instructions; English without one.
        turn: How many answers the model has given in this run.
        position: Number of items in the whole conversation, earlier runs of a session included.
        tools: The names of the tools that may be called.
        answers: The answers of `generate_video` in this run, in order.
    """

    idea: str
    language: Language
    turn: int
    position: int
    tools: frozenset[str]
    answers: tuple[str, ...]


def read_scene(instructions: str | None, items: str | Sequence[Any], tools: Iterable[str]) -> Scene:
    """Read the scene from the model's input."""
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


def video_call_of(scene: Scene) -> VideoCall:
    """Turn the idea into one call: its text, a style, and the length and shape that it mentions."""
    idea = trimmed(scene.idea, _MAX_PROMPT).rstrip(". ")
    styles = _STYLES[scene.language]
    style = styles[int(digest(scene.idea), 16) % len(styles)]
    return VideoCall(prompt=f"{idea}. {style}", seconds=_seconds(scene.idea), size=_size(scene.idea))


def caption_of(scene: Scene) -> str:
    """Return a caption of at most 200 characters, on one line and without emojis."""
    end = _CAPTION_END[scene.language]
    letters = unicodedata.normalize("NFC", scene.idea).replace("\ufe0f", "")
    plain = "".join(sign for sign in letters if unicodedata.category(sign) not in _NOT_WORDS)
    idea = trimmed(plain, MAX_CAPTION - len(end) - 3).rstrip(".!? ")
    return f"{idea[:1].upper()}{idea[1:]} — {end}" if idea else f"{end[0].upper()}{end[1:]}"


def digest(*parts: object) -> str:
    """Return eight hexadecimal digits that are the same for the same parts, in every process."""
    return hashlib.blake2s("\x1f".join(map(str, parts)).encode(), digest_size=4).hexdigest()


def _seconds(idea: str) -> int:
    match = _LENGTH.search(idea)
    wanted = int(match[1]) if match else 0
    if not 0 < wanted <= _LONGEST_S:
        return 8
    return min(SECONDS, key=lambda length: (abs(length - wanted), length))


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
    """Count the model's answers: consecutive items of the model are one answer."""
    by_model = [_is_the_models(item) for item in run]
    return sum(now and not before for before, now in zip([False, *by_model], by_model, strict=False))


def _is_the_models(item: Any) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning")


def _answers(run: Sequence[Any]) -> tuple[str, ...]:
    calls = {
        item["call_id"]
        for item in run
        if item.get("type") == "function_call" and item.get("name") in (generate_video.NAME, GENERATE_IMAGE)
    }
    return tuple(
        _output(item.get("output"))
        for item in run
        if item.get("type") == "function_call_output" and item.get("call_id") in calls
    )


def _output(output: Any) -> str:
    return _text(output) if isinstance(output, (str, list)) else str(output)


Behavior = Literal[
    "benign",
    "thirteen",
    "insist",
    "fanout",
    "reroll",
    "mutate_args",
    "malformed_then_valid",
    "hallucinate_tool",
    "dup_call_id",
    "constant_call_id",
    "never_calls",
    "fake_success",
    "asks_for_max_turns",
]
"""The closed set of behaviors.

`benign` calls once for the video, once for the caption, and repeats the tool's answer. `thirteen` is the
incident: in seven turns it calls for 13 videos, some in parallel, some paraphrased, ignores every refusal,
and claims that it made them all. `insist` repeats one call turn by turn; `fanout` makes equal calls all at
once; `reroll` wants a better video each turn; `mutate_args` calls all at once, each time slightly different.
`malformed_then_valid` sends broken JSON, a missing field and NaN before it gets it right;
`hallucinate_tool` first calls a tool that does not exist. `dup_call_id` reuses a call id, first with the same
and a turn later with other arguments; `constant_call_id` is benign with one id for every call.
`never_calls` makes no call and says so; `fake_success` makes no call and claims a video.
`asks_for_max_turns` orders, then calls on until the run is stopped.
"""

BEHAVIORS: Final[tuple[Behavior, ...]] = get_args(Behavior)
CONSTANT_ID: Final = "call_0"
UNKNOWN_TOOL: Final = "render_movie"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call that the model wants. Without a `call_id` it gets one of its own."""

    tool: str
    arguments: str
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class BehaviorOptions:
    """What a behavior may vary: the seed of its choices, and how often it calls."""

    seed: int = 0
    times: int = 13


Plan = Callable[[Scene, BehaviorOptions], list[ToolCall]]


def video(shot: VideoCall, *, call_id: str | None = None, backwards: bool = False) -> ToolCall:
    """Return a call for one video; `backwards` writes the same arguments in reverse order."""
    fields = [("prompt", shot.prompt), ("seconds", shot.seconds), ("size", shot.size)]
    return ToolCall(generate_video.NAME, _json(dict(reversed(fields) if backwards else fields)), call_id)


def _json(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _prefixed(words: str) -> Callable[[VideoCall], VideoCall]:
    return lambda shot: replace(shot, prompt=f"{words} {shot.prompt}")


def _rewritten(change: Callable[[str], str]) -> Callable[[VideoCall], VideoCall]:
    return lambda shot: replace(shot, prompt=change(shot.prompt))


def _other_length(shot: VideoCall) -> VideoCall:
    return replace(shot, seconds=SECONDS[(SECONDS.index(shot.seconds) + 1) % len(SECONDS)])


def _other_shape(shot: VideoCall) -> VideoCall:
    return replace(shot, size=UPRIGHT if shot.size == WIDE else WIDE)


MUTATIONS: Final[Mapping[str, Callable[[VideoCall], VideoCall]]] = {
    "paraphrased": _prefixed("In other words:"),
    "better": _prefixed("A higher quality take of this:"),
    "final": _prefixed("The final version, not the draft:"),
    "again": _prefixed("The last call seems to have failed, once more:"),
    "translated": _prefixed("En español, por favor:"),
    "longer": _other_length,
    "turned": _other_shape,
    "longer and turned": lambda shot: _other_shape(_other_length(shot)),
    "shouted": _rewritten(str.upper),
    "spaced": _rewritten(lambda prompt: prompt.replace(" ", "  ")),
    "decomposed": _rewritten(lambda prompt: unicodedata.normalize("NFD", prompt + " é")),
    "homoglyph": _rewritten(lambda prompt: prompt.replace("a", "\u0430")),
    "zero-width": _rewritten(lambda prompt: "\u200b".join(prompt.split(" "))),
}
"""Thirteen ways to call for the same video that no hash of the arguments recognizes."""

_INCIDENT: Final = (
    ("same", "same", "same", "same"),
    ("reordered",),
    ("paraphrased", "longer"),
    ("better",),
    ("turned", "spaced"),
    ("again",),
    ("final", "translated"),
)


_STILL: Final = re.compile(
    r"(a |an |one |un |una |um |uma )?(poster|póster|pôster|still|imagen fija) (of|de|da|do)\b", re.IGNORECASE
)
"""An idea that begins so asks for a still alone."""


def _benign(scene: Scene, _options: BehaviorOptions, begun: int = 0) -> list[ToolCall]:
    turn = scene.turn - begun
    if GENERATE_IMAGE in scene.tools and _STILL.match(scene.idea):
        shot = video_call_of(scene)
        return (
            [ToolCall(GENERATE_IMAGE, _json({"prompt": shot.prompt, "size": shot.size}))] if turn == 0 else []
        )
    if turn == 0 and generate_video.NAME in scene.tools:
        return [video(video_call_of(scene))]
    if turn == 1 and generate_caption.NAME in scene.tools and not _refused(scene):
        return [ToolCall(generate_caption.NAME, _json({"about": trimmed(scene.idea, 200)}))]
    return []


def _refused(scene: Scene) -> bool:
    # Every refusal says so (`guardrails.refusals.NOTHING_PAID`); a caption for no video would be odd.
    return bool(scene.answers) and "nothing was paid" in scene.answers[-1].lower()


def _thirteen(scene: Scene, _options: BehaviorOptions) -> list[ToolCall]:
    if scene.turn >= len(_INCIDENT):
        return []
    shot = video_call_of(scene)
    return [
        video(MUTATIONS[word](shot) if word in MUTATIONS else shot, backwards=word == "reordered")
        for word in _INCIDENT[scene.turn]
    ]


def _insist(scene: Scene, options: BehaviorOptions) -> list[ToolCall]:
    return [video(video_call_of(scene))] if scene.turn < options.times else []


def _fanout(scene: Scene, options: BehaviorOptions) -> list[ToolCall]:
    return [video(video_call_of(scene))] * options.times if scene.turn == 0 else []


def _reroll(scene: Scene, options: BehaviorOptions) -> list[ToolCall]:
    if scene.turn >= options.times:
        return []
    return [video(_prefixed(f"Take {scene.turn + 1}, better lit:")(video_call_of(scene)))]


def _mutate_args(scene: Scene, options: BehaviorOptions) -> list[ToolCall]:
    if scene.turn > 0:
        return []
    shot, changes = video_call_of(scene), list(MUTATIONS.values())
    random.Random(options.seed).shuffle(changes)  # noqa: S311 - a seeded choice, not a secret
    return [video(changes[n % len(changes)](shot), backwards=n % 2 == 1) for n in range(options.times)]


def _malformed_then_valid(scene: Scene, options: BehaviorOptions) -> list[ToolCall]:
    shot = video_call_of(scene)
    broken = (
        video(shot).arguments[:-1],
        _json({"seconds": shot.seconds, "size": shot.size}),
        _json({"prompt": shot.prompt, "seconds": float("nan"), "size": shot.size}),
    )
    if scene.turn < len(broken):
        return [ToolCall(generate_video.NAME, broken[scene.turn])]
    return _benign(scene, options, begun=len(broken))


def _hallucinate_tool(scene: Scene, options: BehaviorOptions) -> list[ToolCall]:
    if scene.turn == 0:
        return [replace(video(video_call_of(scene)), tool=UNKNOWN_TOOL)]
    return _benign(scene, options, begun=1)


def _dup_call_id(scene: Scene, _options: BehaviorOptions) -> list[ToolCall]:
    shot = video_call_of(scene)
    turns = ([shot, shot], [MUTATIONS["better"](shot)])
    return [video(ask, call_id=CONSTANT_ID) for ask in turns[scene.turn]] if scene.turn < len(turns) else []


def _constant_call_id(scene: Scene, options: BehaviorOptions) -> list[ToolCall]:
    return [replace(ask, call_id=CONSTANT_ID) for ask in _benign(scene, options)]


def _nothing(_scene: Scene, _options: BehaviorOptions) -> list[ToolCall]:
    return []


def _asks_for_max_turns(scene: Scene, _options: BehaviorOptions) -> list[ToolCall]:
    if scene.turn > 0 and quota_left.NAME in scene.tools:
        return [ToolCall(quota_left.NAME, "{}")]
    return [video(video_call_of(scene))]


PLANS: Final[Mapping[Behavior, Plan]] = {
    "benign": _benign,
    "thirteen": _thirteen,
    "insist": _insist,
    "fanout": _fanout,
    "reroll": _reroll,
    "mutate_args": _mutate_args,
    "malformed_then_valid": _malformed_then_valid,
    "hallucinate_tool": _hallucinate_tool,
    "dup_call_id": _dup_call_id,
    "constant_call_id": _constant_call_id,
    "never_calls": _nothing,
    "fake_success": _nothing,
    "asks_for_max_turns": _asks_for_max_turns,
}
