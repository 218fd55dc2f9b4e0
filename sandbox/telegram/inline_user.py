"""What a person does with inline mode: type a query behind the bot's name, choose a result."""

import asyncio
from typing import Any

from sandbox.telegram.account import Account
from sandbox.telegram.base import SandboxError
from sandbox.telegram.bubbles import Bubble
from sandbox.telegram.inline import QUERY_LIFETIME

MAX_QUERY = 256
CHOSEN_LIFETIME = 600.0


class InlineUser(Account):
    async def inline_query(self, query: str = "", *, chat: int | None = None, offset: str = "") -> str:
        """Type `@bot query` in a chat; return the id of the inline query.

        An answer that Telegram still caches for this query comes without the bot.

        Raises:
            SandboxError: The bot has no inline mode, or the query is over 256 characters.
        """
        if not self._world.features["supports_inline_queries"] or len(query) > MAX_QUERY:
            raise SandboxError(
                "the bot has inline mode, and a query has up to 256 characters: one does not hold"
            )
        query_id = self._world.inline.open(self.id, query, offset)
        if query_id in self._world.inline.answers:
            return query_id
        where = "sender" if chat is None else self._world.chats.groups[chat].kind
        body = {
            "id": query_id,
            "from": self._user.user(),
            "chat_type": where,
            "query": query,
            "offset": offset,
        }
        lifetime = self._world.clock.time_limit(QUERY_LIFETIME)
        self.last_update = self._world.updates.push("inline_query", body, f"inline:{self.id}", lifetime)
        return query_id

    async def wait_for_results(self, query_id: str, timeout: float = 180) -> list[dict[str, Any]]:
        """Return the results that the app lists: id, type, title, description, poster, duration.

        Raises:
            SandboxError: The bot did not answer within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while (answer := self._world.inline.answers.get(query_id)) is None:
                    await self._world.feed.beyond(self._world.feed.last)
        except TimeoutError:
            raise SandboxError(f"inline query {query_id} was not answered within {timeout} s") from None
        return answer.shown

    async def choose(self, query_id: str, result_id: str, *, chat: int | None = None) -> Bubble:
        """Choose a result: its message is sent in the person's name, via the bot.

        Raises:
            SandboxError: The answer has no such result.
        """
        answer = self._world.inline.answers.get(query_id)
        if answer is None or result_id not in answer.contents:
            raise SandboxError(f"inline query {query_id} has no result {result_id!r}")
        content = answer.contents[result_id]
        sent = self._say(chat, {**content, "via_bot": self._world.bot})
        chosen = {
            "result_id": result_id,
            "from": self._user.user(),
            "query": self._world.inline.queries[query_id]["query"],
        }
        if "reply_markup" in content:
            chosen["inline_message_id"] = self._world.inline.put(sent.chat_id, sent.id)
        self._world.updates.push("chosen_inline_result", chosen, f"chosen:{self.id}", CHOSEN_LIFETIME)
        return sent
