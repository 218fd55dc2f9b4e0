"""The bot's limits over the local Telegram follow the page's switch."""

import pytest

from app.pacing import LOCAL_EDIT_LIMITS, LOCAL_SEND_LIMITS, SwitchedEditLimits, SwitchedSendLimits
from chat.context import EditLimits
from chat.send_limits import SendLimits

PRIVATE, GROUP = 1001, -1001


@pytest.mark.parametrize("chat", [PRIVATE, GROUP])
def test_limits_follow_the_switch(chat):
    """Both kinds are production's until the switch says fast, and again when it is switched back."""
    fast = [False]
    edits, sends = SwitchedEditLimits(is_fast=lambda: fast[0]), SwitchedSendLimits(is_fast=lambda: fast[0])
    for switched, edit_limits, send_limits in (
        (False, EditLimits(), SendLimits()),
        (True, LOCAL_EDIT_LIMITS, LOCAL_SEND_LIMITS),
        (False, EditLimits(), SendLimits()),
    ):
        fast[0] = switched
        assert edits.between_edits(chat) == edit_limits.between_edits(chat)
        assert sends.rates(1, chat, "progress") == send_limits.rates(1, chat, "progress")
