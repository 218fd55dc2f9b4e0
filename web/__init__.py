"""HTTP for operators: health, metrics, admin page and API; the webhook is mounted here too.

It reads the ledger and makes the transitions that an operator decides on (resolve a hold, close a breaker).
It never pays and does not import aiogram.
"""
