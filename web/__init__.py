"""What an operator sees over HTTP: health, and the place where Telegram's webhook is mounted.

It reads; it never pays, never decides, and knows nothing of aiogram.
"""
