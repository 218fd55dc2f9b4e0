"""A look-up over HTTP says what became of a call; what is no proof cannot say."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from guardrails import CannotSay, DidNotHappen, Happened, http_lookup
from tests.support.guarded_agents import run_agent

KINDS = ["memory"]


class Api(BaseHTTPRequestHandler):
    """Answers as the server's `answer` says, and keeps what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.asked, server.answer = [], (404, {}, b"")
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def lookup(api: Any, **options: Any) -> Any:
    return http_lookup(
        f"http://127.0.0.1:{api.server_port}/refunds?key={{key}}",
        read=lambda found: Happened(found["text"]) if found else CannotSay("listed late"),
        headers={"Authorization": "Bearer t"}, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "headers", "body", "verdict"),
    [
        (200, {}, json.dumps({"text": "refunded"}).encode(), Happened("refunded")),
        (200, {}, b"{}", CannotSay("listed late")),
        (404, {}, b"", DidNotHappen()),
        (500, {}, b"", CannotSay("status 500")),
        (302, {"Location": "/elsewhere"}, b"", CannotSay("status 302")),
        (204, {}, b"", CannotSay("status 204, 0 bytes")),
    ],
)
async def test_what_an_answer_means(api, status, headers, body, verdict):
    """Only 200 and the codes that prove absence say something; no redirect is followed."""
    api.answer = status, headers, body
    assert await lookup(api)("a/b", None) == verdict
    assert api.asked == [("/refunds?key=a%2Fb", "Bearer t")]


async def test_a_404_that_proves_nothing(api):
    """Where the provider lists late, `absent` is empty."""
    assert await lookup(api, absent=())("k", None) == CannotSay("status 404")


@pytest.mark.parametrize("url", ["ftp://x/{key}", "https://x/refunds"])
def test_a_url_that_cannot_be_asked(url):
    with pytest.raises(ValueError, match=r"contains \{key\}"):
        http_lookup(url, read=lambda found: CannotSay())


async def test_it_ends_a_doubt(api, guard):
    """As verify= of a tool, over a real server."""
    api.answer = 200, {}, b'{"text": "refunded"}'

    @guard.tool(verify=lookup(api), settle=0)
    async def refund(ctx, item: str) -> str:
        raise TimeoutError

    assert await run_agent(guard, refund, "r1", [{"item": "A"}]) == ["refunded"]
