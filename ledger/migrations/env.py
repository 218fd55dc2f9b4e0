"""Alembic's entry: runs on the connection that `ledger.migrate` hands over.

Each migration runs in a transaction of its own, on SQLite too: its driver leaves BEGIN to us.
"""

from alembic import context

from ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
