"""Tables for the terminal in which nothing is ever cut.

Rich shortens what does not fit into the terminal, and takes 80 columns where the output is a pipe: an id that
ends in `…` is of no use to the next command. Here a table that is too wide becomes one block of lines for
each row, and a pipe gets it as wide as it is.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_ANY: Final = 100_000
"""Wider than any table."""


def print_table(
    console: Console,
    title: str,
    names: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Collection[str] = (),
) -> None:
    """Print rows under a title.

    Args:
        console: Where to.
        title: The line above.
        names: Of the columns.
        rows: A value for each column; values are plain text.
        numbers: Names of the columns that are aligned to the right.
    """
    cells = [[str(value) for value in row] for row in rows]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    width = Measurement.get(console, console.options.update(max_width=_ANY), table).maximum
    if console.is_terminal and width > console.width:
        _print_blocks(console, title, names, cells)
        return
    table.width = max(width, len(title))
    console.print(table, crop=False, soft_wrap=True)


def print_whole(console: Console, renderable: RenderableType) -> None:
    """Print a tree without cutting its lines: a terminal wraps what is too long, a pipe takes all."""
    width, options = console.width, console.options.update(max_width=_ANY)
    console.width = max(width, Measurement.get(console, options, renderable).maximum)
    try:
        console.print(renderable, crop=False, soft_wrap=True)
    finally:
        console.width = width


def _print_blocks(console: Console, title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    console.print(Text(title, style="italic"), soft_wrap=True)
    first, *others = names
    indent = max(map(len, names))
    for row in rows:
        console.print(Text(f"\n{first} {row[0]}", style="bold"), soft_wrap=True)
        for name, value in zip(others, row[1:], strict=True):
            if value:
                console.print(Text(f"  {name:<{indent}}  {value}"), soft_wrap=True)
