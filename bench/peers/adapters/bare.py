"""The agents SDK as it is: no guard, and the SDK's own words for an error."""

from agents import Tool, function_tool

from bench.peers.adapter import Run, SdkAdapter
from bench.peers.body import Body


class Bare(SdkAdapter):
    """A plain function tool."""

    packages = ("openai-agents",)

    def tool(self, run: Run, body: Body) -> Tool:
        """Return the tool without a guard."""

        @function_tool(name_override="charge")
        async def charge(item: str, note: str) -> str:
            return await body.run(run.act, item)

        return charge


class Deny(SdkAdapter):
    """A guard that lets nothing through: safe, useless, and red in every trial."""

    packages = ("openai-agents",)

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Refuse."""
        return "Refused; nothing was charged."
