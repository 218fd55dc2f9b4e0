"""What the files of laws of the `/v1/videos` adapter share: one take and one adapter."""

from dataclasses import replace
from typing import Any

from providers.base import VideoRequest
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import OPENAI, Dialect
from providers.pricing import SORA_2_PRICES, capabilities_of
from sandbox.video_api.server import FAKE_KEY

TAKE = VideoRequest(
    "tg:1:-:2:3", "5f0c7a52-5a0e-5b7e-9d1c-0d6f4b7f3a11", "sora-2", "a fox", 8, "720x1280", 77
)
NOW = 1_795_000_000.0


def adapter(
    base_url: str, dialect: Dialect = OPENAI, *, timeout_s: float = 2.0, **options: Any
) -> OpenAICompat:
    times = replace(capabilities_of(dialect, SORA_2_PRICES), submit_timeout_s=timeout_s)
    return OpenAICompat(base_url, FAKE_KEY, dialect, SORA_2_PRICES, capabilities=times, **options)
