"""The ledger's schema as the migrations build it, compared with the code's."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, String

from ledger.schema import metadata
from tests.support.services import ROOT

NEWEST_REVISION = (max(path.name[:4] for path in (ROOT / "ledger/migrations/versions").glob("0*.py")),) * 2
"""As `ledger.database.revisions` returns it: of the database, and of the code."""


def schema_differences(conn: Connection) -> list[object]:
    """Return where the tables differ from `ledger.schema`, as Alembic compares them."""
    # Alembic takes SQLite's empty default for another one than the code's.
    # And SQLite keeps no lengths, so no migration changes one there.
    on_sqlite = conn.dialect.name == "sqlite"
    opts = {"compare_type": _other_type if on_sqlite else True, "compare_server_default": not on_sqlite}
    return list(compare_metadata(MigrationContext.configure(conn, opts=opts), metadata))


def _other_type(
    _context: object, _found: object, _column: object, found: object, wanted: object
) -> bool | None:
    """Say that two texts are of one type; leave all other types to Alembic."""
    return False if isinstance(found, String) and isinstance(wanted, String) else None
