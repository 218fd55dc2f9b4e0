"""What an operator sees over HTTP: health, metrics, costs; and where Telegram's webhook is mounted.

It reads, and settles what an operator decides by the ledger's own moves; it never pays, never decides by
itself, and knows nothing of aiogram.
"""
