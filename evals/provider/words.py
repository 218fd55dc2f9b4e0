"""What the peer can be told to do, how it reads a form, and one job of it."""

from dataclasses import dataclass
from typing import Any, Final, Literal

KEY: Final = "peer-key-0123456789"
SIGNATURE: Final = "c0ffee-signed-and-secret"

Shape = Literal["openai", "vllm_omni", "sglang", "inworld"]
Outcome = Literal[
    "accept",
    "charge_drop",  # charged, then the connection is dropped
    "charge_hang",
    "charge_500",
    "charge_cut",  # charged, then half an answer
    "charge_html",
    "charge_202_no_id",
    "charge_text",  # charged, then 200 with `Desk.text`
    "charge_503",
    "drop",  # not charged
    "500",
    "503",
    "refuse_400",
    "refuse_policy",
    "refuse_401",
    "refuse_402",
    "throttle_429",
    "429",  # without Retry-After
]
Fate = Literal["video", "fail", "moderate"]
Content = Literal[
    "video", "cut", "cut once", "json", "running_json", "html", "empty", "404", "410", "503", "302", "huge",
]  # fmt: skip


def read_form(kind: str, body: bytes) -> dict[str, str]:
    """Take a form apart by the letter of RFC 7578: aiohttp's own reader wants a stream that nobody read."""
    line = b"--" + kind.partition("boundary=")[2].encode()
    first, *parts, last = (b"\r\n" + body).split(b"\r\n" + line)
    assert (first, last) == (b"", b"--\r\n"), "not a whole form"
    fields = {}
    for part in parts:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = head.decode().removeprefix('Content-Disposition: form-data; name="').removesuffix('"')
        assert name not in fields, f"{name} twice"
        fields[name] = value.decode()
    return fields


@dataclass
class PeerJob:
    """One job; `word` is a status that a test forces on it."""

    id: str
    fields: dict[str, Any]
    micros: int
    fate: Fate
    made_at: float
    word: str = ""
    polls: int = 0
    stopped: bool = False
