"""A server of `/v1/images/generations`: one POST for an order, and what its answers mean."""

import base64
import io
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from providers.base import (
    BadAsset,
    Gone,
    InDoubt,
    NotConfigured,
    NotSent,
    Rejected,
    Throttled,
    Unsure,
    VideoRequest,
)
from providers.images import ImagePrices, ImageProvider
from providers.openai_images import OpenAIImages

PRICES = ImagePrices(priced_on="2026-11-28", source="us", models={"gpt-image-1": {"1024x1024": "$0.04"}})
ORDER = VideoRequest("tg:1:-:7:5#generate_image", "key-1", "gpt-image-1", "a fox", 0, "1024x1024", 5)


def png(width: int = 640, height: int = 640) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(written, "PNG")
    return written.getvalue()


class Server:
    """Answers every POST with `answer`, and a GET with `file`."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict, dict]] = []
        self.answer: tuple[dict, int, dict] = ({}, 200, {})
        self.file = png()

    async def post(self, request: web.Request) -> web.StreamResponse:
        self.posts.append((await request.json(), dict(request.headers)))
        data, status, headers = self.answer
        return web.json_response(data, status=status, headers=headers)

    async def get(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self.file) if self.file else web.Response(status=404)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made, app = Server(), web.Application()
    app.router.add_post("/v1/images/generations", made.post)
    app.router.add_get("/file", made.get)
    async with TestServer(app) as running:
        made.url = str(running.make_url("/v1"))
        made.file_url = str(running.make_url("/file"))
        yield made


@pytest.fixture
async def provider(server, tmp_path):
    maker = OpenAIImages(server.url, "sk-secret-key-1", PRICES)
    yield ImageProvider(maker, tmp_path / "stills")
    await maker.close()


def body(**data):
    return {"created": 1, "data": [data]}, 200, {}


async def test_an_answer_in_base64_is_the_still(server, provider, tmp_path):
    """One POST with the order's key; what was made is stored, checked, and is a JPEG."""
    server.answer = body(b64_json=base64.b64encode(png()).decode())
    job = await provider.submit(ORDER)
    [(sent, headers)] = server.posts
    assert sent == {"model": "gpt-image-1", "prompt": "a fox", "n": 1, "size": "1024x1024"}
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("key-1", "Bearer sk-secret-key-1")
    assert (await provider.state(job.job_id)).phase == "succeeded"
    asset = await provider.fetch(job.job_id, tmp_path / "a.jpg")
    assert (asset.width, asset.height, asset.seconds) == (640, 640, 0.0)
    assert await provider.fetch(job.job_id, tmp_path / "a.jpg") == asset
    assert len(server.posts) == 1


async def test_an_answer_with_a_url_is_downloaded(server, provider, tmp_path):
    """The URL is fetched when the still is; a file that is gone is no still."""
    server.answer = body(url=server.file_url)
    job = await provider.submit(ORDER)
    assert (await provider.fetch(job.job_id, tmp_path / "a.jpg")).width == 640
    job = await provider.submit(ORDER)
    server.file = b""
    with pytest.raises(Gone):
        await provider.fetch(job.job_id, tmp_path / "b.jpg")


@pytest.mark.parametrize("made", [b"<html>", b"", png(40, 40)], ids=["no picture", "nothing", "tiny"])
async def test_what_is_no_picture_is_no_still(server, provider, tmp_path, made):
    server.answer = body(b64_json=base64.b64encode(made or b" ").decode())
    job = await provider.submit(ORDER)
    with pytest.raises(BadAsset):
        await provider.fetch(job.job_id, tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("status", "data", "headers", "error"),
    [
        (400, {"error": {"code": "moderation_blocked", "message": "no"}}, {}, Rejected),
        (401, {"error": {"code": "invalid_api_key"}}, {}, Rejected),
        (429, {"error": {"code": "rate_limit_exceeded"}}, {"retry-after": "3"}, Throttled),
        (429, {"error": {"code": "insufficient_quota"}}, {}, Rejected),
        (429, {"error": {"code": "rate_limit_exceeded"}}, {}, InDoubt),
        (400, {}, {}, InDoubt),
        (400, {"error": {"code": "x"}}, {"x-litellm-version": "1"}, InDoubt),
        (409, {"error": {"code": "x"}}, {}, InDoubt),
        (500, {"error": {"code": "server_error"}}, {}, InDoubt),
        (302, {}, {"location": "/v1/elsewhere"}, InDoubt),
        (200, {"data": []}, {}, InDoubt),
        (200, {"data": [{"b64_json": "%%%"}]}, {}, InDoubt),
    ],
)
async def test_an_error_is_proof_or_doubt(server, provider, status, data, headers, error):
    """Only a documented refusal proves that nothing was charged; nothing is sent a second time."""
    server.answer = data, status, headers
    with pytest.raises(error) as raised:
        await provider.submit(ORDER)
    assert "sk-secret" not in str(raised.value)
    assert len(server.posts) == 1


async def test_no_order_goes_through_a_gateway(server, provider):
    """Its marks are known from the first answer on."""
    server.answer = {"error": {"code": "x"}}, 500, {"x-litellm-version": "1"}
    with pytest.raises(InDoubt):
        await provider.submit(ORDER)
    with pytest.raises(Rejected, match="LiteLLM"):
        await provider.submit(ORDER)
    assert len(server.posts) == 1


async def test_a_doubt_is_not_sent_again(server, provider):
    """There is no key and no list: reconciling asks nothing and proves nothing."""

    async def claimed(_):
        return frozenset()

    assert isinstance(await provider.reconcile(ORDER, 0.0, claimed), Unsure)
    assert server.posts == []


async def test_an_answer_that_was_stored_and_not_booked_is_found(server, provider):
    """A worker that died between answer and ledger left the proof."""
    server.answer = body(b64_json=base64.b64encode(png()).decode())
    job = await provider.submit(ORDER)

    async def claimed(_):
        return frozenset()

    assert (await provider.lookup(ORDER, 0.0, claimed)).job == job


async def test_no_connection_is_proof(tmp_path):
    provider = ImageProvider(OpenAIImages("http://127.0.0.1:1/v1", "", PRICES), tmp_path)
    with pytest.raises(NotSent):
        await provider.submit(ORDER)
    await provider.close()


def test_prices_are_stated_and_exact():
    """A still has a price by model and size, and no length."""
    assert str(PRICES.quote("gpt-image-1", "1024x1024")) == "$0.04"
    with pytest.raises(ValueError, match="makes 1024x1024, not '64x64'"):
        PRICES.quote("gpt-image-1", "64x64")
    with pytest.raises(ValueError, match="not exact"):
        ImagePrices(priced_on="2026-11-28", source="us", models={"a": {"1024x1024": 0.04}})
    with pytest.raises(NotConfigured):
        OpenAIImages("ftp://host", "", PRICES)
