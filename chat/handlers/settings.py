"""/settings: in which language a person is answered, when they are asked, how their videos usually are."""

from collections.abc import Sequence

from aiogram import Bot, F, Router
from aiogram.filters import Command, CommandStart
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message

from chat.context import ChatContext
from chat.handlers.user import is_for_them_alone
from chat.i18n import LANGUAGES, Translator, translator
from chat.offer_text import shape_word
from chat.replies import answer, answer_tap, edit_text
from chat.updates import user_of
from guardrails.money import MICROS_PER_DOLLAR, Money
from ledger import people
from ledger.people import Person
from tools.styles import STYLES
from tools.wishes import shape_of

LANGUAGE = "set:language:"
ASK_BELOW = "set:ask:"
FORGET_USUAL = "set:usual:forget"


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="settings")
    router.message.register(settings, Command("settings", ignore_case=True))
    router.message.register(settings, CommandStart(deep_link=True, magic=F.args == "settings"))
    router.callback_query.register(set_language, F.data.startswith(LANGUAGE))
    router.callback_query.register(set_ask_below, F.data.startswith(ASK_BELOW))
    router.callback_query.register(forget_usual, F.data == FORGET_USUAL)
    return router


async def settings(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Show a person's settings, with a button for each choice."""
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif await is_for_them_alone(message, bot, t, "settings"):
        person = await people.find(ctx.ledger, user.id)
        await answer(message, _text(ctx, t, person), _buttons(ctx, t, person))


async def set_language(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Answer in this language from now on, whatever the person's Telegram says."""
    chosen = (query.data or "").removeprefix(LANGUAGE)
    language = next((one for one in LANGUAGES if one == chosen), None)
    person = await people.save(ctx.ledger, query.from_user.id, language=language)
    ctx.languages.set(query.from_user.id, language)
    t = translator(language or query.from_user.language_code or "en")
    await _show(query, ctx, t, person)


async def set_ask_below(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Order without a tap what costs less than this, or ask always again."""
    micros = (query.data or "").removeprefix(ASK_BELOW)
    limit = Money(int(micros)) if micros.isdecimal() and int(micros) else None
    if limit is not None and limit not in _limits(ctx):
        await answer_tap(query, t("tap_gone"))
        return
    person = await people.save(ctx.ledger, query.from_user.id, ask_below=limit)
    await _show(query, ctx, t, person)


async def forget_usual(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Take back what their offers usually are; the next one is as the idea says."""
    person = await people.save(
        ctx.ledger, query.from_user.id, default_seconds=None, default_size=None, sound=None, style=None
    )
    await _show(query, ctx, t, person)


async def _show(query: CallbackQuery, ctx: ChatContext, t: Translator, person: Person) -> None:
    await edit_text(query, _text(ctx, t, person), _buttons(ctx, t, person))
    await answer_tap(query, t("tap_saved"))


def _text(ctx: ChatContext, t: Translator, person: Person) -> str:
    language = t("settings_telegram") if person.language is None else t(f"language_{person.language}")
    lines = [t("settings_head"), t("settings_language", language=language)]
    if ctx.asks:
        lifted = person.ask_below
        lines.append(t("settings_always") if lifted is None else t("settings_below", limit=lifted))
    usual = _usual(t, person)
    lines.append(t("settings_usual", usual=usual) if usual else t("settings_no_usual"))
    return "\n".join(lines)


def _usual(t: Translator, person: Person) -> str:
    """Return what a person has chosen for their videos: `4 s · wide · without sound · anime`."""
    parts = []
    if person.default_seconds is not None:
        parts.append(t("offer_seconds", seconds=person.default_seconds))
    if person.default_size is not None:
        parts.append(shape_word(t, shape_of(person.default_size)))
    if person.sound is not None:
        parts.append(t("offer_sound" if person.sound else "offer_silent"))
    if person.style in STYLES:
        parts.append(t(f"style_{person.style}"))
    return " · ".join(parts)


def _limits(ctx: ChatContext) -> Sequence[Money]:
    """Return the limits on offer: just above the cheapest video, and above the dearest, in whole dollars."""
    prices = sorted(price for one in ctx.offer.prices().values() for price in one)
    dollars = {price.micros // MICROS_PER_DOLLAR + 1 for price in (prices[0], prices[-1])}
    return [Money(one * MICROS_PER_DOLLAR) for one in sorted(dollars)]


def _buttons(ctx: ChatContext, t: Translator, person: Person) -> InlineKeyboardMarkup:
    """Return the languages, below them the limits, and what takes back the usual choices."""
    languages = [(t(f"language_{one}"), f"{LANGUAGE}{one}", one == person.language) for one in LANGUAGES]
    languages.append((t("button_telegram"), f"{LANGUAGE}-", person.language is None))
    rows = [_row(languages[:2]), _row(languages[2:])]  # four in a row are cut on a phone
    forget = [(t("button_forget_usual"), FORGET_USUAL, False)] if _usual(t, person) else []
    usual = [_row(forget)] if forget else []
    if not ctx.asks:  # as the declaration says: there is nothing to lift
        return InlineKeyboardMarkup(inline_keyboard=[*rows, *usual])
    limits = [(t("button_ask_always"), f"{ASK_BELOW}0", person.ask_below is None)]
    limits += [
        (t("button_ask_below", limit=one), f"{ASK_BELOW}{one.micros}", one == person.ask_below)
        for one in _limits(ctx)
    ]
    return InlineKeyboardMarkup(inline_keyboard=[*rows, *([one] for one in _row(limits)), *usual])


def _row(choices: Sequence[tuple[str, str, bool]]) -> list[InlineKeyboardButton]:
    """Return a button for each choice; the one that is made has a mark."""
    return [
        InlineKeyboardButton(text=f"✓ {text}" if chosen else text, callback_data=data)
        for text, data, chosen in choices
    ]
