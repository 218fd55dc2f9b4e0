"""The schema's history. `ledger.migrate.upgrade` runs it at every start."""
