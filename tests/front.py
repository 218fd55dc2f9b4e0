"""What stands before several bots: one address for Telegram, each update to the next replica in turn."""

from collections import Counter
from typing import Self

from aiohttp import ClientError, ClientSession, ClientTimeout, web

HEADERS = ("Content-Type", "X-Telegram-Bot-Api-Secret-Token")


class Front:
    """A reverse proxy as operators have one: no answer of a replica is a 502, and Telegram comes again.

    Attributes:
        replicas: Base addresses of the bots.
        accepted: How many updates each replica said 200 to.
    """

    def __init__(self) -> None:
        self.replicas: list[str] = []
        self.accepted: Counter[str] = Counter()
        self._turn = 0

    async def __aenter__(self) -> Self:
        self._session = ClientSession(timeout=ClientTimeout(total=30))
        app = web.Application()
        app.router.add_post("/telegram", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/telegram"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        self._turn += 1
        replica = self.replicas[self._turn % len(self.replicas)]
        headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
        try:
            async with self._session.post(
                f"{replica}/telegram", data=await request.read(), headers=headers
            ) as answer:
                body = await answer.read()
        except (ClientError, TimeoutError, OSError):
            return web.Response(status=502)
        self.accepted[replica] += answer.status == 200
        return web.Response(status=answer.status, body=body, content_type="application/json")

    async def ready(self, replica: str) -> bool:
        """Ask a replica whether it may have traffic."""
        try:
            async with self._session.get(f"{replica}/readyz") as answer:
                return answer.status == 200
        except (ClientError, TimeoutError, OSError):
            return False
