"""The version of this code. pyproject.toml, the image's tag, spans and metrics take it from here."""

from typing import Final

VERSION: Final = "0.2.0.dev0"
"""As PEP 440 writes it; also a valid tag of an image."""
