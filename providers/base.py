"""The Provider protocol and its types: capabilities, requests, jobs, answers, errors."""

from collections.abc import Awaitable, Callable, Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from guardrails.money import Money


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one provider offers and documents, as read on `priced_on`.

    Attributes:
        models: Names that may be ordered; the first is the default.
        seconds: Lengths on offer.
        sizes: Sizes on offer, `{width}x{height}` in pixels.
        replay: The provider documents that the same key and bytes never charge twice.
        listing: Its jobs can be listed with enough detail to recognise ours.
        preview: Its videos are previews and must be labelled so wherever they are shown.
        sound: Its videos have sound; False where that is not documented.
        silenceable: Models that make videos with sound, and document a switch that turns it off.
        avoids: It documents a field for what must not be seen.
        pictures: Every model that it offers is documented to begin its video with a picture that is sent
            along; False where that is not documented, as it might be ignored and charged all the same.
        submit_timeout_s: Total time of the one POST; it ends before the SUBMITTING deadline.
        poll_s: Time between two `state` calls for one job.
        poll_per_s: `state` calls in a second for all jobs of one account. With more jobs in flight than that
            allows, each is asked less often.
        grace_s: Time from a POST with an unknown outcome to the first reconciliation check.
        settle_s: Time after which a job that is still not listed does not exist.
        absent_gap_s: Least time between the two lists that together prove that a job does not exist.
        replay_for_s: How long after its first POST a key is documented (or assumed) to be remembered.
        overdue_s: Time after which an accepted job is held for manual review.
        priced_on: The day on which prices and facts were read, ISO.
        notes: What an operator should know; `doctor` prints it.
    """

    models: tuple[str, ...]
    seconds: tuple[int, ...]
    sizes: tuple[str, ...]
    replay: bool
    listing: bool
    preview: bool
    sound: bool = False
    silenceable: tuple[str, ...] = ()
    avoids: bool = False
    pictures: bool = False
    submit_timeout_s: float = 60.0
    poll_s: float = 5.0
    poll_per_s: float = 20.0
    grace_s: float = 30.0
    settle_s: float = 600.0
    absent_gap_s: float = 120.0
    replay_for_s: float = 0.0
    overdue_s: float = 1800.0
    priced_on: str = ""
    notes: tuple[str, ...] = ()


MAX_JOB_ID = 512
"""Characters of a job id. A gateway's ids hold the provider's; the ledger's columns have room for as many."""


@dataclass(frozen=True, slots=True)
class SeenDate:
    """The time that a provider's answer named: `at` in seconds since the epoch, seen at `boot`, which is
    `telemetry.clocks.boot_clock`.
    """

    at: float
    boot: float


