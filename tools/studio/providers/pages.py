"""A list of jobs, read page by page to its end."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

LIST_PAGES = 20


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a job list.

    Attributes:
        jobs: What could be read, each with a text under `id`.
        whole: Every entry could be read; one that cannot be read may be ours.
        next: What asks for the page after this one; None at the end of the list.
    """

    jobs: list[dict[str, Any]]
    whole: bool
    next: Mapping[str, str] | None


async def walk(
    ask: Callable[[Mapping[str, str]], Awaitable[Page]],
    first: Mapping[str, str],
    enough: Callable[[list[dict[str, Any]]], bool] = lambda _: False,
) -> tuple[list[dict[str, Any]], bool]:
    """Read a list page by page; return its jobs, and whether it was seen to its end or until `enough`.

    A page that brings nothing new ends the walk: the server ignores the cursor, and the rest stays unseen.
    """
    jobs: dict[str, dict[str, Any]] = {}
    query = first
    for _ in range(LIST_PAGES):
        page = await ask(query)
        fresh = {job["id"]: job for job in page.jobs}
        stuck = bool(fresh) and fresh.keys() <= jobs.keys()
        jobs |= fresh
        if stuck or not page.whole:
            break
        if page.next is None or enough(list(jobs.values())):
            return list(jobs.values()), True
        query = page.next
    return list(jobs.values()), False
