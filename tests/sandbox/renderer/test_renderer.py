"""Tests of the preview renderer."""

import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from PIL import ImageChops

from providers.video_file import probe
from sandbox.renderer.drawing import FontMissing, Lettering, clauses
from sandbox.renderer.encoder import write_reel
from sandbox.renderer.film import FADE_S, FPS, Film
from sandbox.renderer.scenes import mood_of

IDEA = "Traditional Mexican mercado at dawn, vendors setting up colourful stalls, steam rising from tamales"
SIZE = (720, 1280)


@pytest.fixture(scope="session")
def reel(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reel") / "reel.mp4"
    frames = []
    write_reel(Film(IDEA, "¡Buenos días!", 4, SIZE, 7), path, 7, frames.append)
    assert frames == list(range(4 * FPS))
    return path


@pytest.fixture(scope="session")
def letters() -> Lettering:
    return Lettering(7.2)


@pytest.mark.slow
def test_the_reel_is_a_video_that_telegram_plays(reel):
    """H.264 in yuv420p at 24 frames a second with an AAC stereo track, exact size and seconds."""
    asset = probe(reel)
    assert (asset.width, asset.height) == SIZE
    assert abs(asset.seconds - 4) <= 1 / FPS
    with av.open(str(reel)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.average_rate, video.frames) == (FPS, 4 * FPS)
        assert (audio.codec_context.name, audio.codec_context.layout.name) == ("aac", "stereo")
        assert float(audio.duration * audio.time_base) == pytest.approx(4, abs=0.05)


def test_the_index_comes_first(reel):
    """`moov` comes before `mdat`, so that a player starts before the whole file is loaded."""
    data = reel.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert len(data) < 3_000_000


def test_the_sound_is_audible_and_quiet(reel):
    """The chord is audible and never loud."""
    with av.open(str(reel)) as container:
        loudest = max(
            max(abs(v) for v in memoryview(f.planes[0]).cast("f")) for f in container.decode(audio=0)
        )
    assert 0.02 < loudest < 0.3


@pytest.mark.parametrize("size", [(72, 128), (128, 72), (102, 178), (178, 102)])
@pytest.mark.parametrize(
    "idea", [IDEA, "barco en el mar", "neon city", "bosque de noche", "desert at noon", "x"]
)
def test_every_place_draws_in_every_shape(idea, size):
    """No place, hour or shape of picture breaks a film."""
    film = Film(idea, "", 4, size, 3)
    for number in (0, film.frames // 3 - 4, film.frames - 1):
        assert film.frame(number).size == size


def test_the_same_request_is_the_same_film():
    """The seed decides; another seed is another film."""
    one, same, other = (Film(IDEA, "", 4, (180, 320), seed).frame(40) for seed in (7, 7, 8))
    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()


def test_every_frame_says_preview():
    """The label is unchanged in every frame, also in cross-fades."""
    film = Film(IDEA, "", 4, (360, 640), 7)
    label = film._letters.label()
    solid = label.getchannel("A").point([0] * 255 + [255])
    for number in (0, round((4 / 3 - FADE_S / 2) * FPS), film.frames - 1):
        seen = film.frame(number).crop((14, 16, 14 + label.width, 16 + label.height))
        inked = ImageChops.multiply(ImageChops.difference(seen, label.convert("RGB")).convert("L"), solid)
        assert inked.getextrema() == (0, 0)


def test_the_picture_moves():
    """A storyboard is not a still: frames of one shot differ."""
    film = Film(IDEA, "", 4, (180, 320), 7)
    assert film.frame(10).tobytes() != film.frame(20).tobytes()


@pytest.mark.parametrize(
    "text", ["áéíóúüñ ¿Qué? ¡Sí!", "ÁÉÍÓÚÜÑ", "ção, avô, três", "naïve façade – 3 € · “ok”…"]
)
def test_spanish_and_portuguese_letters_are_drawn(text, letters):
    """The bundled font has every letter of our three languages."""
    assert letters.drawable(text) == text


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("taco 🌮🫔 time", "taco time"),
        ("a\x00b\x07c\td\n e", "abc d e"),
        ("left\u202eright\u2066!", "leftright!"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("n\u0303 e\u0301", "ñ é"),
        ("市場の朝", ""),
        ("", ""),
    ],
)
def test_what_the_font_lacks_is_dropped(text, drawn, letters):
    """Emoji, control, bidi and surrogate characters are dropped; no replacement box is drawn."""
    assert letters.drawable(text) == drawn


@pytest.mark.parametrize("text", ["word " * 60, "x" * 240, "a bc " + "long" * 40, "short"])
def test_lines_fit_and_end_in_an_ellipsis(text, letters):
    """No line is wider than its card; a shortened text ends in an ellipsis."""
    font = letters.sized(4.6)
    lines = letters.wrap(text, font, 500, 3)
    assert len(lines) <= 3
    assert all(font.getlength(line) <= 500 for line in lines)
    assert lines[-1].endswith("…") or "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        (IDEA, ["Traditional Mexican mercado at dawn", "vendors setting up colourful stalls",
                "steam rising from tamales"]),
        ("¿Volverá mañana? Nadie sabe", ["¿Volverá mañana?", "Nadie sabe"]),
        ("A fox in a quiet forest at night watching fireflies",
         ["A fox in a quiet forest", "at night watching fireflies"]),
        ("a, b, c, d, e", ["a, b", "c", "d", "e"]),
        ("", []),
    ],
)  # fmt: skip
def test_an_idea_is_split_at_its_clauses(text, cards):
    """Caption cards follow the idea's clauses and lose none of its words."""
    assert clauses(text, 4) == cards


def test_a_huge_idea_is_drawn_in_time():
    """200 kB of one word cost no more than a short idea."""
    began = time.monotonic()
    Film("x" * 200_000, "y" * 5_000, 4, (180, 320), 1).frame(20)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("idea", "place", "hour"),
    [
        (IDEA, "market", "dawn"),
        ("Un barco al atardecer en el mar, ¿volverá mañana?", "sea", "dusk"),
        ("Neon city at night", "city", "night"),
        ("um farol na floresta de noite", "forest", "night"),
        ("a marvellous sunny village", "hills", "day"),
    ],
)
def test_words_choose_the_picture(idea, place, hour):
    """Place and hour come from the idea, in English, Spanish and Portuguese."""
    mood = mood_of(idea, 1)
    assert (mood.place, mood.hour) == (place, hour)


def test_a_missing_font_is_named(tmp_path):
    """The error of a missing or broken font names it and the remedy, without a path."""
    (tmp_path / "Broken.ttf").write_bytes(b"not a font")
    for name in ("Gone.ttf", "Broken.ttf"):
        with pytest.raises(FontMissing, match=rf"the font {name} is missing or cannot be read"):
            Film("idea", "", 4, (72, 128), 1, Lettering(0.72, tmp_path / name))


def test_the_renderer_imports_little():
    """A renderer loads PyAV and Pillow, not the agent SDK, aiogram, docket or SQL."""
    heavy = "{'agents', 'aiogram', 'docket', 'sqlalchemy', 'redis', 'openai', 'pydantic'}"
    code = f"import sys, sandbox.renderer.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
