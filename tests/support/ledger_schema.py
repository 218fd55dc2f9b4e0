"""The ledger's schema as the migrations build it, compared with the code's."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from ledger.schema import metadata
from tests.support.services import ROOT

NEWEST_REVISION = (max(path.name[:4] for path in (ROOT / "ledger/migrations/versions").glob("0*.py")),) * 2
"""As `ledger.database.revisions` returns it: of the database, and of the code."""


def schema_differences(conn: Connection) -> list[object]:
    """Return where the tables differ from `ledger.schema`, as Alembic compares them."""
    # Alembic takes SQLite's empty default for another one than the code's.
    opts = {"compare_type": True, "compare_server_default": conn.dialect.name != "sqlite"}
    return list(compare_metadata(MigrationContext.configure(conn, opts=opts), metadata))
