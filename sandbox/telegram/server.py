"""The local Telegram as one HTTP server on loopback: Bot API, files and chat page."""

import asyncio
import errno
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from sandbox.telegram.api import WORLD, serve_file, serve_method
from sandbox.telegram.base import Clock, SandboxError, add_security_headers, loopback_only, require_loopback
from sandbox.telegram.chats import Group
from sandbox.telegram.faults import CallLog, Fault
from sandbox.telegram.flood import FloodControl, FloodLimits, Pacing
from sandbox.telegram.page import add_page
from sandbox.telegram.params import MAX_FIELD
from sandbox.telegram.state import World, build_world
from sandbox.telegram.updates import Delivery, Webhook
from sandbox.telegram.user import Person

TOKEN = "1000000001:rehearsal-needs-no-secret-on-loopback"  # noqa: S105  # not a secret, as it says


class BotApiServer:
    """A local Telegram for one bot. Use it as `async with BotApiServer() as api:`.

    Args:
        token: The one token that is accepted, `<digits>:<anything>`; the digits are the bot's id.
        host: A loopback address; anything else is refused.
        port: 0 takes a free one.
        media_dir: Where uploads are stored; a temporary folder when neither this nor `state_dir` is given.
        state_dir: Stores chats, people, updates, webhook and files across restarts; None stores nothing.
        clock_scale: How many Telegram seconds pass in one second here (redelivery, lifetimes).
        min_time_limit: The least time in seconds that the bot gets to answer, whatever the scale.
        seed: For what is random in Telegram.
        flood_limits: More sends are refused with 429; None refuses none until `pace` switches it.

    Raises:
        SandboxError: The host is not loopback, the port is taken, or the folder is not writable.
    """

    def __init__(
        self,
        token: str = TOKEN,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        media_dir: Path | None = None,
        state_dir: Path | None = None,
        clock_scale: float = 1.0,
        min_time_limit: float = 10.0,
        seed: int = 0,
        bot_username: str = "onetake_sandbox_bot",
        bot_name: str = "OneTake",
        flood_limits: FloodLimits | None = None,
    ) -> None:
        require_loopback(host)
        if not token.partition(":")[0].isdigit():
            raise SandboxError("a bot token begins with the bot's id and a colon, as in 1000000001:secret")
        self.token = token
        self._host = host
        self._port = port
        self._own_media = tempfile.TemporaryDirectory() if not (media_dir or state_dir) else None
        media = media_dir or (
            state_dir / "files" if state_dir else Path(self._own_media.name if self._own_media else "")
        )
        clock = Clock(clock_scale, min_time_limit)
        flood = FloodControl(flood_limits, clock)
        self._world = build_world(token, bot_username, bot_name, clock, flood, media, state_dir, seed)
        self._runner: web.AppRunner | None = None

    async def start(self) -> Self:
        app = web.Application(middlewares=[loopback_only], client_max_size=MAX_FIELD)
        app[WORLD] = self._world
        app.on_response_prepare.append(add_security_headers)
        app.router.add_route("*", "/bot{token:[^/]+}/{method}", serve_method)
        app.router.add_get("/file/bot{token:[^/]+}/{path:.+}", serve_file)
        add_page(app)
        # Handler cancellation ends long polls and hanging calls when the caller disconnects.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            why = (
                "is taken: choose another" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            )
            raise SandboxError(f"port {self._port} on {self._host} {why}") from error
        kept = self._world.archive.load("setting").get("webhook")
        if kept:
            await self._world.webhook_sender.open(Webhook(**kept))
        return self

    async def stop(self) -> None:
        """End every poll and stream, then the server; stored state stays."""
        self._world.feed.close()
        self._world.updates.interrupt()
        self._world.faults.clear()
        await self._world.webhook_sender.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._world.archive.close()
        if self._own_media is not None:
            await asyncio.to_thread(self._own_media.cleanup)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """For `TelegramAPIServer.from_base`."""
        if self._runner is None:
            raise SandboxError("the sandbox is not running: use `async with BotApiServer() as api`")
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def chat_url(self) -> str:
        """The chat page, for a browser."""
        return f"{self.base_url}/chat"

    @property
    def calls(self) -> CallLog:
        """Every call that the bot made."""
        return self._world.calls

    @property
    def deliveries(self) -> list[Delivery]:
        """Every POST to the bot's webhook."""
        return list(self._world.webhook_sender.deliveries)

    @property
    def pending_updates(self) -> list[int]:
        """The ids of the updates that the bot has not confirmed."""
        return [update.id for update in self._world.updates.waiting()]

    def user(
        self, user_id: int, first_name: str = "", *, language_code: str = "en", username: str = ""
    ) -> Person:
        """The person with this id; made on first sight, the same one afterwards."""
        return Person(self._world, self._world.person(user_id, first_name, language_code, username))

    def group(self, chat_id: int, title: str = "Group") -> int:
        """A supergroup with the bot in it; `chat_id` is negative. Returns the id, for `Person.send`."""
        if chat_id >= 0:
            raise SandboxError(f"a group's id is negative, as in -1001234567890, not {chat_id}")
        self._world.chats.keep(Group(chat_id, title))
        return chat_id

    def change_bot(self, **features: bool) -> None:
        """Change what the bot's owner chose, as getMe says it: `supports_inline_queries=False` and so on.

        Raises:
            SandboxError: getMe has no such field.
        """
        known = self._world.features
        if unknown := set(features) - set(known):
            raise SandboxError(f"getMe has no {sorted(unknown)}; it has {sorted(known)}")
        known.update(features)

    def kick(self, chat_id: int) -> None:
        """Remove the bot from a group."""
        self.change_group(chat_id, kicked=True)

    def change_group(self, chat_id: int, **changes: Any) -> None:
        """Change what the bot may do in a group, by the fields of `Group`."""
        self._world.chats.keep(replace(self._world.chats.groups[chat_id], **changes))

    def topic(self, chat_id: int, thread: int, *, closed: bool = False) -> int:
        """Open or close a topic; the group is a forum from then on. Returns its id, for `Person.send`."""
        topics = self._world.chats.groups[chat_id].topics
        self.change_group(chat_id, topics={**topics, str(thread): closed})
        return thread

    @property
    def pacing(self) -> Pacing:
        """Whether Telegram's limits hold; the chat page has a switch for it."""
        return self._world.flood.pacing

    def pace(self, pacing: Pacing) -> None:
        """Switch Telegram's limits on (`production`) or off (`fast`)."""
        self._world.flood.pace(pacing)

    def fail(self, method: str, fault: Fault, times: int | None = 1) -> None:
        """Let the next `times` calls of `method` (`*` is any) fail; None means until `heal`."""
        self._world.faults.add(method, fault, times)

    def heal(self) -> None:
        """Drop all faults and release every hanging call."""
        self._world.faults.clear()

    async def redeliver(self, update_id: int, times: int = 1) -> list[Delivery]:
        """Deliver a past update again, whether or not it was confirmed.

        With a webhook: `times` POSTs at once; returns their results. With polling: copies in the next answer
        to getUpdates; returns an empty list.
        """
        update = self._world.updates.past(update_id)
        if self._world.webhook_sender.webhook is not None:
            return await self._world.webhook_sender.post_copies(update, times)
        self._world.updates.repeat(update, times)
        return []

    @property
    def world(self) -> World:
        """The state behind it, for tests that inspect it."""
        return self._world
