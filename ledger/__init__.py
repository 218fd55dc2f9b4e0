"""The system of record: requests, videos, ledger entries and transitions, in SQL.

Every change of state is a compare-and-set along an allowed edge, in one transaction with its money. This
package never talks to Redis, to a provider or to Telegram, and never deletes a row.
"""
