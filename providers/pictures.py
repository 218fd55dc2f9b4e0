"""Pictures that people send: checked, turned upright, without metadata, and cut to a video's shape.

What comes out is a JPEG that was written from pixels alone: no EXIF, and with it no place where it was taken,
no comment, no thumbnail and no colour profile is left. The file's name and what its sender says of its type
are never looked at.
"""

import hashlib
import io
from collections.abc import Mapping
from typing import Final, Literal, cast

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from providers.base import Picture

MAX_BYTES: Final = 20 * 1024 * 1024
"""Telegram's getFile gives bots no larger file."""

MIN_SIDE: Final = 256
MAX_RATIO: Final = 2.5
MAX_PIXELS: Final = 50_000_000
"""More would take some 200 MB of memory to unpack, whatever the size of the file."""

FORMATS: Final = ("JPEG", "PNG", "WEBP")
_MAX_SIDE: Final = 2048  # more than the largest video on offer anywhere
_QUALITY: Final = 92
_ORIENTATION: Final = 0x0112
_SWAPPED: Final = (5, 6, 7, 8)
_MAGIC: Final[Mapping[bytes, str]] = {
    b"GIF8": "GIF", b"%PDF": "PDF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"PK": "ZIP",
}  # fmt: skip
_BRANDS: Final[Mapping[bytes, str]] = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF"}

Fault = Literal["bytes", "type", "small", "pixels", "ratio", "unreadable"]


class PictureRefused(ValueError):
    """A picture that cannot be used.

    Args:
        fault: What is wrong with it.
        found: The values that were found, by the names of the text for its sender.
    """

    def __init__(self, fault: Fault, **found: object) -> None:
        super().__init__(f"{fault}: {found}")
        self.fault: Fault = fault
        self.found = found


def clean_picture(data: bytes) -> Picture:
    """Return a picture as it may be sent to a provider: upright, RGB, a JPEG without metadata. Blocking.

    The same bytes give the same picture. A picture with several frames gives its first.

    Raises:
        PictureRefused: It is no picture, or none that can be used.
    """
    check_bytes(len(data))
    upright = _decoded(data)
    upright.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    return _jpeg(upright)


def check_bytes(count: int) -> None:
    """Refuse a file that is too large, by its number of bytes."""
    if count > MAX_BYTES:
        raise PictureRefused("bytes", megabytes=-(-count // 1024**2), most=MAX_BYTES // 1024**2)


def check_sides(width: int, height: int) -> None:
    """Refuse a picture by its sides in pixels, as it is seen."""
    if width * height > MAX_PIXELS:
        raise PictureRefused("pixels", width=width, height=height, most=MAX_PIXELS // 1_000_000)
    if min(width, height) < MIN_SIDE:
        raise PictureRefused("small", width=width, height=height, least=MIN_SIDE)
    if max(width, height) > MAX_RATIO * min(width, height):
        raise PictureRefused("ratio", width=width, height=height)


def fit_picture(picture: Picture, size: str) -> bytes:
    """Return the JPEG of a picture, cut to a video's size `{width}x{height}` around its middle. Blocking.

    The same picture and size give the same bytes.
    """
    width, height = (int(side) for side in size.split("x"))
    with Image.open(io.BytesIO(picture.data), formats=("JPEG",)) as file:
        return _jpeg(ImageOps.fit(file.convert("RGB"), (width, height), Image.Resampling.LANCZOS)).data


def digest(data: bytes) -> str:
    """Return what identifies a picture's bytes in the ledger."""
    return hashlib.sha256(data).hexdigest()


def _jpeg(image: Image.Image) -> Picture:
    written = io.BytesIO()
    # From a new image: Pillow would take some of the old one's `info` into the file.
    bare = Image.frombytes("RGB", image.size, image.tobytes())
    bare.save(written, "JPEG", quality=_QUALITY)
    return Picture(written.getvalue(), digest(written.getvalue()))


def _decoded(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            return _upright(file)
    except PictureRefused:
        raise
    except UnidentifiedImageError:
        raise PictureRefused("type", kind=_kind(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureRefused("pixels", width=0, height=0, most=MAX_PIXELS // 1_000_000) from None
    except Exception as error:  # noqa: BLE001 - a broken file makes decoders raise whatever they like
        raise PictureRefused("unreadable", error=type(error).__name__) from None


def _upright(file: Image.Image) -> Image.Image:
    """Check the sides before a pixel is unpacked, then return the picture as it is seen."""
    turned = file.getexif().get(_ORIENTATION) in _SWAPPED
    check_sides(*(reversed(file.size) if turned else file.size))
    profile = file.info.get("icc_profile")
    file.draft("RGB", (_MAX_SIDE, _MAX_SIDE))  # a JPEG is unpacked at a fraction of its size
    seen = ImageOps.exif_transpose(file)
    return _flat(_in_srgb(seen, profile))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the picture in the colours of its profile, which is then no longer needed."""
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):  # a profile that is wrong is no reason to refuse
        return image
    return cast("Image.Image", made)


def _flat(image: Image.Image) -> Image.Image:
    """Return the picture in RGB, on white where it is transparent."""
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a channel, of which 8 are kept
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    under = Image.new("RGB", seen.size, "white")
    under.paste(seen, mask=seen.getchannel("A"))
    return under


def _kind(data: bytes) -> str:
    """Return the usual name of a file's type; empty if it is not known."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "MP4")
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")
