"""What a Telegram user sees: handlers, texts, keyboards, telling and delivery. Only this room knows aiogram.

Handlers only persist and wake; nothing here decides what may be paid, and every word about money is read
from the ledger.
"""