Billing = Literal["billed", "unbilled", "unknown"]
MatchedBy = Literal["key", "seed", "likeness"]
Phase = Literal["queued", "running", "succeeded", "unknown"]
EndedAs = Literal["failed", "moderated", "cancelled", "expired"]
RejectedFor = Literal["policy", "invalid", "auth", "funds"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A person's picture, a JPEG without metadata, with the SHA-256 of its bytes in hexadecimal digits."""

    data: bytes = field(repr=False)
    sha256: str


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """What is sent for one order. Every field comes from the request or its order, so a replay has the same
    bytes in every process.

    Attributes:
        request_id: The user's command; for our own logs, never sent.
        key: The idempotency key, `uuid5(NAMESPACE, request_id)`.
        model: The provider's own name of the model.
        prompt: The final text, already through the content policy.
        seconds: Length of the video, one of `Capabilities.seconds`.
        size: `{width}x{height}` in pixels, one of `Capabilities.sizes`.
        seed: A whole number below 2**31: the fingerprint by which a job list is searched.
        caption: Text for a caption card; only the local preview draws it.
        sound: False turns the sound off, where `Capabilities.silenceable` names the model.
        avoid: What must not be seen, where `Capabilities.avoids`; through the content policy too.
        style: The word of the style whose sentence ends the prompt; only the local preview uses it.
        picture: What the video begins with, where its person sent one.
    """

    request_id: str
    key: str
    model: str
    prompt: str
    seconds: int
    size: str
    seed: int
    caption: str = ""
    sound: bool = True
    avoid: str = ""
    style: str = ""
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class JobLinks:
    """Addresses that the provider's answer to the POST gave for one job. They hold no secret.

    Attributes:
        status: Where its state is asked for.
        result: Where its result is.
    """

    status: str
    result: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job that the provider accepted.

    Attributes:
        job_id: Its id, at most `MAX_JOB_ID` characters.
        billed: Its own price, if the answer names one.
        sends: How often the order was sent to providers, as far as a gateway in between admits it: each send
            may have been charged.
        links: Its addresses, where the provider asks that they are not built from the id.
    """

    job_id: str
    billed: Money | None = None
    sends: int = field(default=1, compare=False)
    links: JobLinks | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a job.

    Attributes:
        phase: A status that the adapter does not know is `unknown`: poll again later.
        progress: Whole per cent, 0 to 100; None if the provider does not report it.
        billed: The provider's price for the whole job; None if it does not report one.
    """

    phase: Phase
    progress: int | None = None
    billed: Money | None = None


@dataclass(frozen=True, slots=True)
class Asset:
    """A finished video on disk, probed: the file opened and has a picture and a length."""

    path: Path
    thumbnail: Path | None
    seconds: float
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """Reconciling found exactly one unclaimed job that is ours.

    Attributes:
        job: The job.
        by: How it was recognised. With `likeness` (prompt, size, length, time) it could also be the job of
            another order with the same prompt, which the caller has to rule out.
    """

    job: Job
    by: MatchedBy = field(default="key", compare=False)


@dataclass(frozen=True, slots=True)
class Absent:
    """The provider was asked in a way that would have shown the job, and the job does not exist."""


@dataclass(frozen=True, slots=True)
class Unsure:
    """The provider cannot be asked, did not answer, or lists several matches; `why` is for operators."""

    why: str


Reconciled = Found | Absent | Unsure
ClaimedCheck = Callable[[Collection[str]], Awaitable[AbstractSet[str]]]
"""Returns which of these job ids belong to another of our requests already."""


class ProviderError(Exception):
    """Base of all errors of adapters. The text is for operators; neither user nor model reads it."""


class NotSent(ProviderError):
    """Proof that no byte of the request reached the provider: the same order may be sent again."""


_UNSENT = "onetake_not_sent"


def mark_not_sent(error: BaseException) -> None:
    """Note on an error that is no answer (a cancellation) that no byte of the POST had been sent."""
    setattr(error, _UNSENT, True)


def was_not_sent(error: BaseException | None) -> bool:
    """Return whether `mark_not_sent` was told so. False proves nothing."""
    return bool(getattr(error, _UNSENT, False))


class Throttled(ProviderError):
    """A documented refusal that costs nothing. After `retry_after` seconds the same order may be sent."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Rejected(ProviderError):
    """A documented refusal of the first POST that costs nothing and will not change by asking again."""

    def __init__(self, message: str, reason: RejectedFor) -> None:
        super().__init__(message)
        self.reason: RejectedFor = reason


class InDoubt(ProviderError):
    """Unknown outcome: it may have been accepted and charged. Reconcile; never send again on this alone."""


class JobFailed(ProviderError):
    """The provider accepted the job, and it ended without a video.

    Args:
        message: For operators.
        billing: Whether it is billed.
        ended_as: The provider's name for the end.
        billed: The provider's price for it, if the answer names one.
    """

    def __init__(
        self, message: str, billing: Billing, ended_as: EndedAs = "failed", billed: Money | None = None
    ) -> None:
        super().__init__(message)
        self.billing: Billing = billing
        self.ended_as: EndedAs = ended_as
        self.billed = billed


class JobModerated(JobFailed):
    """The provider accepted the job, then its moderation withheld the result."""

    def __init__(self, message: str, billing: Billing, billed: Money | None = None) -> None:
        super().__init__(message, billing, "moderated", billed)


class Gone(ProviderError):
    """The provider says that it does not have the job or its output.

    Args:
        message: For operators.
        final: Asking again cannot change it. Else a store that lags behind its own writes may say so.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class AccessRefused(ProviderError):
    """A free question about a job, or its download, was refused (400, 401, 403): a key or a signature that is
    no longer valid. It may be mended, so it is asked again for some minutes.
    """


class Transient(ProviderError):
    """A free request was not answered; send it again later."""


class BadAsset(ProviderError):
    """The downloaded file is not a video that can be delivered. The text says what is wrong with it."""


class StorageFault(ProviderError):
    """Our own media folder refused the file; the text says why. It says nothing about the provider."""


class TooBig(BadAsset):
    """The video is larger than what is downloaded; another download would be as large."""


class Provider(Protocol):
    """One video provider, or the local preview. Adapters hold connections and no state of orders.

    Attributes:
        name: The adapter's name, as in VIDEO_PROVIDER, reports and metrics.
        account: Who is asked and who is paid, see `providers.accounts`. An order is sent to, and asked about
            at, the account that quoted it and no other.
        capabilities: What it offers.

    An adapter that speaks HTTP also has `date`: the `SeenDate` of its latest answer, or None.
    """

    name: str
    account: str
    capabilities: Capabilities

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        """Return the price of one video before it is ordered.

        `sound` is False for one whose sound is turned off, which not every model makes.

        Raises:
            ValueError: Something is not on offer; the message names it and what is.
        """
        ...

    async def check(self) -> None:
        """Ask one free question with the real key: whether orders can be placed here.

        Raises:
            NotConfigured: The key is refused, or a gateway in front may send an order twice.
            Transient: No answer came.
        """
        ...

    async def submit(self, video_request: VideoRequest) -> Job:
        """Send exactly one request and return the job that it created.

        Raises:
            NotSent, Throttled, Rejected, InDoubt: See each class.
        """
        ...

    async def state(self, job_id: str, links: JobLinks | None = None) -> Status:
        """Return the state of a job. Free; may be repeated.

        Args:
            job_id: As `Job` has it.
            links: As `Job` has them, where they are known.

        Raises:
            JobFailed, JobModerated, Gone, AccessRefused, Transient: See each class.
        """
        ...

    async def fetch(self, job_id: str, into: Path, links: JobLinks | None = None) -> Asset:
        """Download the finished video to `into`, an `.mp4` path. May be repeated.

        The file appears complete: it is written as a part file, synced, probed and renamed.

        Raises:
            Gone, AccessRefused, Transient, BadAsset, TooBig, StorageFault: See each class.
        """
        ...

    async def reconcile(
        self, video_request: VideoRequest, sent_at: float, claimed: ClaimedCheck, now: float | None = None
    ) -> Reconciled:
        """Resolve the unknown outcome of a POST, only by documented means; a replay may be one of them.

        Args:
            video_request: The same request that was sent.
            sent_at: When the POST began, seconds since the epoch on the store's clock (approximate).
            claimed: Asked for the ids that the provider shows. Its errors are raised.
            now: The time on the same clock; by default this machine's, for callers without a store.
        """
        ...

    async def lookup(
        self,
        video_request: VideoRequest,
        sent_at: float,
        claimed: ClaimedCheck,
        now: float | None = None,
        *,
        until: float | None = None,
    ) -> Reconciled:
        """Search for the job of a POST without sending one: nothing here can create a job.

        Args:
            video_request: The same request that was sent.
            sent_at, claimed, now: As for `reconcile`.
            until: The latest time at which the job can have been created; by default the end of that POST.
        """
        ...

    async def close(self) -> None:
        """Close connections and end child processes."""
        ...


OPENAI_CLOSED = (
    "OpenAI closed its own video endpoint on 2026-09-24; other servers still speak the protocol: "
    "set a base URL (https://host/v1), a dialect (openai, vllm_omni, sglang, inworld, litellm) and a price "
    "list"
)


class NotConfigured(ValueError):
    """The adapter's configuration is incomplete or wrong; the text says what to set."""


class KeyRefused(NotConfigured):
    """The provider does not accept the key."""


def check_address(base_url: str, api_key: str, *, closed: str = "api.openai.com") -> None:
    """Check a configured address and key before anything is sent there; `closed` is a host that is gone.

    Raises:
        NotConfigured: It is not an address, it contains a secret, or no header can carry the key.
    """
    try:
        parts = urlsplit(base_url.strip())
        host, has_user = parts.hostname, "@" in parts.netloc
    except ValueError:
        raise NotConfigured("the base URL cannot be read; set one such as https://host/v1") from None
    if not base_url.strip() or host == closed:
        raise NotConfigured(OPENAI_CLOSED)
    if parts.scheme not in ("http", "https") or not host or has_user or parts.query or parts.fragment:
        raise NotConfigured("the base URL must read https://host/v1, without user, password or query")
    if not (api_key.isascii() and api_key.isprintable()) or api_key != api_key.strip():
        raise NotConfigured("the API key holds a character that no header can carry")
