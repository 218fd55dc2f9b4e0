"""Pictures for tests."""

import io
from typing import Any

from PIL import Image

GPS_IFD, ORIENTATION, CAMERA = 0x8825, 0x0112, 0x0110


def photo(width: int = 640, height: int = 480, kind: str = "JPEG", colour: str = "red", **more: Any) -> bytes:
    """Return a picture of one colour with a lighter middle, so that its parts can be told apart."""
    image = Image.new("RGB", (width, height), colour)
    image.paste("white", (width * 2 // 5, height * 2 // 5, width * 3 // 5, height * 3 // 5))
    written = io.BytesIO()
    image.save(written, kind, **more)
    return written.getvalue()


def gps_photo(width: int = 640, height: int = 480, kind: str = "JPEG") -> bytes:
    """Return a picture that says where and with what it was taken, and that it is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[CAMERA] = 6, "SecretCamera"
    exif[GPS_IFD] = {1: "N", 2: (38.0, 42.0, 30.0), 3: "W", 4: (9.0, 8.0, 20.0)}
    more = {"comment": "a comment"} if kind == "JPEG" else {}
    return photo(width, height, kind, exif=exif.tobytes(), **more)
