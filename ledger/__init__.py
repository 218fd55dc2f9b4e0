"""What is true about money: requests, videos, entries and transitions, in SQL.

Every change of state is a compare-and-set along a known edge, in one transaction with its money. This room
never talks to Redis, to a provider or to Telegram, and never deletes a row.
"""
