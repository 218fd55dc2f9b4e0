"""Markdown with YAML front matter, read more strictly than YAML: a key is text, stands once, has a value."""

import re
from collections.abc import Hashable
from typing import Any, Final

import yaml

MAX_BYTES: Final = 64 * 1024
_FENCED: Final = re.compile(r"---\n(?P<front>(?:[^\n]*\n)*?)---(?:\n(?P<body>.*))?", re.DOTALL)
_TEXT: Final = "tag:yaml.org,2002:str"
_NULL: Final = "tag:yaml.org,2002:null"


class FrontMatterError(ValueError):
    """The file is not what it should be; the message says where and how, without the file's name."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without its silences: it lets the last of two equal keys win, and a forgotten value be null,
    which would read as "no limit". Aliases are refused because a few lines of them fill the memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs give it no type
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are refused", alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag != _TEXT:
                raise _problem("a name that YAML does not read as text", key)
            if key.value in seen:
                raise _problem(f"{key.value!r} stands twice", key)
            if value.tag == _NULL:
                raise _problem(f"{key.value!r} has no value; give one or leave the line out", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(words: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, words, node.start_mark)


def split(raw: bytes) -> tuple[Any, str]:
    """Return what the front matter says, as plain YAML values, and the Markdown below it.

    Raises:
        FrontMatterError: Too large, not UTF-8, no front matter, or YAML that is broken or ambiguous.
    """
    if len(raw) > MAX_BYTES:
        raise FrontMatterError(f"{len(raw)} bytes are too many; a declaration has at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise FrontMatterError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    match = _FENCED.fullmatch(text)
    if match is None:
        raise FrontMatterError("no front matter; the file starts with '---', fields, and a second '---'")
    return _read(match["front"]), match["body"] or ""


def _read(front: str) -> Any:
    # Line 1 of the file is the opening fence.
    for number, line in enumerate(front.split("\n"), start=2):
        if "\t" in line:
            raise FrontMatterError(f"line {number} has a tab; YAML is indented with spaces")
    try:
        return yaml.load(front, _StrictLoader)  # noqa: S506 - a SafeLoader, only stricter
    except yaml.MarkedYAMLError as error:
        line_number = (error.problem_mark.line if error.problem_mark else 0) + 2
        raise FrontMatterError(f"line {line_number}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date that does not exist; RecursionError: brackets a thousand deep.
        raise FrontMatterError(f"the front matter is not YAML: {str(error).splitlines()[0]}") from None
