"""The pages are true: their edges, links, paths and words match the repository."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import bot
import evals.cli
from ledger.models import ALLOWED_TRANSITIONS
from tests.support.services import ROOT

FOLDERS = sorted(path for path in ROOT.glob("[!.]*/") if path.name != "var")
PAGES = [ROOT / "NOTICE", *ROOT.glob("*.md"), *(page for folder in FOLDERS for page in folder.rglob("*.md"))]
HISTORY = re.compile(r"docs/decisions/00(0\d|1[01])-")
"""Decision records 1 to 11 are history and keep the names of their time."""

BANNED = frozenset({"studio", "desk", "shoot", "tell", "teller", "patience", "looks", "house", "laws"})
ALLOWED_WORDS = {
    "agents/director.md": {"tell"},  # a prompt
    "ledger/schema.py": {"shoot", "studio", "tell"},  # explains the words stored in `transitions.who`
    "tests/data/first_edition/README.md": {"shoot", "tell"},  # stored names of tasks
}
"""Stored values, prompts and texts that are data."""

EDGE = re.compile(r"^\| ([A-Z_]+|–) → ([A-Z_]+) \|(.*)\|$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
FILE = re.compile(r"[\w./{},*-]+\.(?:py|md|ya?ml|lua|toml|json|html|css|txt|sh)")
DEFINITION = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
DEFINED_IN = re.compile(r"`([\w/]+\.py)` `(\w+)(?:\.(\w+))?`")
NOT_OURS = re.compile(
    r"var/|report\.(?:json|md)$|deploy/\.env$|manifest\.json$|deploy/compose\.digests\.yaml$"
)
"""What a run writes, or its operator: pages name it, and the repository does not have it."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CURRENT = [page for page in PAGES if not HISTORY.match(named(page))]
every_page = pytest.mark.parametrize("page", PAGES, ids=named)
current_page = pytest.mark.parametrize("page", CURRENT, ids=named)


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text("utf-8"))


def test_architecture_lists_every_edge():
    """The table of an order's states has each allowed transition, no other, and who takes it."""
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    table = page.partition("\n## States of an order\n")[2].partition("\n#")[0]
    rows = EDGE.findall(table)
    assert len(rows) == len({row[:2] for row in rows}), "an edge is listed twice"
    starts = {to for frm, to, _ in rows if frm == "–"}
    assert starts == {"QUEUED", "AWAITING_APPROVAL"}
    listed = {(frm, to) for frm, to, _ in rows if frm != "–"}
    assert listed == {(frm.value, to.value) for frm, ends in ALLOWED_TRANSITIONS.items() for to in ends}
    assert [row[:2] for row in rows if not row[2].rpartition("|")[2].strip()] == []


def heading_ids(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@every_page
def test_links_lead_somewhere(page):
    """Each relative link names a file or folder that exists, and a heading that the page has."""
    broken = []
    for link, anchor in LINK.findall(prose(page)):
        target = (page.parent / link).resolve() if link else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (anchor and anchor not in heading_ids(target)):
            broken.append(f"{link}#{anchor}" if anchor else link)
    assert broken == []


def exists(path: str, page: Path) -> bool:
    """Whether a page's path is there: from the root, from the page, or a bare name anywhere."""
    if "*" in path or "{" in path:
        return any(ROOT.glob(re.sub(r"\{[^}]*\}", "*", path)))
    if (ROOT / path).exists() or (page.parent / path).exists():
        return True
    return path.strip("/").count("/") == 0 and any(any(folder.rglob(path.strip("/"))) for folder in FOLDERS)


def paths_of(page: Path) -> Iterator[str]:
    tops = {path.name for path in FOLDERS}
    for code in CODE.findall(prose(page)):
        for word in code.split():
            path = word.rpartition("=")[2]
            below = path.partition("/")[0] in tops and "/" in path and re.fullmatch(r"[\w./*-]+", path)
            if (FILE.fullmatch(path) or below) and not NOT_OURS.match(path):
                yield path


@current_page
def test_paths_exist(page):
    """Each path in backticks is in the repository."""
    assert [path for path in paths_of(page) if not exists(path, page)] == []


@current_page
def test_names_are_defined_in_their_files(page):
    """Where a page writes `file.py` `name`, that file defines that name."""
    wrong = []
    for path, *parts in DEFINED_IN.findall(prose(page)):
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        known = {node.name for node in ast.walk(tree) if isinstance(node, DEFINITION)}
        known |= {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        wrong += [f"{path}: {part}" for part in parts if part and part not in known]
    assert wrong == []


COMMAND = re.compile(r"(?<![\w-])(make|-m bot|-m evals) ([a-z][a-z-]*)")


def commands() -> dict[str, set[str]]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    apps = {"-m bot": bot.app, "-m evals": evals.cli.app}
    return {"make": set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))} | {
        way: {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
        for way, app in apps.items()
    }


@current_page
def test_commands_exist(page):
    """Each `make` target, bot command and evals command that a page shows exists."""
    text = page.read_text("utf-8")
    code = [*FENCED.findall(text), *CODE.findall(prose(page))]
    known = commands()
    shown = [match for part in code for match in COMMAND.findall(part)]
    if page.name != "CHANGELOG.md":  # which names what was removed
        assert [f"{way} {name}" for way, name in shown if name not in known[way]] == []


def test_readme_is_short():
    """README.md has at most 600 words, as `wc -w` counts."""
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 600


def test_no_page_is_unfinished():
    """No page has a note to its author."""
    assert [named(page) for page in PAGES if re.search(r"TODO|FIXME|XXX", page.read_text("utf-8"))] == []


def banned_in(text: str) -> set[str]:
    return BANNED & set(re.findall(r"[a-z]+", text.lower()))


@current_page
def test_pages_use_plain_words(page):
    """No page uses a word of the first edition's private vocabulary."""
    assert banned_in(page.read_text("utf-8")) - ALLOWED_WORDS.get(named(page), set()) == set()


def words_of(source: str, path: str) -> Iterator[str]:
    """Yield what we named or explained: the file's name, definitions, docstrings and comments."""
    yield path
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DEFINITION):
            yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)  # a docstring, also one of a constant or a field
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@pytest.mark.slow
def test_code_uses_plain_words():
    """No name of a file, class or function, and no docstring or comment, has one either."""
    found = []
    for path in [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))]:
        words = set().union(*map(banned_in, words_of(path.read_text("utf-8"), named(path))))
        if words := words - ALLOWED_WORDS.get(named(path), set()):
            found.append(f"{named(path)}: {', '.join(sorted(words))}")
    assert not found, "\n".join(found)
