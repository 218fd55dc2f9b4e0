"""Tests of the preview renderer."""

import itertools
import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import av
import pytest
from PIL import Image, ImageChops, ImageStat, ImageText

from providers.base import BadAsset
from providers.video_file import probe
from sandbox.preview.jobs import JobFolder
from sandbox.renderer import scenes
from sandbox.renderer.drawing import FontMissing, Lettering
from sandbox.renderer.encoder import write_reel
from sandbox.renderer.film import FPS, Film
from sandbox.renderer.scenes import Scene
from tests.support.services import ROOT
from tools.styles import STYLES

IDEA = "Traditional Mexican mercado at dawn, vendors setting up colourful stalls, steam rising from tamales"
SIZE = (720, 1280)
SHAPES = [(72, 128), (128, 72), (102, 178), (178, 102)]
TABLE = tomllib.loads(Path(scenes.__file__).with_name("scenes.toml").read_text("utf-8"))


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


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("idea", [IDEA, "three cats and a boat on the sea", "x", "👻", "市場の朝"])
def test_every_idea_is_drawn_in_every_shape(idea, size):
    """No number of actors, not even none, and no shape of picture breaks a film."""
    film = Film(idea, idea, 4, size, 3)
    for number in (0, film.frames // 3 - 4, film.frames - 1):
        assert film.frame(number).size == size


@pytest.mark.parametrize("place", [*TABLE["places"], "nowhere"])
def test_every_place_is_drawn_at_every_hour_and_in_every_weather(place):
    """Each step of scenes.toml exists, and what drifts stays drawable for a whole film."""
    hours, weathers = [hour["name"] for hour in TABLE["hours"]], [*TABLE["specks"]]
    for (hour, weather), seed in zip(itertools.product(hours, weathers), itertools.count(), strict=False):
        scene = Scene(SHAPES[seed % 4], frozenset({place, hour, weather}), seed)
        picture = scene.behind(0.0)
        assert picture.size == SHAPES[seed % 4]
        for t in (0.0, 11.9):
            scene.before(picture, t)


def test_the_hour_is_seen():
    """A night is darker than a day; no word, no night."""
    bright = {
        hour: ImageStat.Stat(Scene((90, 160), frozenset({"field", hour}), 1).behind(0.0).convert("L")).mean[0]
        for hour in ("night", "day", "")
    }
    assert bright["night"] < 0.6 * bright["day"]
    assert bright[""] == bright["day"]


def test_the_same_request_is_the_same_film():
    """The seed decides; another seed is another film."""
    one, same, other = (Film(IDEA, IDEA, 4, (180, 320), seed).frame(40) for seed in (7, 7, 8))
    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()


def test_a_style_is_seen():
    """Each of the six treats the colours in a way of its own; grey is grey. Another word changes nothing."""
    plain, other = (Film(IDEA, IDEA, 4, (90, 160), 7, style=style).frame(40) for style in ("", "cubism"))
    assert plain.tobytes() == other.tobytes()
    found = {style: Film(IDEA, IDEA, 4, (90, 160), 7, style=style).frame(40) for style in STYLES}
    for one, another in itertools.combinations([plain, *found.values()], 2):
        assert sum(ImageStat.Stat(ImageChops.difference(one, another)).mean) > 6
    grey = found["black_and_white"].crop((0, 20, 90, 80)).split()  # between the label and the card
    assert ImageChops.difference(grey[0], grey[2]).getbbox() is None


def test_a_silent_reel_has_a_silent_track(tmp_path):
    """Without a track, Telegram would show it as an animation."""
    for sound in (True, False):
        path = tmp_path / f"{sound}.mp4"
        write_reel(Film("", "a cat", 1, (90, 160), 7), path, 7, lambda _: None, sound=sound)
        with av.open(str(path)) as container:
            heard = any(any(bytes(frame.planes[0])) for frame in container.decode(audio=0))
        assert heard == sound


def test_different_ideas_are_visibly_different_films():
    """Under one seed, the picture above the card differs from idea to idea, with and without a subject."""
    ideas = ["a cat", "a dog", "a horse on the beach", "one thought", "another thing", "a cat at night"]
    pictures = [Film(idea, idea, 4, (90, 160), 7).frame(40).crop((0, 20, 90, 110)) for idea in ideas]
    for one, other in itertools.combinations(pictures, 2):
        assert sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) > 12


def test_every_frame_says_preview():
    """The label is unchanged in every frame."""
    film = Film(IDEA, IDEA, 4, (360, 640), 7)
    label = film._letters.label()
    solid = label.getchannel("A").point([0] * 255 + [255])
    for number in (0, 10, film.frames - 1):
        seen = film.frame(number).crop((14, 16, 14 + label.width, 16 + label.height))
        inked = ImageChops.multiply(ImageChops.difference(seen, label.convert("RGB")).convert("L"), solid)
        assert inked.getextrema() == (0, 0)


@pytest.mark.parametrize("idea", ["an eagle", "a car", "a boat", "a pizza", "one thought"])
def test_the_picture_moves(idea):
    """A preview is not a still, whether its actor flies, rolls, swims or stays, or there is none."""
    film = Film(idea, idea, 4, (180, 320), 7)
    assert film.frame(50).tobytes() != film.frame(60).tobytes()


def test_the_thumbnail_shows_the_actors():
    """All actors are there within the first second: the thumbnail is taken from it."""
    film = Film("", "a car, a dog and an eagle", 4, (180, 320), 7)
    early, later = (film.frame(number).crop((0, 60, 180, 240)) for number in (FPS - 1, FPS + 6))
    assert sum(ImageStat.Stat(ImageChops.difference(early, later)).mean) < 25
    begin = film.frame(0).crop((0, 60, 180, 240))
    assert sum(ImageStat.Stat(ImageChops.difference(early, begin)).mean) > 25


