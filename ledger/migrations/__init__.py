"""The schema's history. `ledger.database.upgrade` runs it at every start."""
