"""The Telegram front end: handlers, texts, keyboards, notifications and delivery.

Handlers write to the ledger and enqueue tasks; nothing here decides what may be paid, and every figure in a
message is read from the ledger. Apart from `app`, only this package imports aiogram.
"""
