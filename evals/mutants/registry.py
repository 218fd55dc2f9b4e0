"""Every mutant by name, and the block that applies one to this process. Add one here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from evals.case import CaseLayer
from evals.events import EvalError
from evals.mutants import chat, guards, ledger, library, model, worker

Apply = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One seeded bug, or a control.

    Attributes:
        name: The value of `--guard`.
        layer: Where the bug is.
        about: The bug in one line.
        apply: Applies it to this process inside the block.
        killed: Cases that must fail with it: `make mutants` plays only these, `make matrix` finds all. A
            control has none: it must still pay once in every case.
        widened: Quota, cooldown, breaker and budget are lifted, except in cases about them: else they would
            stop what the guard let through over the widened order key.
    """

    name: str
    layer: CaseLayer
    about: str
    apply: Apply
    killed: tuple[str, ...] = ()
    widened: bool = False

    @property
    def control(self) -> bool:
        return not self.killed


def _guard(name: str, about: str, apply: Apply, *killed: str) -> Mutant:
    return Mutant(name, "guard", about, apply, killed, widened=True)


_ALL: Final = (
    Mutant("guard_removed", "guard", "control: no guard over the shipped ledger", guards.guard_removed),
    Mutant("key_removed", "ledger", "control: the shipped guard over orders keyed by (request, call)",
           guards.key_removed),
    _guard("no_guard", "every call passes", guards.no_guard, "D01", "F01"),
    _guard("hash_of_raw_arguments", "once per text of the arguments", guards.hash_of_raw_arguments, "C05"),
    _guard("hash_of_canonical_arguments", "once per sorted arguments",
           guards.hash_of_canonical_arguments, "C06"),
    _guard("hash_of_folded_arguments", "once per NFKC, case-folded, sorted arguments",
           guards.hash_of_folded_arguments, "C02"),
    _guard("keyed_by_call_id", "once per call id", guards.keyed_by_call_id, "D01"),
    _guard("check_then_set", "checks, then reserves: two steps", guards.check_then_set, "D01"),
    _guard("in_process_set", "a set in one process's memory", guards.in_process_set, "B06"),
    _guard("release_on_error", "an error releases the claim", guards.release_on_error, "B06"),
    _guard("claim_before_validation", "a malformed call claims", guards.claim_before_validation,
           "D04b"),
    _guard("never_released", "a claim outlives its attempt", guards.never_released, "B06"),
    _guard("look_takes", "the check before the run reserves", guards.look_takes, "D06"),
    Mutant("content_refusal_forgotten", "guard", "a reworded call is judged afresh",
           guards.content_refusal_forgotten, ("H16",)),
    Mutant("malformed_unbounded", "guard", "malformed calls are corrected without end",
           guards.malformed_unbounded, ("H17",)),
    Mutant("no_order_key", "ledger", "every order is written as a new one", ledger.no_order_key,
           ("E09",), widened=True),
    Mutant("no_request_key", "ledger", "every delivery opens a request", ledger.no_request_key, ("I01",)),
    Mutant("refund_twice", "ledger", "a refund is booked twice", ledger.refund_twice, ("H15",)),
    Mutant("no_recount", "ledger", "an order trusts Redis and is not recounted", ledger.no_recount, ("J10",)),
    Mutant("offer_reserves", "ledger", "an offer counts before its tap", ledger.offer_reserves, ("L02",)),
    Mutant("tap_not_recounted", "ledger", "a tap trusts the check of its offer", ledger.tap_not_recounted,
           ("L03", "L03b")),
    Mutant("change_ignored", "ledger", "a tap orders at a price that has changed", ledger.change_ignored,
           ("L05b",)),
    Mutant("expiry_ignored", "ledger", "a tap that comes too late orders", ledger.expiry_ignored, ("L06",)),
    Mutant("older_offers_stay", "ledger", "a newer command leaves older offers open",
           ledger.older_offers_stay, ("L01", "L07")),
    Mutant("one_key_for_both", "ledger", "a still and a video of one request are one order",
           ledger.one_key_for_both, ("N01", "N02")),
    Mutant("retrying_client", "worker", "a paid POST is sent up to three times",
           worker.retrying_client, ("B05",)),
    Mutant("submitting_retaken", "worker", "an order in SUBMITTING is submitted again",
           worker.submitting_retaken, ("I04b",)),
    Mutant("server_error_is_failure", "worker", "a 5xx is proof of no charge",
           worker.server_error_is_failure, ("B05",)),
    Mutant("pays_unspoken", "worker", "an order does not wait for its status message",
           worker.pays_unspoken, ("I14",)),
    Mutant("any_account", "worker", "an order is sent to whichever account its worker has",
           worker.any_account, ("I18",)),
    Mutant("gateway_may_repeat", "worker", "an order lets a gateway send it again",
           worker.gateway_may_repeat, ("B18",)),
    Mutant("id_from_update", "chat", "a request is named by its update", chat.id_from_update,
           ("I01", "I09")),
    Mutant("an_edit_creates", "chat", "an edited command is a new one", chat.an_edit_creates, ("I07",)),
    Mutant("a_forward_creates", "chat", "a forwarded command is a new one", chat.a_forward_creates,
           ("G06b",)),
    Mutant("any_text_creates", "chat", "a text without a command is one", chat.any_text_creates, ("C13",)),
    Mutant("answers_as_they_came", "model", "answers reach the SDK in the endpoint's own shape",
           model.answers_as_they_came, ("A17", "D10")),
    Mutant("refusal_is_failure", "model", "a model's refusal is requested again",
           model.refusal_is_failure, ("B16", "B16b")),
    Mutant("never_repeated", "model", "a 429 of the endpoint ends the attempt",
           model.never_repeated, ("B15",)),
    Mutant("text_as_written", "model", "a model's text is shown as it was written",
           model.text_as_written, ("K05", "K06")),
    Mutant("repeated_after_the_order", "model", "model calls are repeated after the order",
           model.repeated_after_the_order, ("B17",)),
    Mutant("keeps_unspoken", "chat", "a chat that refuses messages cancels nothing", chat.keeps_unspoken,
           ("I13",)),
    Mutant("newer_update_dropped", "chat", "an update of a newer Bot API is dropped",
           chat.newer_update_dropped, ("I17",)),
    Mutant("topic_forgotten", "chat", "a forum's topic is not stored", chat.topic_forgotten, ("I15",)),
    Mutant("undelivered_alerts_nobody", "chat", "no operator hears of a paid video that cannot be sent",
           chat.undelivered_alerts_nobody, ("I16",)),
    Mutant("unguarded", "library", "a foreign agent's tool is not guarded", library.unguarded,
           ("M01", "M06")),
    Mutant("item_ignored", "library", "a second item of an act gets the first one's result",
           library.item_ignored, ("M02",)),
    Mutant("doubt_released", "library", "a raise is taken as proof that nothing happened",
           library.doubt_released, ("M04",)),
    Mutant("verify_ignored", "library", "the service is never asked about a doubt", library.verify_ignored,
           ("M04", "M04b")),
    Mutant("memory_only", "library", "claims do not outlive the process", library.memory_only, ("M05",)),
)  # fmt: skip
MUTANTS: Final[Mapping[str, Mutant]] = MappingProxyType({one.name: one for one in _ALL})


@contextmanager
def mutant(name: str | None) -> Iterator[None]:
    """Apply the mutant `name` to this process, inside the block; None leaves the shipped code.

    Raises:
        EvalError: The name is unknown.
    """
    if name is None:
        yield
        return
    if name not in MUTANTS:
        raise EvalError(f"{name!r} is not a mutant; known: {', '.join(MUTANTS)}")
    with MUTANTS[name].apply():
        yield
