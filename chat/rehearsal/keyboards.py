"""Buttons under a message, checked as Telegram checks them."""

from typing import Any

from chat.rehearsal.errors import bad_request
from chat.rehearsal.forms import Params

MAX_CALLBACK_BYTES = 64
OTHER_MARKUPS = ("keyboard", "remove_keyboard", "force_reply")
BUTTON_KINDS = (
    "url", "callback_data", "web_app", "login_url", "switch_inline_query", "switch_inline_query_current_chat",
    "switch_inline_query_chosen_chat", "copy_text", "callback_game", "pay",
)  # fmt: skip


def inline_keyboard(params: Params, *, editing: bool = False) -> dict[str, Any] | None:
    """The inline keyboard of a call, or None; other keyboards are accepted with a new message only.

    Raises:
        ApiError: 400, as `BUTTON_DATA_INVALID` for callback data that is not 1 to 64 bytes of UTF-8.
    """
    markup = params.json("reply_markup")
    if markup is None:
        return None
    if not isinstance(markup, dict):
        raise bad_request("object expected as reply markup")
    if "inline_keyboard" not in markup:
        if editing or not any(name in markup for name in OTHER_MARKUPS):
            raise bad_request("inline keyboard expected")
        return None
    rows = markup["inline_keyboard"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad_request('can\'t parse inline keyboard: Field "inline_keyboard" must be an Array of Arrays')
    checked = [[_button(button) for button in row] for row in rows if row]
    return {"inline_keyboard": checked} if checked else None


def _button(button: Any) -> dict[str, Any]:
    if not isinstance(button, dict):
        raise bad_request("can't parse inline keyboard button: InlineKeyboardButton must be an Object")
    if not isinstance(button.get("text"), str) or not button["text"].strip():
        raise bad_request('can\'t parse inline keyboard button: Field "text" must be of type String')
    if not any(kind in button for kind in BUTTON_KINDS):
        raise bad_request(
            "can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard"
        )
    data = button.get("callback_data")
    if data is not None and not 1 <= len(str(data).encode()) <= MAX_CALLBACK_BYTES:
        raise bad_request("BUTTON_DATA_INVALID")
    return button
