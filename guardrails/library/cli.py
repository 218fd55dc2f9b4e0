"""The command line: lists the calls whose outcome is unknown, and ends them by a person's word.

python -m onetake_guardrails pending --store sqlite:///guard.db --namespace shop
python -m onetake_guardrails resolve ID VERSION happened --result "paid" --by eva --why "seen" --store …
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from .claims import Claim
from .facade import Guard, StaleVersion, UnknownClaim
from .outcomes import DidNotHappen, Happened
from .sql_statements import SchemaTooNew
from .sql_store import SqlStore, StoreUrlError

STORE_VARIABLE: Final = "ONETAKE_GUARD_STORE"
_VERDICTS: Final = ("happened", "did-not-happen")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 where a doubt was not ended, 2 for a usage error."""
    given = _parser().parse_args(arguments)
    if not given.store:
        print(f"name the database: --store, or the variable {STORE_VARIABLE}", file=sys.stderr)  # noqa: T201 - a command line
        return 2
    try:
        asyncio.run(_run(given))
    except (StaleVersion, UnknownClaim, SchemaTooNew) as error:
        print(error, file=sys.stderr)  # noqa: T201 - as above
        return 1
    except StoreUrlError as error:
        print(error, file=sys.stderr)  # noqa: T201 - as above
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m onetake_guardrails", description=__doc__.split("\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--store", default=os.environ.get(STORE_VARIABLE, ""), help="URL of the database")
    common.add_argument("--prefix", default="onetake_guard_", help="of its tables")
    common.add_argument("--namespace", default="default")
    common.add_argument("--redis", default=None, help="URL of the fast layer, if the guard has one")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("pending", parents=[common], help="list the calls whose outcome is unknown")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    ending = commands.add_parser("resolve", parents=[common], help="end one of them")
    ending.add_argument("id")
    ending.add_argument("version", type=int, help="as it was listed")
    ending.add_argument("verdict", choices=_VERDICTS)
    ending.add_argument("--result", default=None, help="what every later call gets, for `happened`")
    ending.add_argument("--by", required=True, help="who says so")
    ending.add_argument("--why", required=True, help="what for")
    return parser


async def _run(given: argparse.Namespace) -> None:
    store = SqlStore(given.store, prefix=given.prefix)
    await store.setup()
    # No setup of the guard: this process has no tools, and ends nothing by itself.
    guard = Guard(store=store, namespace=given.namespace, redis=given.redis)
    try:
        if given.command == "pending":
            for claim in await guard.pending():
                print(_as_json(claim) if given.json else _as_line(claim))  # noqa: T201 - as above
            return
        verdict = Happened(given.result) if given.verdict == "happened" else DidNotHappen()
        ended = await guard.resolve(given.id, given.version, verdict, by=given.by, why=given.why)
        print(f"{ended.key} is {ended.state}, version {ended.version}")  # noqa: T201 - as above
    finally:
        await guard.close()


def _as_line(claim: Claim) -> str:
    since = datetime.fromtimestamp(claim.claimed_at / 1000, UTC).isoformat(timespec="seconds")
    about = f"act {claim.act!r}" + (f" item {claim.item!r}" if claim.item else "")
    return f"{claim.key} {claim.version} {claim.tool} {since} {about} user {claim.user!r}: {claim.why}"


def _as_json(claim: Claim) -> str:
    fields = ("key", "version", "tool", "act", "item", "user", "state", "claimed_at", "arguments", "why")
    return json.dumps({name: getattr(claim, name) for name in fields})
