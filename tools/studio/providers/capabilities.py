"""What one provider offers and documents, and how long its steps may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Dated facts about one provider, from its configuration.

    Attributes:
        models: Names that may be ordered; the first is the default.
        seconds: Lengths on offer.
        sizes: Sizes on offer, `{width}x{height}`.
        replay: The provider documents that the same key and bytes never charge twice.
        listing: Its jobs can be listed with enough detail to recognise ours.
        cancel: A running job can be stopped.
        preview: Its videos are previews and must be labelled so wherever they are shown.
        submit_timeout_s: Total time of the one POST; it ends before the SUBMITTING deadline.
        poll_s: Time between two `state` calls.
        grace_s: Time from a doubtful POST to the first question about it.
        settle_s: Time after which a job that is still not listed does not exist.
        absent_gap_s: Least time between the two lists that together prove it.
        replay_for_s: How long after its first POST a key is documented (or supposed) to be remembered.
        overdue_s: Time after which an accepted job needs a person.
        priced_on: The day on which prices and facts were read, ISO.
        notes: What an operator should know of it; `doctor` says it.
    """

    models: tuple[str, ...]
    seconds: tuple[int, ...]
    sizes: tuple[str, ...]
    replay: bool
    listing: bool
    cancel: bool
    preview: bool
    submit_timeout_s: float = 60.0
    poll_s: float = 5.0
    grace_s: float = 30.0
    settle_s: float = 600.0
    absent_gap_s: float = 120.0
    replay_for_s: float = 0.0
    overdue_s: float = 1800.0
    priced_on: str = ""
    notes: tuple[str, ...] = ()
