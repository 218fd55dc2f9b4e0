"""Parses `agents/*.md` (front matter and instructions) into frozen declarations."""

import re
from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError
from pydantic_core import ErrorDetails

from guardrails.limits import Limits
from guardrails.policy import Budget, DeclaredModel, GuardPolicy, limits_of, quoted, shared_budget
from ledger.models import OrderKind

MAX_BYTES: Final = 64 * 1024
_FENCED: Final = re.compile(r"---\n(?P<front>(?:[^\n]*\n)*?)---(?:\n(?P<body>.*))?", re.DOTALL)
_TEXT: Final = "tag:yaml.org,2002:str"
_NULL: Final = "tag:yaml.org,2002:null"


class FrontMatterError(ValueError):
    """The file is not a valid declaration; the message says where and why, without the file's name."""


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses what SafeLoader accepts silently.

    Duplicate keys: the last one would win. Keys without a value: null would mean "no limit". Aliases: a few
    lines of them fill the memory.
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
                raise _problem(f"{key.value!r} is given twice", key)
            if value.tag == _NULL:
                raise _problem(f"{key.value!r} has no value; give one or leave the line out", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(words: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, words, node.start_mark)


def split_front_matter(raw: bytes) -> tuple[Any, str]:
    """Return the front matter as plain YAML values, and the Markdown below it.

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
    return _parse_yaml(match["front"]), match["body"] or ""


def _parse_yaml(front: str) -> Any:
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


ToolKind = Literal["pays", "pays_for_still", "writes", "reads"]
"""The effect of a tool: it spends money (on a video, or on a still), records something once, or changes
nothing."""

MAKES: Final[Mapping[ToolKind, OrderKind]] = MappingProxyType({"pays": "video", "pays_for_still": "image"})
"""What the orders of tools that pay make."""

PLACEHOLDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "language": "the user's language, by its English name: English, Spanish or Portuguese",
        "price_list": "each length on offer and its price, from the provider's quote",
        "sizes": "each size on offer, from the provider's capabilities",
    }
)
"""Placeholders of instructions, and what fills them."""

_PACKAGED: Final = Path(__file__).with_name("declarations")
_SOURCE_FOLDER: Final = Path(__file__).parent.parent / "agents"
_BRACES: Final = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}|[{}]")
_NEEDS_A_PRICE: Final = ("breaker", "budget", "approval")
_PYTHON: Final = (".py", ".pyi", ".pyc", ".so", ".pyd")


class DeclarationError(Exception):
    """A declaration cannot be used; the message is one sentence for the person who edits it."""


INPUT_GUARDRAILS: Final[Mapping[str, str]] = MappingProxyType(
    {"content": "the content policy, on what the agent is given"}
)
OUTPUT_GUARDRAILS: Final[Mapping[str, str]] = MappingProxyType(
    {"no_links": "its last words name no web address", "no_prices": "its last words name no amount of money"}
)
"""Guardrails of a run that may be named, and what they refuse; see `tools.run_guardrails`."""


class Reasoning(DeclaredModel):
    """How much a model that reasons may think before it answers."""

    effort: Literal["none", "minimal", "low", "medium", "high"]


class AgentSettings(DeclaredModel):
    """Model settings by the SDK's own names; a setting that is not given is left to the endpoint."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=16, le=100_000)
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    tool_choice: Literal["auto", "required"] | None = None


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{quoted(value)} is not a list of names such as [one, two]")
    if len(set(value)) < len(value):
        raise ValueError(f"{quoted(value)} has a name twice")
    return tuple(value)


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Guards = Annotated[Mapping[str, GuardPolicy], AfterValidator(MappingProxyType), PlainSerializer(dict)]


class _FrontMatter(DeclaredModel):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}\z")
    model: str = Field(pattern=r"^\S{1,100}\z")
    max_turns: int = Field(ge=1, le=32)
    settings: AgentSettings = AgentSettings()
    budget: Budget | None = None
    description: str | None = Field(default=None, min_length=1, max_length=500)
    handoffs: Names = ()
    agents: Names = ()
    input_guardrails: Names = ()
    output_guardrails: Names = ()
    tools: Guards = Field(default_factory=lambda: MappingProxyType({}))


class Declaration(_FrontMatter):
    """One agent, as its file declares it.

    Attributes:
        name: The file's stem.
        model: A name that the configured endpoint knows.
        max_turns: Model calls in one run, 1 to 32.
        settings: Model settings; see `AgentSettings`.
        budget: Of all paid tools together.
        description: What it is for, in words for the agents that hand over to it or call it.
        handoffs: Declared agents to which it may hand the run over.
        agents: Declared agents that it may call as tools; they get a text and answer one.
        input_guardrails, output_guardrails: See `tools.run_guardrails`.
        tools: The guards of each tool, by the tool's name, in the order of the file.
        instructions: The Markdown body, its placeholders still open.
    """

    instructions: str

    def limits_of(self, tool: str, paid: Collection[str]) -> Limits:
        """Return the limits of one of its tools; its own budget spans those of them that are `paid`."""
        own = limits_of(self.tools[tool])
        if self.budget is None or tool not in paid:
            return own
        spans = tuple(sorted(set(self.tools) & set(paid)))
        return replace(own, shared=shared_budget(self.budget, spans))

    def render(self, **values: str) -> str:
        """Return the instructions with every placeholder filled.

        Values are text, not templates: braces inside them are kept. A value that these instructions do not
        use is ignored, so that all declarations can be given the same values.

        Raises:
            DeclarationError: A placeholder got no value, or a value's name is not a known placeholder.
        """
        if unknown := sorted(values.keys() - PLACEHOLDERS):
            raise DeclarationError(
                f"{self.name}: {unknown[0]!r} is no placeholder; known: {_listed(PLACEHOLDERS)}"
            )

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name is None:
                return match[0][0]
            if name not in values:
                raise DeclarationError(f"{self.name}: the placeholder {{{name}}} got no value")
            return values[name]

        return _BRACES.sub(fill, self.instructions)


