"""agent-once: the tool keyed by act and item, SQLite, a verifier, waiting for other processes."""

from once import NOT_HAPPENED, Once

from bench.peers.adapter import NOT_SENT, ONE_RECORD, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body, NotSentError

_LEASE_S = 2.0


class AgentOnce(SdkAdapter):
    """`Once.aexecute` with `verify`, `stale_after` and `wait`; an unsent call is `reset`."""

    packages = ("agent-once",)
    store = "SQLite"
    lease_s = _LEASE_S
    outside = {
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
        "slow": "“stale_after can run a call twice. … Set stale_after well above the slowest run”",
    }
    words = {"EffectPending": UNKNOWN, "EffectUnknown": UNKNOWN, "EffectFailed": UNKNOWN}

    async def open(self) -> None:
        """Open the file of the store."""
        self.once = Once(self.place.file("once.db"), wait=3.0, stale_after=_LEASE_S)

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Call the tool at most once for its key."""
        key = f"{run.act}:{item}"

        def verify(_key: str, _args: dict[str, object]) -> object:
            found = self.place.look_up(run.act, item)
            return NOT_HAPPENED if found is None else f"{item} was charged. Receipt {found}."

        async def charge(item: str) -> str:
            return await body.run(run.act, item)

        try:
            return str(
                await self.once.aexecute(charge, key=key, tool_name="charge", verify=verify, item=item)
            )
        except NotSentError:
            self.once.reset(key)
            return NOT_SENT
