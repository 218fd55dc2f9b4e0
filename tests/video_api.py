"""What the files of laws of the `/v1/videos` adapter share: one take and one adapter."""

from dataclasses import replace
from typing import Any

from peer import KEY

from providers.base import Take
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import OPENAI, Dialect
from providers.pricing import SORA_2, capabilities_of

TAKE = Take("tg:1:-:2:3", "5f0c7a52-5a0e-5b7e-9d1c-0d6f4b7f3a11", "sora-2", "a fox", 8, "720x1280", 77)
NOW = 1_795_000_000.0


def adapter(
    base_url: str, dialect: Dialect = OPENAI, *, timeout_s: float = 2.0, **options: Any
) -> OpenAICompat:
    times = replace(capabilities_of(dialect, SORA_2), submit_timeout_s=timeout_s)
    return OpenAICompat(base_url, KEY, dialect, SORA_2, capabilities=times, **options)
