"""effect-ledger: SQLite, a trusted recovery policy that asks the provider."""

from effect_ledger import EffectExecutor, Operation, RecoveryDecision

from bench.peers.adapter import NOT_SENT, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body, NotSentError
from bench.peers.place import done


class EffectLedger(SdkAdapter):
    """`EffectExecutor.aexecute`; what is indeterminate is recovered before it is answered.

    `recover` asks its caller to confirm that the old worker has stopped. A handler that raised has; of one
    that is in flight the library says that nobody can know, so it is not recovered by a program.
    """

    packages = ("effect-ledger",)
    store = "SQLite"
    outside = {
        "emptied": "“Losing the database … breaks the guarantee”",
        "restored": "“restoring a stale backup … breaks the guarantee”",
        "restarted": "“Only a person who stopped the workers … can settle it”",
    }

    async def open(self) -> None:
        """Open the file of the store."""
        self.executor = EffectExecutor(self.place.file("effects.sqlite"), scope="u1", recovery=self._decide)
        self.unsent: set[str] = set()

    def _decide(self, record: Operation) -> RecoveryDecision | None:
        found = self.place.look_up(record.request["act"], record.request["item"])
        number = f"{record.operation_id}-{record.version}"
        if found is not None:
            result = done(record.request["item"], found)
            return RecoveryDecision(decision_id=number, action="complete", reason="charged", result=result)
        if record.operation_id in self.unsent:
            return RecoveryDecision(decision_id=number, action="retry", reason="nothing was sent")
        return None

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the effect inside the ledger."""
        key = f"{run.act}:{item}"

        async def handler(_operation: Operation) -> str:
            try:
                return await body.run(run.act, item)
            except NotSentError:
                self.unsent.add(key)
                raise

        record = await self.executor.aexecute(key, "charge:v1", {"act": run.act, "item": item}, handler)
        if record.state == "indeterminate":
            record = self.executor.recover(key, workers_stopped=True)
        if record.state == "completed":
            return str(record.result)
        if record.state == "ready":
            return NOT_SENT
        return UNKNOWN
