"""The `reply_markup` of a call: inline keyboards, and what changes a person's input field."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sandbox.telegram.base import ApiError, bad_request
from sandbox.telegram.html import units
from sandbox.telegram.params import Params

MAX_CALLBACK_BYTES = 64
MAX_COPIED = 256
MAX_IN_ROW = 12  # Telegram drops the others without a word
MAX_PLACEHOLDER = 64
INTERFACES = ("keyboard", "remove_keyboard", "force_reply")
BUTTON_KINDS = (
    "url", "callback_data", "callback_game", "pay", "switch_inline_query", "switch_inline_query_chosen_chat",
    "switch_inline_query_current_chat", "login_url", "web_app", "copy_text", "disabled",
)  # fmt: skip
OBJECTS = {"switch_inline_query_chosen_chat", "login_url", "web_app", "copy_text", "disabled"}
STYLES = {"", "default", "danger", "success", "primary"}
HOST = re.compile(r"[^\s./:@]+(?:\.[^\s./:@]+)+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?")


@dataclass(frozen=True)
class Markup:
    """What a call says about buttons.

    Attributes:
        inline: The inline keyboard, a part of the message.
        interface: A keyboard, its removal or a forced reply. People's apps obey it; no Message has it.
    """

    inline: dict[str, Any] | None = None
    interface: dict[str, Any] | None = None


def reply_markup(params: Params, *, editing: bool = False, invoice: bool = False) -> Markup:
    """Return the markup of a call; an edit takes an inline keyboard only.

    Raises:
        ApiError: 400, as `BUTTON_DATA_INVALID` for callback data that is not 1 to 64 bytes of UTF-8.
    """
    markup = params.json("reply_markup")
    return Markup() if markup is None else _read(markup, editing=editing, invoice=invoice)


def inline_keyboard(markup: Any) -> dict[str, Any] | None:
    """Return the inline keyboard of an inline result.

    Raises:
        ApiError: 400 as for `reply_markup`.
    """
    return None if markup is None else _read(markup, editing=True, invoice=False).inline


def _read(markup: Any, *, editing: bool, invoice: bool) -> Markup:
    if not isinstance(markup, dict):
        raise bad_request("object expected as reply markup")
    if "inline_keyboard" not in markup:
        if editing or not any(name in markup for name in INTERFACES):
            raise bad_request("inline keyboard expected")
        return Markup(interface=_interface(markup))
    rows = markup["inline_keyboard"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad_request('field "inline_keyboard" of the InlineKeyboardMarkup must be an Array of Arrays')
    checked = [[_button(button) for button in row][:MAX_IN_ROW] for row in rows if row]
    _check_pay(checked, invoice=invoice)
    return Markup(inline={"inline_keyboard": checked} if checked else None)


def _interface(markup: dict[str, Any]) -> dict[str, Any]:
    """Check a keyboard, its removal or a forced reply."""
    placeholder = markup.get("input_field_placeholder") or ""
    if not isinstance(placeholder, str):
        raise bad_request('field "input_field_placeholder" must be of type String')
    rows = markup.get("keyboard")
    if rows is not None and not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
        raise bad_request('field "keyboard" must be an Array of Arrays')
    if units(placeholder) > MAX_PLACEHOLDER:
        raise bad_request(f'field "input_field_placeholder" must have at most {MAX_PLACEHOLDER} characters')
    return markup


def _button(button: Any) -> dict[str, Any]:
    if not isinstance(button, dict):
        raise _unreadable("InlineKeyboardButton must be an Object")
    if not isinstance(button.get("text"), str):
        raise _unreadable('Field "text" must be of type String')
    if not button["text"].strip():
        raise bad_request("inline keyboard button text must be non-empty")
    kind = next((kind for kind in BUTTON_KINDS if kind in button), None)
    if kind is None:
        raise _unreadable("Text buttons are unallowed in the inline keyboard")
    if str(button.get("style", "")).lower() not in STYLES:
        raise _unreadable("Invalid button style specified")
    if kind in OBJECTS and not isinstance(button[kind], dict):
        raise _unreadable(f'Field "{kind}" must be of type Object')
    _check_kind(kind, button[kind])
    return button


def _check_kind(kind: str, value: Any) -> None:
    match kind:
        case "callback_data" if not 1 <= len(str(value).encode()) <= MAX_CALLBACK_BYTES:
            raise bad_request("BUTTON_DATA_INVALID")
        case "url":
            _check_url("inline keyboard button", str(value))
        case "copy_text" if not 1 <= units(str(value.get("text") or "")) <= MAX_COPIED:
            raise bad_request("BUTTON_COPY_TEXT_INVALID")
        case "switch_inline_query" | "switch_inline_query_current_chat" if not isinstance(value, str):
            raise _unreadable(f'Field "{kind}" must be of type String')


def _check_url(what: str, url: str) -> None:
    """Refuse what is no web or Telegram address, as Telegram does before anyone can tap it."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme == "tg":
        return
    if parts.scheme not in {"http", "https", "ton", "tonsite"}:
        raise bad_request(f"{what} URL '{url}' is invalid: Unsupported URL protocol")
    if not HOST.fullmatch(parts.netloc):
        raise bad_request(f"{what} URL '{url}' is invalid: Wrong HTTP URL")


def _check_pay(rows: list[list[dict[str, Any]]], *, invoice: bool) -> None:
    """A pay button is the first of an invoice's, which has no keyboard without one."""
    places = [(r, c) for r, row in enumerate(rows) for c, button in enumerate(row) if "pay" in button]
    if places and (not invoice or places != [(0, 0)]):
        raise bad_request("BUTTON_TYPE_INVALID")
    if invoice and rows and not places:
        raise bad_request("REPLY_MARKUP_BUY_EMPTY")


def _unreadable(reason: str) -> ApiError:
    return bad_request(f"can't parse inline keyboard button: {reason}")
