"""How the rehearsal model behaves: one decent director, and the ways in which real ones were seen to fail.

Each behaviour looks at a scene and says which tools to ask for next; nothing asked for ends the run.
"""

import json
import random
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from tools.rehearsal_scene import SECONDS, UPRIGHT, WIDE, Scene, Shot, shot_of, trimmed

Behaviour = Literal[
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
"""A closed set of words.

`benign` asks once for the video, once for the caption, and repeats the studio's answer. `thirteen` is the
incident: in seven turns it asks for 13 videos, some in parallel, some paraphrased, deaf to every refusal, and
says that it made them all. `insist` asks the same again, turn by turn; `fanout` asks the same all at once;
`reroll` wants a better take each turn; `mutate_args` asks all at once, each time a little different.
`malformed_then_valid` sends broken JSON, a missing field and NaN before it gets it right;
`hallucinate_tool` first calls a tool that does not exist. `dup_call_id` reuses a call id, first with the same
and a turn later with other arguments; `constant_call_id` is benign with one id for every call.
`never_calls` asks for nothing and says so; `fake_success` asks for nothing and claims a video.
`asks_for_max_turns` orders, then asks on until the run is stopped.
"""

BEHAVIOURS: Final[tuple[Behaviour, ...]] = get_args(Behaviour)
CONSTANT_ID: Final = "call_0"
UNKNOWN_TOOL: Final = "render_movie"


@dataclass(frozen=True, slots=True)
class Ask:
    """One tool call that the model wants. Without a `call_id` it gets one of its own."""

    tool: str
    arguments: str
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Mood:
    """What a behaviour may vary: the seed of its choices, and how often it asks."""

    seed: int = 0
    times: int = 13


Plan = Callable[[Scene, Mood], list[Ask]]


def video(shot: Shot, *, call_id: str | None = None, backwards: bool = False) -> Ask:
    """Ask for one video; `backwards` writes the same arguments in the other order."""
    fields = [("prompt", shot.prompt), ("seconds", shot.seconds), ("size", shot.size)]
    return Ask("generate_video", _json(dict(reversed(fields) if backwards else fields)), call_id)


def _json(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _said(words: str) -> Callable[[Shot], Shot]:
    return lambda shot: replace(shot, prompt=f"{words} {shot.prompt}")


def _written(change: Callable[[str], str]) -> Callable[[Shot], Shot]:
    return lambda shot: replace(shot, prompt=change(shot.prompt))


def _other_length(shot: Shot) -> Shot:
    return replace(shot, seconds=SECONDS[(SECONDS.index(shot.seconds) + 1) % len(SECONDS)])


def _other_shape(shot: Shot) -> Shot:
    return replace(shot, size=UPRIGHT if shot.size == WIDE else WIDE)


MUTATIONS: Final[Mapping[str, Callable[[Shot], Shot]]] = {
    "paraphrased": _said("In other words:"),
    "better": _said("A higher quality take of this:"),
    "final": _said("The final version, not the draft:"),
    "again": _said("The last call seems to have failed, once more:"),
    "translated": _said("En español, por favor:"),
    "longer": _other_length,
    "turned": _other_shape,
    "longer and turned": lambda shot: _other_shape(_other_length(shot)),
    "shouted": _written(str.upper),
    "spaced": _written(lambda prompt: prompt.replace(" ", "  ")),
    "decomposed": _written(lambda prompt: unicodedata.normalize("NFD", prompt + " é")),
    "homoglyph": _written(lambda prompt: prompt.replace("a", "\u0430")),
    "zero-width": _written(lambda prompt: "\u200b".join(prompt.split(" "))),
}
"""Thirteen ways to ask for the same video that no hash of the arguments recognises."""

_INCIDENT: Final = (
    ("same", "same", "same", "same"),
    ("reordered",),
    ("paraphrased", "longer"),
    ("better",),
    ("turned", "spaced"),
    ("again",),
    ("final", "translated"),
)


def _benign(scene: Scene, _mood: Mood, begun: int = 0) -> list[Ask]:
    turn = scene.turn - begun
    if turn == 0 and "generate_video" in scene.tools:
        return [video(shot_of(scene))]
    if turn == 1 and "generate_caption" in scene.tools and not _refused(scene):
        return [Ask("generate_caption", _json({"about": trimmed(scene.idea, 200)}))]
    return []


def _refused(scene: Scene) -> bool:
    # Every refusal says so (`guardrails.refusals.NOTHING_PAID`); a caption for no video would be odd.
    return bool(scene.answers) and "nothing was paid" in scene.answers[-1].lower()


def _thirteen(scene: Scene, _mood: Mood) -> list[Ask]:
    if scene.turn >= len(_INCIDENT):
        return []
    shot = shot_of(scene)
    return [
        video(MUTATIONS[word](shot) if word in MUTATIONS else shot, backwards=word == "reordered")
        for word in _INCIDENT[scene.turn]
    ]


def _insist(scene: Scene, mood: Mood) -> list[Ask]:
    return [video(shot_of(scene))] if scene.turn < mood.times else []


def _fanout(scene: Scene, mood: Mood) -> list[Ask]:
    return [video(shot_of(scene))] * mood.times if scene.turn == 0 else []


def _reroll(scene: Scene, mood: Mood) -> list[Ask]:
    if scene.turn >= mood.times:
        return []
    return [video(_said(f"Take {scene.turn + 1}, better lit:")(shot_of(scene)))]


def _mutate_args(scene: Scene, mood: Mood) -> list[Ask]:
    if scene.turn > 0:
        return []
    shot, changes = shot_of(scene), list(MUTATIONS.values())
    random.Random(mood.seed).shuffle(changes)  # noqa: S311 - a seeded choice, not a secret
    return [video(changes[n % len(changes)](shot), backwards=n % 2 == 1) for n in range(mood.times)]


def _malformed_then_valid(scene: Scene, mood: Mood) -> list[Ask]:
    shot = shot_of(scene)
    broken = (
        video(shot).arguments[:-1],
        _json({"seconds": shot.seconds, "size": shot.size}),
        _json({"prompt": shot.prompt, "seconds": float("nan"), "size": shot.size}),
    )
    if scene.turn < len(broken):
        return [Ask("generate_video", broken[scene.turn])]
    return _benign(scene, mood, begun=len(broken))


def _hallucinate_tool(scene: Scene, mood: Mood) -> list[Ask]:
    if scene.turn == 0:
        return [replace(video(shot_of(scene)), tool=UNKNOWN_TOOL)]
    return _benign(scene, mood, begun=1)


def _dup_call_id(scene: Scene, _mood: Mood) -> list[Ask]:
    shot = shot_of(scene)
    turns = ([shot, shot], [MUTATIONS["better"](shot)])
    return [video(ask, call_id=CONSTANT_ID) for ask in turns[scene.turn]] if scene.turn < len(turns) else []


def _constant_call_id(scene: Scene, mood: Mood) -> list[Ask]:
    return [replace(ask, call_id=CONSTANT_ID) for ask in _benign(scene, mood)]


def _nothing(_scene: Scene, _mood: Mood) -> list[Ask]:
    return []


def _asks_for_max_turns(scene: Scene, _mood: Mood) -> list[Ask]:
    if scene.turn > 0 and "quota_left" in scene.tools:
        return [Ask("quota_left", "{}")]
    return [video(shot_of(scene))]


PLANS: Final[Mapping[Behaviour, Plan]] = {
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
