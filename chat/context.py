"""ChatContext: what handlers and the notifier are given; edit limits, waits."""

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from aiogram import Bot

from chat.access import Access, AccessMode
from chat.conversations import Conversations
from chat.free_limit import FreeLimit
from chat.hearing import Hearing
from chat.replies import ReplyThrottle
from chat.star_shop import StarShop
from guardrails.admission import Admission
from guardrails.content.verdict import Judge, PictureJudge
from guardrails.limits import Limits
from guardrails.money import Money
from ledger import estimates, people
from ledger.database import Ledger
from ledger.models import VIDEO_TOOL, Language, Video
from providers.base import Provider
from tools.offer import Offer, PaidOffer
from worker.context import WorkerContext
from worker.outages import is_outage
from worker.queue import Queue

Forget = Callable[[int], Awaitable[object]]

_USUAL_KEPT_S: Final = 60.0
_CHOICE_KEPT_S: Final = 60.0
_MAX_CHOICES: Final = 10_000


@dataclass(frozen=True, slots=True)
class EditLimits:
    """How often one message is edited, and how long one notification may take, in seconds.

    Telegram bans bots that edit faster.

    Attributes:
        private_s: Least time between two edits for progress in a private chat.
        group_s: The same in a group.
        quiet_s: How long a request is worked on before its first message: a final word that comes sooner is
            then the only one.
        progress_s: Least time between two edits while a video is made. It grows to six times as much the
            longer that takes: a video of three minutes is edited after 20 and 80 seconds.
        ping_after_s: A video that took longer is announced by a message of its own.
        retry_s: Delay before a failed notification is tried again; doubled with each failure.
        lease_s: Another process may notify the user of the same request after this. A step ends earlier.
        upload_s: Time limit of one upload of a video.
    """

    private_s: float = 5
    group_s: float = 15
    quiet_s: float = 1.5
    progress_s: float = 20
    ping_after_s: float = 60
    retry_s: float = 20
    lease_s: float = 25
    upload_s: float = 120

    @property
    def upload_lease_s(self) -> float:
        """Another process may deliver the same video after this."""
        return self.upload_s + self.lease_s

    @property
    def step_s(self) -> float:
        """Time limit of a step that sends one message: it ends before its lease."""
        return self.lease_s * 0.9

    def between_edits(self, chat_id: int) -> float:
        """Return the least time between two edits in this chat; groups have negative ids."""
        return self.group_s if chat_id < 0 else self.private_s

    def between_progress(self, chat_id: int, filmed_s: float) -> float:
        """Return the least time until the next edit while a video is made: the longer it takes, the fewer."""
        pause_s = min(max(3 * filmed_s, self.progress_s), 6 * self.progress_s)
        return max(self.between_edits(chat_id), pause_s)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a silence may last, in seconds.

    Attributes:
        received_s: A request that no worker takes for so long is answered by the bot itself.
        silent_s: Operators hear of it when no worker, or no bot, was seen for so long.
    """

    received_s: float = 10
    silent_s: float = 60


@dataclass(frozen=True, slots=True)
class AlertLinks:
    """Addresses that people open from an alert; an empty one makes no link.

    Attributes:
        page: Of the admin page.
        jaeger: Of Jaeger.
    """

    page: str = ""
    jaeger: str = ""


class UsualTimes:
    """How long videos of a model usually take; read from the ledger once a minute."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, tuple[float, float | None]] = {}

    async def of(self, model: str) -> float | None:
        """Return the seconds; None while too few were made."""
        read_at, seconds = self._known.get(model, (-math.inf, None))
        if time.monotonic() - read_at > _USUAL_KEPT_S:
            seconds = await estimates.usual_seconds(self._ledger, model)
            self._known[model] = (time.monotonic(), seconds)
        return seconds


class ChosenLanguages:
    """Which language people have chosen in /settings; read from the ledger once a minute for each."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: OrderedDict[int, tuple[float, Language | None]] = OrderedDict()

    async def of(self, user_id: int) -> Language | None:
        """Return a person's choice; None if they have made none, or while the ledger is unavailable."""
        read_at, language = self._known.get(user_id, (-math.inf, None))
        if time.monotonic() - read_at <= _CHOICE_KEPT_S:
            return language
        try:
            language = (await people.find(self._ledger, user_id)).language
        except Exception as error:
            if not is_outage(error):
                raise
            return language
        self.set(user_id, language)
        return language

    def set(self, user_id: int, language: Language | None) -> None:
        """Know a choice at once in the process in which it was made."""
        self._known[user_id] = (time.monotonic(), language)
        self._known.move_to_end(user_id)
        if len(self._known) > _MAX_CHOICES:
            self._known.popitem(last=False)


