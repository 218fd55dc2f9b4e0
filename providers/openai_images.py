"""Adapter of servers that speak OpenAI's `/v1/images/generations`.

The answer has the still in Base64, or a URL that is good for a while. The protocol documents no idempotency
key and no list: one POST, and an unknown outcome waits for a person.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from providers.accounts import account_of
from providers.base import (
    AccessRefused,
    Gone,
    InDoubt,
    NotConfigured,
    Rejected,
    RejectedFor,
    SeenDate,
    Throttled,
    Transient,
    check_address,
)
from providers.gateways import find_gateway, refusal
from providers.http import PROBE_S, HttpClient, Reply, dig
from providers.images import ImageAnswer, ImagePrices, ImageRequest, capabilities_of
from providers.openai_dialects import AUTH_CODES, FUNDS_CODES, POLICY_CODES
from providers.pictures import MAX_BYTES

_MAX_ANSWER_BYTES: Final = MAX_BYTES * 4 // 3 + 100_000
_DOWNLOAD_S: Final = 60.0
_SECONDS: Final = re.compile(r"\d{1,5}(\.\d{1,3})?")
_REFUSED: Final[Mapping[int, RejectedFor]] = {400: "invalid", 401: "auth", 403: "auth", 404: "invalid"}
"""Statuses by which a server of this protocol refuses before it makes anything."""


class OpenAIImages:
    """One server that speaks `/v1/images/generations` (an `ImageMaker`).

    Args:
        base_url: Base URL of the API, such as `https://host/v1`.
        api_key: The key; empty for an open server.
        prices: Its prices, from its operator or its page.

    Raises:
        NotConfigured: The address is missing or wrong, or no header can carry the key.
    """

    name = "openai_images"

    def __init__(self, base_url: str, api_key: str, prices: ImagePrices) -> None:
        check_address(base_url, api_key, closed="")  # OpenAI's own image endpoint is open
        self.account = account_of(self.name, base_url, api_key)
        self.prices, self.capabilities = prices, capabilities_of(prices)
        self._http = HttpClient(base_url, f"Bearer {api_key}" if api_key else "", (api_key,))

    @property
    def date(self) -> SeenDate | None:
        """The time that the server's latest answer named."""
        return self._http.date

    async def check(self) -> None:
        """Ask for the list of models, which is free; see `Provider.check`."""
        await self._http.probe("/models", {}, PROBE_S)
        self._refuse_gateway()

    async def make(self, image_request: ImageRequest) -> ImageAnswer:
        """Send one POST, never repeated, never redirected; see `ImageMaker.make`."""
        body = {
            "model": image_request.model, "prompt": image_request.prompt, "n": 1, "size": image_request.size,
        }  # fmt: skip
        headers = {
            "Content-Type": "application/json", "Accept": "application/json",
            # Documented by no server of this protocol; one that knows it does not charge twice.
            "Idempotency-Key": image_request.key, "X-Client-Request-Id": image_request.key,
        }  # fmt: skip
        try:
            self._refuse_gateway()
        except NotConfigured as error:
            raise Rejected(str(error), "invalid") from None
        reply = await self._http.post_once(
            "/images/generations", json.dumps(body).encode(), headers,
            self.capabilities.submit_timeout_s, _MAX_ANSWER_BYTES,
        )  # fmt: skip
        return self._accepted(reply)

    async def download(self, url: str) -> bytes:
        """See `ImageMaker.download`."""
        async with self._http.download(url, _DOWNLOAD_S) as response:
            if response.status_code in (404, 410):
                raise Gone(f"the still is not there any more ({response.status_code})")
            if response.status_code in (401, 403):
                raise AccessRefused(f"the still is refused ({response.status_code})")
            if response.status_code != 200:
                raise Transient(f"the still was answered {response.status_code}")
            whole = bytearray()
            async for chunk in response.aiter_bytes():
                whole += chunk
                if len(whole) > MAX_BYTES:
                    raise Gone(f"the still has more than {MAX_BYTES} bytes", final=True)
            return bytes(whole)

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()

    def _refuse_gateway(self) -> None:
        if self._http.gateway:
            raise NotConfigured(refusal(self._http.gateway))

    def _accepted(self, reply: Reply) -> ImageAnswer:
        data = reply.json() or {}
        if reply.status == 200:
            return self._still(data)
        code = str(dig(data, ("error", "code")) or dig(data, ("error", "type")) or "")
        words = self._http.scrub(f"{reply.status} {code} {dig(data, ('error', 'message')) or ''}")
        # An error of a gateway, or one that is not in the protocol's form, may be the answer to a later POST.
        if isinstance(data.get("error"), dict) and not find_gateway(reply.headers):
            self._refused(reply, code, words)
        raise InDoubt(f"POST /images/generations was answered {words}")

    def _refused(self, reply: Reply, code: str, words: str) -> None:
        if code in POLICY_CODES:
            raise Rejected(words, "policy")
        if code in FUNDS_CODES:
            raise Rejected(words, "funds")
        if code in AUTH_CODES:
            raise Rejected(words, "auth")
        pause = reply.headers.get("retry-after", "").strip()
        if reply.status == 429 and _SECONDS.fullmatch(pause):
            raise Throttled(words, float(pause))
        if (reason := _REFUSED.get(reply.status)) is not None:
            raise Rejected(words, reason)

    def _still(self, data: Mapping[str, Any]) -> ImageAnswer:
        """Return what a 200 has. One that has no still may have been charged all the same."""
        encoded, url = dig(data, ("data", 0, "b64_json")), dig(data, ("data", 0, "url"))
        if isinstance(encoded, str) and encoded:
            try:
                return ImageAnswer(base64.b64decode(encoded, validate=True))
            except (ValueError, binascii.Error):
                raise InDoubt("POST /images/generations was answered with what is no Base64") from None
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            return ImageAnswer(url=url)
        raise InDoubt("POST /images/generations was answered 200 without a still")
