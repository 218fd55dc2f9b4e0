"""Pictures: what is refused, what is left of their metadata, and the exact bytes that providers get."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image, ImageCms

from providers.openai_dialects import DIALECTS, OPENAI, SGLANG, VLLM_OMNI, encode
from providers.pictures import MAX_BYTES, PictureRefused, clean_picture, digest, fit_picture
from providers.pricing import SORA_2_PRICES, capabilities_of, json_body, model_input
from providers.replicate import REPLICATE_RECIPE, Replicate
from sandbox.video_api.openai import FakeProvider, read_form, sides_of
from sandbox.video_api.replicate import FakeReplicate
from sandbox.video_api.server import FAKE_KEY
from tests.support.pictures import gps_photo, photo
from tests.support.provider_cases import SORA_REQUEST, openai_adapter
from tests.support.services import ROOT


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_kind_becomes_a_jpeg_of_its_pixels(kind):
    """JPEG, PNG and WebP are taken by their content; the result is known by its hash."""
    made = clean_picture(photo(640, 480, kind))
    assert (opened(made.data).format, opened(made.data).size) == ("JPEG", (640, 480))
    assert made.sha256 == digest(made.data)
    assert made == clean_picture(photo(640, 480, kind)), "the same file gives the same bytes"
    red, green, blue = opened(made.data).getpixel((100, 100))
    assert red > 180
    assert max(green, blue) < 90


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_nothing_of_the_metadata_is_left(kind):
    """The place, the camera, the comment and the thumbnail are gone, and the picture is upright."""
    before = gps_photo(640, 480, kind)
    assert b"SecretCamera" in before
    assert opened(before).getexif().get_ifd(0x8825)
    made = clean_picture(before)
    seen = opened(made.data)
    assert seen.size == (480, 640), "turned as it is seen"
    assert not seen.getexif()
    assert set(seen.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    for secret in (b"SecretCamera", b"Exif", b"GPS", b"a comment", b"http"):
        assert secret not in made.data


@pytest.mark.parametrize(
    ("data", "fault", "found"),
    [
        (photo(255, 600), "small", {"width": 255, "height": 600, "least": 256}),
        (photo(2000, 700), "ratio", {"width": 2000, "height": 700}),
        (photo(300, 800), "ratio", {"width": 300, "height": 800}),
        (b"GIF89a" + bytes(40), "type", {"kind": "GIF"}),
        (bytes(4) + b"ftypheic" + bytes(40), "type", {"kind": "HEIC"}),
        (bytes(4) + b"ftypisom" + bytes(40), "type", {"kind": "MP4"}),
        (b"%PDF-1.7", "type", {"kind": "PDF"}),
        (b"<svg/>", "type", {"kind": ""}),
        (b"", "type", {"kind": ""}),
        (photo(640, 480)[:2000], "unreadable", None),
        (photo(640, 480, "PNG")[:900], "unreadable", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_with_its_values(data, fault, found):
    """Type, size and shape are those of the content; a broken file is a fault, never an exception."""
    with pytest.raises(PictureRefused) as caught:
        clean_picture(data)
    assert caught.value.fault == fault
    if found is not None:
        assert caught.value.found == found


@pytest.mark.parametrize(("width", "height"), [(256, 640), (640, 256), (256, 256)])
def test_the_least_sides_and_the_longest_shapes_are_taken(width, height):
    assert opened(clean_picture(photo(width, height)).data).size == (width, height)


def test_a_turned_photo_is_judged_as_it_is_seen():
    """A shape is refused by what people see, whatever the order of the pixels is."""
    with pytest.raises(PictureRefused) as caught:
        clean_picture(gps_photo(1000, 300, "JPEG"))
    assert caught.value.found == {"width": 300, "height": 1000}


def test_a_file_over_20_mb_and_a_bomb_are_not_unpacked():
    """30,000 x 30,000 white pixels are a small file, and 2.7 GB when unpacked."""
    with pytest.raises(PictureRefused) as caught:
        clean_picture(bytes(MAX_BYTES + 1))
    assert (caught.value.fault, caught.value.found) == ("bytes", {"megabytes": 21, "most": 20})
    for sides in ((9000, 9000), (30_000, 30_000)):
        bomb = io.BytesIO()
        Image.new("1", sides).save(bomb, "PNG")
        with pytest.raises(PictureRefused) as caught:
            clean_picture(bomb.getvalue())
        assert caught.value.fault == "pixels"


def test_large_transparent_gray_and_sixteen_bit_pictures_are_taken():
    """What is transparent is on white, 16 bits become 8, and the longest side has 2,048 pixels at most."""
    assert max(opened(clean_picture(photo(5000, 3000)).data).size) == 2048
    for mode, colour in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0)), ("I;16", 65_535), ("L", 255)):
        written = io.BytesIO()
        Image.new(mode, (300, 300), colour).save(written, "PNG")
        assert min(opened(clean_picture(written.getvalue()).data).getpixel((5, 5))) > 250, mode
    cmyk = io.BytesIO()
    Image.new("CMYK", (300, 300), (0, 0, 0, 0)).save(cmyk, "JPEG")
    assert min(opened(clean_picture(cmyk.getvalue()).data).getpixel((5, 5))) > 250


def test_a_colour_profile_is_applied_or_left_out():
    """A right profile is used up, a wrong one is no reason to refuse."""
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"nonsense"):
        made = clean_picture(photo(300, 300, "JPEG", icc_profile=profile))
        assert "icc_profile" not in opened(made.data).info


PICTURE = clean_picture(photo(640, 480))
WITH_PICTURE = replace(SORA_REQUEST, picture=PICTURE)


def test_a_picture_is_cut_to_the_video_size():
    """OpenAI wants a picture of exactly the video's size."""
    assert sides_of(fit_picture(PICTURE, "720x1280")) == "720x1280"
    assert fit_picture(PICTURE, "720x1280") == fit_picture(PICTURE, "720x1280")


