"""The libraries that are compared: their adapters, environments and dates."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Entry:
    """One column of the table.

    Attributes:
        name: As the table shows it.
        module: Of the adapter, in `bench.peers.adapters`; also of its requirements file.
        kind: The class in that module.
        released: Month of the release that requirements/ pins.
        has: What it has and our guard has not.
    """

    name: str
    module: str
    kind: str
    released: str
    has: str = ""

    @property
    def path(self) -> str:
        """The adapter, as the plugin's option names it."""
        return f"bench.peers.adapters.{self.module}:{self.kind}"


OURS: Final = Entry("onetake-guardrails", "ours", "Ours", "this commit")
BARE: Final = Entry("bare SDK", "bare", "Bare", "2026-10")
DENY: Final = Entry("a guard that refuses all", "bare", "Deny", "–")
PEERS: Final = (
    Entry(
        "agent-once",
        "agent_once",
        "AgentOnce",
        "2026-10",
        has="no dependency at all; ready verifiers for Stripe",
    ),
    Entry(
        "replyonce",
        "replyonce",
        "Replyonce",
        "2026-10",
        has="a fence around a whole conversation; Node workers share its state",
    ),
    Entry(
        "effect-ledger",
        "effect_ledger",
        "EffectLedger",
        "2026-09",
        has="no dependency at all; middleware for LangGraph, an MCP server",
    ),
    Entry(
        "exactly-once",
        "exactly_once",
        "ExactlyOnce",
        "2026-08",
        has="no dependency at all; an adapter for blockchains",
    ),
    Entry("safeact", "safeact", "Safeact", "2026-08", has="sagas with compensation"),
    Entry(
        "agent-ledger", "agent_ledger", "AgentLedger", "2026-02", has="approvals bound to the exact arguments"
    ),
    Entry("agent-outbox", "agent_outbox", "AgentOutbox", "2026-08", has="no dependency at all"),
    Entry(
        "idemkit",
        "idemkit",
        "Idemkit",
        "2026-08",
        has="MongoDB and DynamoDB; HTTP requests and queue messages",
    ),
    Entry("DBOS", "dbos", "Dbos", "2026-10", has="whole workflows that resume where they stopped"),
    Entry("AWS Powertools", "powertools", "Powertools", "2026-10", has="DynamoDB; kept by a large team"),
    Entry("latch-idempotent", "latch", "Latch", "2026-07", has="sagas, timeouts and fault injection"),
    Entry("LangChain ToolCallLimit", "langchain", "Langchain", "2026-11"),
    Entry("Pydantic AI limits", "pydantic_ai", "PydanticAi", "2026-11"),
)
ALL: Final = (OURS, *PEERS, BARE, DENY)