def declarations_folder() -> Path:
    """Return the folder of declarations: inside `tools` in a wheel, else `agents/` next to the code.

    In a wheel the folder next to the code is `site-packages/agents`, the SDK, so the inner one comes first.
    """
    return _PACKAGED if _PACKAGED.is_dir() else _SOURCE_FOLDER


def load_folder(folder: Path, *, tools: Mapping[str, ToolKind]) -> Mapping[str, Declaration]:
    """Read every declaration in `folder`, by name.

    Raises:
        DeclarationError: The folder is missing, empty, or holds anything else than declarations (except
            hidden files and editors' `~` copies), or one of them cannot be used.
    """
    refuse_python(folder)
    paths = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name[-1] != "~")
    for path in paths:
        if path.suffix != ".md":
            raise DeclarationError(
                f"{_short_path(path)} is not a declaration; only Markdown files (.md) belong here"
            )
    if not paths:
        raise DeclarationError(f"{folder} holds no declaration; the bot needs at least director.md")
    return MappingProxyType({path.stem: load_declaration(path, tools=tools) for path in paths})


def refuse_python(folder: Path) -> None:
    """Refuse a folder of declarations that is missing or holds Python.

    Raises:
        DeclarationError: One sentence that says what to do.
    """
    if not folder.is_dir():
        raise DeclarationError(f"The folder of declarations {folder} is missing")
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PYTHON:
            raise DeclarationError(
                f"Remove {path}: Python there makes our agents/ a package that hides the OpenAI Agents SDK, "
                "whose import name is `agents`; declarations are Markdown, code belongs in tools/"
            )


def load_declaration(path: Path, *, tools: Mapping[str, ToolKind]) -> Declaration:
    """Read one declaration.

    Args:
        path: The Markdown file.
        tools: All known tools by name, with their effect.

    Raises:
        DeclarationError: It cannot be used; the message names file, field, value and what is known.
    """
    try:
        front, body = split_front_matter(path.read_bytes())
        known = _FrontMatter.model_validate(front)
        _check_name(known.name, path.stem)
        _check_tools(known.tools, tools)
        _check_budget(known, tools)
        for field, named in (
            ("input_guardrails", INPUT_GUARDRAILS),
            ("output_guardrails", OUTPUT_GUARDRAILS),
        ):
            _check_names(field, getattr(known, field), named)
        _check_instructions(body)
    except ValidationError as error:
        raise DeclarationError(f"{_short_path(path)}: {_sentence(error.errors())}") from None
    except FrontMatterError as error:
        raise DeclarationError(f"{_short_path(path)}: {error}") from None
    except OSError as error:
        raise DeclarationError(f"{_short_path(path)} cannot be read: {error.strerror}") from error
    return Declaration(**dict(known), instructions=body.strip() + "\n")


def _check_name(name: str, stem: str) -> None:
    if name != stem:
        raise FrontMatterError(f"name: {name!r} is not the file's name {stem!r}")


def _check_tools(declared: Mapping[str, GuardPolicy], tools: Mapping[str, ToolKind]) -> None:
    for name, policy in declared.items():
        if name not in tools:
            raise FrontMatterError(f"tools: {quoted(name)} is not a tool; known: {_listed(tools)}")
        kind, said = tools[name], policy.declared_fields()
        if kind == "reads" and "changes" not in said:
            raise FrontMatterError(f"tools.{name}: it only reads; say 'changes: nothing' and no guard")
        if kind != "reads" and "changes" in said:
            raise FrontMatterError(
                f"tools.{name}: 'changes: nothing' is not true of it; say 'once: per_request'"
            )
        for word in _NEEDS_A_PRICE:
            if kind not in MAKES and word in said:
                raise FrontMatterError(f"tools.{name}.{word}: it costs nothing, so nothing would be checked")


def _check_names(field: str, names: tuple[str, ...], known: Mapping[str, str]) -> None:
    for name in names:
        if name not in known:
            raise FrontMatterError(f"{field}: {quoted(name)} is not known; known: {_listed(known)}")


def _check_budget(known: _FrontMatter, tools: Mapping[str, ToolKind]) -> None:
    if known.budget is not None and not any(tools[name] in MAKES for name in known.tools):
        raise FrontMatterError("budget: none of its tools costs anything, so nothing would be checked")


def _check_instructions(body: str) -> None:
    if not body.strip():
        raise FrontMatterError("the instructions are empty; write them below the second '---'")
    for match in _BRACES.finditer(body):
        if match[1] is not None and match[1] not in PLACEHOLDERS:
            raise FrontMatterError(
                f"instructions: {match[0]} is no placeholder; known: {_listed(PLACEHOLDERS)}"
            )
        if match[0] in ("{", "}"):
            found = quoted(body[match.start() :].partition("\n")[0])
            raise FrontMatterError(
                f"instructions: {found} opens no placeholder; a literal brace is written twice"
            )


def _sentence(errors: list[ErrorDetails]) -> str:
    error = errors[0]
    field = ".".join(str(part) for part in error["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{field}{': ' if field else ''}{_reason(error)}{more}"


def _reason(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "it is missing"
        case "literal_error":
            return f"{quoted(error['input'])} is not known; known: {context['expected']}"
        case _:
            said = error["msg"]
            return f"{quoted(error['input'])} is refused: {said[0].lower()}{said[1:]}"


def _listed(names: Mapping[str, str]) -> str:
    return ", ".join(names)


def _short_path(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
