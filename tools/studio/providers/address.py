"""Where a server is, as a person set it; and the error that says what to set."""

from urllib.parse import urlsplit

CLOSED = (
    "OpenAI closed its own video endpoint on 2026-09-24; the protocol lives on in other servers: "
    "set a base URL (https://host/v1), a dialect (openai, vllm_omni, sglang, inworld) and a price list"
)


class NotConfigured(ValueError):
    """The adapter cannot work as it is set up; the text says what to set."""


def check_address(base_url: str, api_key: str) -> None:
    """Check what a person set before anything is sent there.

    Raises:
        NotConfigured: It is no address, one with a secret in it, or a key that no header can carry.
    """
    try:
        parts = urlsplit(base_url.strip())
        host, has_user = parts.hostname, "@" in parts.netloc
    except ValueError:
        raise NotConfigured("the base URL cannot be read; set one such as https://host/v1") from None
    if not base_url.strip() or host == "api.openai.com":
        raise NotConfigured(CLOSED)
    if parts.scheme not in ("http", "https") or not host or has_user or parts.query or parts.fragment:
        raise NotConfigured("the base URL must read https://host/v1, without user, password or query")
    if not (api_key.isascii() and api_key.isprintable()) or api_key != api_key.strip():
        raise NotConfigured("the API key holds a character that no header can carry")