@pytest.mark.parametrize("dialect", [OPENAI, VLLM_OMNI], ids=lambda one: one.name)
def test_the_form_holds_the_picture_as_a_file(dialect):
    """`input_reference` is a JPEG of the video's size; the other fields are those of an order without one."""
    body, kind = encode(WITH_PICTURE, dialect)
    fields = read_form(kind, body)
    sent = fields.pop("input_reference")
    assert sent == fit_picture(PICTURE, "720x1280")
    assert fields == read_form(*reversed(encode(SORA_REQUEST, dialect)))
    assert body.count(b'filename="picture.jpg"\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8') == 1


def test_another_process_sends_the_same_bytes():
    """A replay in another process has the same body, byte for byte; another picture has another."""
    code = (
        "import hashlib, sys; from providers.base import *; from providers.openai_dialects import *\n"
        "data = sys.stdin.buffer.read(); picture = Picture(data, 'x')\n"
        f"asked = VideoRequest(*{astuple(WITH_PICTURE)!r}, picture=picture)\n"
        "print(hashlib.sha256(repr(encode(asked, OPENAI)).encode()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=PICTURE.data, capture_output=True, check=True
    ).stdout.decode()
    assert there.strip() == digest(repr(encode(WITH_PICTURE, OPENAI)).encode())
    other = replace(SORA_REQUEST, picture=clean_picture(photo(600, 480, colour="blue")))
    assert encode(other, OPENAI) != encode(WITH_PICTURE, OPENAI)


def astuple(video_request):
    names = ("request_id", "key", "model", "prompt", "seconds", "size", "seed")
    return tuple(getattr(video_request, name) for name in names)


def test_no_picture_stands_in_a_log_line():
    assert "xff" not in repr(WITH_PICTURE)


def test_only_who_documents_it_takes_pictures():
    """Where a picture might be ignored and charged all the same, it is not offered."""
    found = {name for name, one in DIALECTS.items() if capabilities_of(one, SORA_2_PRICES).pictures}
    assert found == {"openai", "vllm_omni"}
    silent = {name: one.model_copy(update={"pictures": False}) for name, one in SORA_2_PRICES.models.items()}
    assert not capabilities_of(OPENAI, SORA_2_PRICES.model_copy(update={"models": silent})).pictures
    assert Replicate("r8_" + "x" * 30).capabilities.pictures
    body, _ = encode(WITH_PICTURE, SGLANG)
    assert body == encode(SORA_REQUEST, SGLANG)[0]


async def test_the_fake_server_takes_it_once(tmp_path):
    """The order with a picture is one POST that creates one job."""
    async with FakeProvider(tmp_path, shape="openai") as fake:
        adapter = openai_adapter(fake.base_url)
        job = await adapter.submit(WITH_PICTURE)
        assert fake.jobs[job.job_id].fields["input_reference"] == fit_picture(PICTURE, "720x1280")
        await adapter.close()


async def test_replicate_gets_a_data_url(tmp_path):
    """The same request has the same body, in which the picture is a data URL of less than a megabyte."""
    asked = replace(WITH_PICTURE, model="bytedance/seedance-1-lite")
    body = json_body({"input": model_input(asked, REPLICATE_RECIPE)})
    assert body == json_body({"input": model_input(asked, REPLICATE_RECIPE)})
    assert json.loads(body)["input"]["image"].startswith("data:image/jpeg;base64,/9j/")
    assert len(body) < 1_000_000
    async with FakeReplicate(tmp_path) as fake:
        adapter = Replicate(FAKE_KEY, base_url=fake.base_url)
        job = await adapter.submit(asked)
        assert fake.jobs[job.job_id].fields["image"] == json.loads(body)["input"]["image"]
        await adapter.close()
