"""What a file is, by its bytes: Telegram does not believe names either."""

import struct

JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
MP4_BRAND_AT = slice(4, 8)
SOUND_HANDLER = b"soun"


def is_mp4(data: bytes) -> bool:
    return data[MP4_BRAND_AT] == b"ftyp"


def has_sound(data: bytes) -> bool:
    """Whether an MP4 declares a sound track; Telegram shows one without as an animation."""
    return SOUND_HANDLER in data


def is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8\xff")


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG or PNG in pixels; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    return _jpeg_size(data) if is_jpeg(data) else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None
