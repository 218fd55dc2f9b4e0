"""AWS Lambda Powertools: `idempotent_function` with its cache persistence on Redis."""

import asyncio
import os

from bench.peers.adapter import ONE_RECORD, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body

os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "peers")
os.environ.setdefault("AWS_LAMBDA_FUNCTION_NAME", "peers")


class Powertools(SdkAdapter):
    """The tool is synchronous, as the library is; it runs in a thread. 30 days of memory."""

    packages = ("aws-lambda-powertools",)
    store = "Redis"
    wants = frozenset({"redis"})
    keeps_files = False
    outside = {
        "timeout": "an exception deletes the record, and the next call runs again",
        "restarted": "made for Lambda, whose deadline ends a record in progress",
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
    }
    words = {"IdempotencyAlreadyInProgressError": UNKNOWN, "IdempotencyPersistenceLayerError": UNKNOWN}

    async def open(self) -> None:
        """Open the store."""
        from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig
        from aws_lambda_powertools.utilities.idempotency.persistence.cache import CachePersistenceLayer
        from redis import Redis

        client = Redis.from_url(self.place.redis, decode_responses=True)
        self.layer = CachePersistenceLayer(client=client)
        self.config = IdempotencyConfig(expires_after_seconds=30 * 86_400, event_key_jmespath="[act, item]")

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the tool once for its key."""
        from aws_lambda_powertools.utilities.idempotency import idempotent_function

        @idempotent_function(data_keyword_argument="order", persistence_store=self.layer, config=self.config)
        def charge(*, order: dict[str, str]) -> dict[str, str]:
            return {"text": body.run_sync(order["act"], order["item"])}

        return str((await asyncio.to_thread(charge, order={"act": run.act, "item": item}))["text"])