@dataclass(frozen=True)
class ChatContext:
    """What every handler is given; built once per process.

    Attributes:
        conversations: What the chat remembers of a person for minutes.
        rules: The offline content rules, which are looked at before a model is asked.
        allowed: Users who may use the bot; empty means everyone.
        admins: Users who get operator alerts and may resolve holds.
        day_cost_thresholds: Costs of one UTC day at which admins are alerted; the highest asks to act.
        pictures: Whether pictures are used only if there is a `picture_judge`, also without one, or never.
        picture_judge: Judges pictures; None if no moderation key is configured.
        asks: Every video is offered for a tap, unless its person has lifted that.
        max_open: Requests of one user that may wait at once.
        access_mode: Whether invitations let people in.
        free_limit: Counts messages that cost nothing; None: they are not limited.
        access: Who may use the bot.
        usual_times: How long videos usually take.
        languages: Which language people have chosen.
        throttle: Notices that this process sent lately.
        forgets: What else /forget removes of a person, by their id: each is called once, and may be called
            again.
        stars: The credits on sale for Telegram Stars; None: nothing is.
        waits: How long a silence may last.
        links: What alerts link to.
        hearing: What this process hears of Telegram.
        others: What every paid tool but `generate_video` may order; `offer` and `limits` are of videos.
    """

    bot: Bot
    ledger: Ledger
    admission: Admission
    queue: Queue
    worker: WorkerContext
    offer: Offer
    limits: Limits
    conversations: Conversations
    rules: Judge
    edit_limits: EditLimits = field(default_factory=EditLimits)
    allowed: frozenset[int] = frozenset()
    admins: frozenset[int] = frozenset()
    day_cost_thresholds: tuple[Money, ...] = ()
    max_open: int = 3
    asks: bool = False
    pictures: Literal["judged", "unjudged", "off"] = "judged"
    picture_judge: PictureJudge | None = None
    throttle: ReplyThrottle = field(default_factory=ReplyThrottle)
    access_mode: AccessMode = "open"
    free_limit: FreeLimit | None = None
    access: Access = field(init=False)
    forgets: "tuple[Forget, ...]" = ()
    stars: StarShop | None = None
    waits: Waits = field(default_factory=Waits)
    links: AlertLinks = field(default_factory=AlertLinks)
    hearing: Hearing = field(default_factory=Hearing)
    others: Mapping[str, PaidOffer] = field(default_factory=dict)
    opened_at: float = field(default_factory=time.monotonic)
    usual_times: "UsualTimes" = field(init=False)
    languages: "ChosenLanguages" = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "usual_times", UsualTimes(self.ledger))
        object.__setattr__(self, "languages", ChosenLanguages(self.ledger))
        learn = self.languages.set
        access = Access(self.ledger, self.allowed, self.admins, self.access_mode, learn)
        object.__setattr__(self, "access", access)

    @property
    def up_s(self) -> float:
        """For how long this process has been up."""
        return time.monotonic() - self.opened_at

    @property
    def providers(self) -> Mapping[str, Provider]:
        return self.worker.providers

    def offer_of(self, video: Video) -> Offer | None:
        """Return what the tool of this order may order now; None: nothing."""
        if video.tool == VIDEO_TOOL:
            return self.offer
        return self.others[video.tool].offer if video.tool in self.others else None

    def limits_of(self, video: Video) -> Limits:
        """Return the limits of this order's tool."""
        return self.others[video.tool].limits if video.tool in self.others else self.limits

    def is_preview(self, provider: str) -> bool:
        """Return whether videos of this provider are labelled as previews."""
        return any(one.name == provider and one.capabilities.preview for one in self.providers.values())

    async def may_use(self, user_id: int) -> bool:
        """Return whether this user may use the bot: named by the settings or invited, and not banned."""
        return await self.access.of(user_id) == "allowed"