def test_no_instruction_of_the_director_is_shown():
    """The card has the idea's words; the prompt changes nothing where the idea names a subject."""
    film = Film("A cat. Single shot, slow camera, seven drones.", "a cat", 4, (180, 320), 7)
    assert film.frame(50).tobytes() == Film("", "a cat", 4, (180, 320), 7).frame(50).tobytes()


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
        ("a 市場 , b . , c", "a, b. c"),
        ("tacos 🌮, pan 🍞.", "tacos, pan."),
        ("بيت", ""),
        ("Ёжик в тумане", "Ёжик в тумане"),
        ("? !", ""),
        ("", ""),
    ],
)
def test_what_cannot_be_set_is_dropped(text, drawn, letters):
    """Emoji, controls and scripts without a font are dropped: no replacement box, no lonely comma."""
    assert letters.drawable(text) == drawn


@pytest.mark.parametrize(
    "text", ["word " * 60, "x" * 240, "a bc " + "long" * 40, "short", "W" * 99, "Ёжик " * 40]
)
def test_a_card_fits(text, letters):
    """No card is wider or higher than its place, whatever is on it."""
    card = letters.card(text, 500, 4, (5.6, 4.3))
    assert card.width <= 500 + 10 * letters.unit
    assert card.height <= 4 * 1.5 * 5.6 * letters.unit + 10 * letters.unit


def test_a_long_idea_is_cut_at_a_word(letters, monkeypatch):
    """What is left out is said by an ellipsis, after a whole word."""
    shown = []
    drawn = ImageText.Text.get_bbox
    monkeypatch.setattr(
        ImageText.Text, "get_bbox", lambda self, **more: shown.append(self.text) or drawn(self, **more)
    )
    letters.card("harbour " * 40, 500, 4, (5.6, 4.3))
    assert shown[0].endswith("harbour…")
    assert set(shown[0].rstrip("…").split()) == {"harbour"}


def test_a_picture_is_animated(tmp_path):
    """The user's picture fills the film; the camera comes closer and moves aside; no scene and no actor."""
    path = tmp_path / "picture.png"
    Image.radial_gradient("L").resize((400, 300)).convert("RGB").save(path)
    film = Film("", "a cat", 4, (180, 320), 7, path)
    first, last = (film.frame(number).crop((0, 60, 180, 200)) for number in (0, film.frames - 1))
    assert sum(ImageStat.Stat(ImageChops.difference(first, last)).mean) > 3
    red, green, blue = film.frame(20).getpixel((20, 100))
    assert red == green == blue


@pytest.mark.parametrize("data", [b"", b"no picture", b"GIF89a" + b"\0" * 40])
def test_a_broken_picture_is_named(data, tmp_path):
    """What is no JPEG or PNG ends the job with words."""
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(BadAsset, match="the picture of the order cannot be read"):
        Film("", "a cat", 4, (180, 320), 7, path)


def test_a_job_names_its_picture(tmp_path):
    """The optional field `picture` names a file next to the job, never one elsewhere."""
    job, body = JobFolder(tmp_path / "job"), {"prompt": "x"}
    assert job.picture is None
    job.path.mkdir()
    for name, found in ((None, None), ("picture.jpg", "picture.jpg"), ("../../etc/passwd", "passwd")):
        (job.path / "order.json").write_text(json.dumps({"key": "k", "body": body | {"picture": name}}))
        assert job.picture == (found and job.path / found)


@pytest.mark.slow
def test_the_renderer_animates_the_picture_of_its_job(tmp_path):
    """From a job's folder with a picture to a published film of it."""
    job = JobFolder(tmp_path / "job")
    job.path.mkdir()
    Image.new("RGB", (300, 500), (10, 200, 30)).save(job.path / "picture.jpg")
    body = {
        "prompt": "x",
        "caption": "",
        "seconds": 4,
        "size": "720x1280",
        "seed": 1,
        "picture": "picture.jpg",
    }
    (job.path / "order.json").write_text(json.dumps({"key": "k", "body": body, "micros": 0, "at": 0}))
    command = [sys.executable, "-m", "sandbox.renderer", str(job.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as running:
        running.wait(120)
    assert job.verdict == "made", job.failure
    with Image.open(job.video.with_suffix(".jpg")) as thumbnail:
        red, green, blue = thumbnail.convert("RGB").getpixel((90, 100))
    assert green > 150
    assert max(red, blue) < 80


def test_a_huge_idea_is_drawn_in_time():
    """200 kB of one word cost no more than a short idea."""
    began = time.thread_time()
    Film("x" * 200_000, "y" * 5_000, 4, (180, 320), 1).frame(20)
    assert time.thread_time() - began < 5


def test_a_missing_font_is_named(tmp_path):
    """The error of a missing or broken font names it and the remedy, without a path."""
    words = r"^the font Nunito-ExtraBold.ttf is missing or cannot be read: install OneTake again$"
    with pytest.raises(FontMissing, match=words):
        Film("idea", "", 4, (72, 128), 1, letters=Lettering(0.72, tmp_path))
    (tmp_path / "Nunito-ExtraBold.ttf").write_bytes(b"not a font")
    with pytest.raises(FontMissing, match=words):
        Film("idea", "", 4, (72, 128), 1, letters=Lettering(0.72, tmp_path))


def test_the_renderer_imports_little():
    """A renderer loads PyAV and Pillow, not the agent SDK, aiogram, docket or SQL."""
    heavy = "{'agents', 'aiogram', 'docket', 'sqlalchemy', 'redis', 'openai', 'pydantic'}"
    code = f"import sys, sandbox.renderer.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
