"""Between the one-screen story in `bot.py` and the rooms: settings, building the parts, commands for people.

It owns no rule. What may be paid is decided in `guardrails` and `ledger`; what is shown, in `chat`.
"""

from app.lazy_aiogram import import_telegram_types

import_telegram_types()
