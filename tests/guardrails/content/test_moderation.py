"""The moderation judge against a real HTTP server, with the faults of real servers."""

import asyncio
import logging
import socket
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from pydantic import SecretStr

from guardrails.content.moderation import Moderation
from guardrails.content.policy import ContentPolicy
from guardrails.content.verdict import ContentVerdict
from tests.support.waiting import Stopwatch

KEY = "sk-moderation-key-0123456789"
IDEA = "un gato secreto que baila"
CLEAN = {
    "harassment": False,
    "sexual": False,
    "sexual/minors": False,
    "illicit": None,
    "violence/graphic": False,
}


def answer(flagged: bool = False, **more: bool) -> dict[str, object]:
    named = {name.replace("__", "/").replace("_", "-"): yes for name, yes in more.items()}
    result = {"flagged": flagged, "categories": {**CLEAN, **named}, "category_scores": {}}
    return {"id": "modr-1", "model": "omni-moderation-latest", "results": [result]}


@dataclass
class Server:
    """A moderation endpoint with a scripted answer; records what it was sent."""

    status: int = 200
    body: object = field(default_factory=answer)
    fault: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""

    async def moderate(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(await request.json())
        self.keys.append(request.headers["Authorization"])
        if self.fault == "hang":
            await asyncio.sleep(30)
        if self.fault in {"reset", "cut"}:
            response = web.StreamResponse(headers={"Content-Length": "400"})
            if self.fault == "cut":
                await response.prepare(request)
                await response.write(b'{"results": [')
            request.transport.abort()
            return response
        if self.fault == "drip":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)
        if isinstance(self.body, str):
            return web.Response(status=self.status, text=self.body, content_type="text/html")
        return web.json_response(
            self.body, status=self.status, headers={"Location": f"{self.url}/moderations"}
        )


@pytest.fixture
async def server():
    served = Server()
    app = web.Application()
    app.router.add_post("/v1/moderations", served.moderate)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    served.url = f"http://{host}:{port}/v1"
    yield served
    await runner.cleanup()


@pytest.fixture
async def moderation(server):
    judge = Moderation(SecretStr(KEY), server.url, deadline=2)
    yield judge
    await judge.aclose()


async def test_a_clean_text_is_allowed(server, moderation):
    """A clear "not flagged" is allowed; model, text and key are sent as configured."""
    assert await moderation.judge(IDEA) == ContentVerdict("allowed")
    assert server.seen == [{"model": "omni-moderation-latest", "input": IDEA}]
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("theirs", "category", "rule"),
    [
        ({"sexual": True}, "sexual", "moderation:sexual"),
        ({"sexual": True, "sexual__minors": True}, "minor", "moderation:sexual/minors"),
        ({"violence": True}, "violence", "moderation:violence"),
        ({"violence__graphic": True}, "violence", "moderation:violence/graphic"),
        ({"self_harm__intent": True}, "self_harm", "moderation:self-harm/intent"),
        ({"hate__threatening": True}, "hate", "moderation:hate/threatening"),
        ({"harassment": True}, "hate", "moderation:harassment"),
        ({"illicit__violent": True}, "illicit", "moderation:illicit/violent"),
        ({"sexual__new": True}, "sexual", "moderation:sexual"),
        ({"novelty": True}, "other", "moderation:other"),
        ({}, "other", "moderation:other"),
    ],
)
async def test_a_flagged_text_is_refused_with_our_own_category(server, moderation, theirs, category, rule):
    """Their categories become ours; of several the gravest is returned; unknown names are never passed on."""
    server.body = answer(flagged=True, **theirs)
    assert await moderation.judge(IDEA) == ContentVerdict("refused", category, rule)


async def test_a_category_counts_even_without_the_flag(server, moderation):
    """Where flag and categories disagree, the stricter one counts."""
    server.body = answer(flagged=False, sexual=True)
    assert (await moderation.judge(IDEA)).category == "sexual"


FAULTS = {
    "500": ({"status": 500, "body": {"error": {"message": IDEA}}}, "http_500"),
    "503": ({"status": 503, "body": "busy"}, "http_503"),
    "429": ({"status": 429, "body": {"error": {"message": KEY}}}, "http_429"),
    "401": ({"status": 401, "body": {"error": {"message": f"Incorrect API key {KEY}"}}}, "http_401"),
    "409": ({"status": 409, "body": {}}, "http_409"),
    "redirect": ({"status": 307, "body": {}}, "http_307"),
    "reset": ({"fault": "reset"}, "unreachable"),
    "cut": ({"fault": "cut"}, None),
    "html": ({"body": f"<html>{IDEA}</html>"}, "unparsable"),
    "not json": ({"body": "{"}, "unparsable"),
    "empty": ({"body": ""}, "unparsable"),
    "null": ({"body": None}, "unparsable"),
    "a list": ({"body": [1]}, "unparsable"),
    "no results": ({"body": {"results": []}}, "unparsable"),
    "no flag": ({"body": {"results": [{"categories": CLEAN}]}}, "unparsable"),
    "no categories": ({"body": {"results": [{"flagged": False}]}}, "unparsable"),
    "a flag that is a word": ({"body": {"results": [{"flagged": "no", "categories": {}}]}}, "unparsable"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_closes_with_one_request_and_leaks_no_secret(server, moderation, caplog, capfd, fault):
    """Any unclear answer is `closed`: nothing raised, one request, neither key nor text in any log."""
    caplog.set_level(logging.DEBUG)
    changes, cause = FAULTS[fault]
    for name, value in changes.items():
        setattr(server, name, value)
    verdict = await moderation.judge(IDEA)
    assert (verdict.word, verdict.category) == ("closed", None)
    assert verdict.rule == f"moderation:{cause}" or cause is None
    assert len(server.seen) == 1
    said = caplog.text + "".join(capfd.readouterr()) + repr(verdict) + repr(vars(moderation))
    assert "moderation closed" in said
    assert KEY not in said
    assert IDEA not in said


@pytest.mark.parametrize("fault", ["hang", "drip"])
async def test_the_deadline_covers_everything(server, fault):
    """A server that hangs, or sends single bytes without end, is `closed` at the deadline."""
    server.fault = fault
    judge = Moderation(SecretStr(KEY), server.url, deadline=0.3)
    async with Stopwatch() as stopwatch:
        assert await judge.judge(IDEA) == ContentVerdict("closed", rule="moderation:timeout")
    assert stopwatch.seconds < 1.5
    assert len(server.seen) == 1
    await judge.aclose()


async def test_an_unreachable_server_is_closed():
    """A refused connection is `closed`, and a server that never accepts is `closed` at the deadline."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        port = full.getsockname()[1]
        judge = Moderation(SecretStr(KEY), f"http://127.0.0.1:{port}/v1", deadline=0.3)
        assert await judge.judge(IDEA) == ContentVerdict("closed", rule="moderation:unreachable")
        full.listen(0)  # connections wait in a queue that is never emptied
        assert await judge.judge(IDEA) == ContentVerdict("closed", rule="moderation:timeout")
        await judge.aclose()


async def test_a_cancelled_judgement_is_cancelled(server, moderation):
    """A cancellation is not a fault: it is raised, so that a cancelled run ends."""
    server.fault = "hang"
    task = asyncio.create_task(moderation.judge(IDEA))
    while not server.seen:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_lone_surrogate_is_judged_too(server, moderation):
    """What JSON cannot encode is replaced; the rest is still judged."""
    assert (await moderation.judge("gato \ud800 azul")).word == "allowed"
    assert server.seen[0]["input"] == "gato ? azul"


async def test_the_rules_come_first_and_moderation_judges_the_rest(server, moderation):
    """A refusal by the rules sends nothing; what they allow is sent to moderation once."""
    policy = ContentPolicy(moderation=moderation)
    assert (await policy.judge("Pikachu")).category == "copyrighted_character"
    assert server.seen == []
    server.body = answer(flagged=True, violence=True)
    assert (await policy.judge(IDEA)).category == "violence"
    server.fault = "reset"
    assert (await policy.judge(IDEA)).word == "closed"
    assert len(server.seen) == 2


async def test_the_key_is_sent_only_to_the_configured_url(monkeypatch):
    """`OPENAI_BASE_URL` may be another company's endpoint: the moderation key is not sent there."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/elsewhere")
    judge = Moderation(SecretStr(KEY))
    assert str(judge._client.base_url) == "https://api.openai.com/v1/"
    await judge.aclose()


async def test_a_picture_is_one_request_with_a_data_url(server):
    """A picture is sent as a data URL, alone, once; its verdict is that of a text."""
    judge = Moderation(SecretStr(KEY), server.url)
    assert await judge.judge_picture(b"\xff\xd8jpeg") == ContentVerdict("allowed")
    [seen] = server.seen
    assert seen["input"] == [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9hqcGVn"}}]
    server.body = answer(True, sexual=True)
    assert await judge.judge_picture(b"x") == ContentVerdict("refused", "sexual", "moderation:sexual")
    await judge.aclose()


@pytest.mark.parametrize("fault", ["hang", "reset", "cut", "drip"])
async def test_a_picture_without_a_clear_answer_is_refused(server, fault):
    """It fails closed as a text does, within its own time."""
    server.fault = fault
    judge = Moderation(SecretStr(KEY), server.url, picture_deadline=0.5)
    assert (await judge.judge_picture(b"x")).word == "closed"
    assert len(server.seen) == 1
    await judge.aclose()
