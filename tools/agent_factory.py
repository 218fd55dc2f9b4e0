"""Builds agents from declarations. Every field of a declaration is used by the agent, a guard or the run.

The agents SDK is imported when an agent is built: a bot without a worker has a factory but runs no agent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from guardrails.admission import Admission
from guardrails.content.verdict import Judge
from guardrails.instrumentation import Instrumentation
from guardrails.limits import Limits
from guardrails.policy import GuardPolicy
from ledger.database import Ledger
from ledger.guard_stores import LedgerJournal
from ledger.models import LANGUAGE_NAMES, OrderKind, Request
from telemetry.logs import get_logger
from telemetry.metrics import DECISIONS, DUPLICATES, VIOLATIONS
from telemetry.tracing import TRACER
from tools.agent_spec import MAKES, AgentSettings, Declaration, DeclarationError, load_folder
from tools.offer import Offer, PaidOffer
from tools.registry import GENERATE_VIDEO, TOOLS, load_tool, paid_tools
from tools.wishes import wish_of

if TYPE_CHECKING:
    from agents import (
        Agent,
        FunctionToolResult,
        ModelProvider,
        ModelSettings,
        RunConfig,
        RunContextWrapper,
        Tool,
        ToolsToFinalOutputResult,
    )

    from tools.context import Enqueue, RunContext

log = get_logger(__name__)

DIRECTOR: Final = "director"
CAPTION_WRITER: Final = "caption_writer"


_WITH_PICTURE: Final = """

## This person sent a picture

The video begins with that picture, which you do not see. Write in the prompt only what moves, what happens
and how the camera moves. Do not say who or what is in the picture, where it is or how it looks.
"""


_INSTRUMENTATION: Final = Instrumentation(TRACER, DECISIONS.add, DUPLICATES.add, VIOLATIONS.add)


@dataclass(frozen=True)
class RecordedResults:
    """Reads recorded results from the ledger, worded by each tool (a result store of `guardrails`)."""

    ledger: Ledger

    async def recorded_result(self, request_id: str, tool: str) -> str | None:
        """Return the result of this request's one call of `tool`; None if there is none yet."""
        read = load_tool(tool).recorded
        return None if read is None else await read(self.ledger, request_id)


@dataclass(frozen=True)
class AgentFactory:
    """The declared agents and their dependencies: one per process.

    An agent is built once for each language and used by all runs: the SDK keeps a run's state elsewhere.
    """

    declarations: Mapping[str, Declaration]
    models: "ModelProvider | None"
    """None if this process runs no agents."""
    ledger: Ledger
    admission: Admission
    content: Judge
    offer: Offer
    enqueue: "Enqueue"
    others: Mapping[str, PaidOffer] = field(default_factory=dict)
    """What every other paid tool than `generate_video` may order here; agents do not get one that may not."""
    _agents: dict[tuple[str, str, bool], "Agent[RunContext]"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def video_policy(self) -> GuardPolicy:
        """The policy of `generate_video` in the director's declaration."""
        return self.declarations[DIRECTOR].tools[GENERATE_VIDEO]

    @property
    def video_limits(self) -> Limits:
        """The limits of that policy, with the budget that spans tools."""
        return self.declarations[DIRECTOR].limits_of(GENERATE_VIDEO, paid_tools())

    def run_config(self) -> "RunConfig":
        """Return the configuration of a run: no upload of traces; unknown tools are reported to the model.

        Raises:
            RuntimeError: This process has no models, because it runs no agents.
        """
        from agents import RunConfig

        from tools.sdk_tracing import is_bridged, shows_content

        if self.models is None:
            raise RuntimeError("this process runs no agents")
        return RunConfig(
            model_provider=self.models,
            # Without our bridge, the SDK would send its traces to OpenAI.
            tracing_disabled=not is_bridged(),
            tracing={"include_task_and_turn_spans": False},  # the bridge would drop them
            trace_include_sensitive_data=shows_content(),
            tool_not_found_behavior="return_error_to_model",
        )

    def run_context(self, request: Request, attempt: int) -> "RunContext":
        """Return the context of one attempt at this request."""
        from agents import ModelSettings

        from tools.context import RunContext
        from tools.metered_models import MeteredModels
        from tools.model_endpoint import retries_of

        policy = self.video_policy
        run = RunContext(
            request_id=request.request_id, user_id=request.user_id, attempt=attempt, ledger=self.ledger,
            journal=LedgerJournal(self.ledger), results=RecordedResults(self.ledger),
            instrumentation=_INSTRUMENTATION,
            language=request.language, offer=self.offer, policy=policy, limits=self.video_limits,
            admission=self.admission, enqueue=self.enqueue, others=self.others,
            caption_writer=self.agent(CAPTION_WRITER, request.language), run_config=self.run_config(),
            caption_turns=self.declarations[CAPTION_WRITER].max_turns, wish=wish_of(request.idea),
            has_picture=request.picture is not None,
        )  # fmt: skip
        run.run_config.model_settings = ModelSettings(retry=retries_of(run))
        run.run_config.model_provider = MeteredModels(run.run_config.model_provider, run.meter)
        return run

    def agent(self, name: str, language: str, *, has_picture: bool = False) -> "Agent[RunContext]":
        """Return one declared agent for users of this language; do not change it.

        With `has_picture` its instructions say that the video begins with a picture.
        """
        spoken = LANGUAGE_NAMES.get(language, LANGUAGE_NAMES["en"])
        found = self._agents.get((name, spoken, has_picture))
        if found is None:
            more = _WITH_PICTURE if has_picture else ""
            found = self._agents[name, spoken, has_picture] = self._build_agent(name, spoken, more)
            # After it is known: two agents may hand over to each other.
            found.handoffs = [self.agent(one, language) for one in self.declarations[name].handoffs]
        return found

    def _build_agent(self, name: str, language: str, more: str = "") -> "Agent[RunContext]":
        from agents import Agent

        from tools.context import RunContext
        from tools.run_guardrails import input_guardrail, output_guardrail

        declaration = self.declarations[name]
        return Agent[RunContext](
            name=declaration.name,
            handoff_description=declaration.description,
            model=declaration.model,
            instructions=declaration.render(
                language=language,
                price_list=self.offer.price_list(),
                sizes=", ".join(self.offer.capabilities.sizes),
            )
            + more,
            model_settings=_model_settings(declaration.settings),
            input_guardrails=[input_guardrail(one, self.content) for one in declaration.input_guardrails],
            output_guardrails=[output_guardrail(one) for one in declaration.output_guardrails],
            tools=[
                self._build_tool(tool, policy)
                for tool, policy in declaration.tools.items()
                if self._offer_of(tool) is not None
            ]
            + [self._agent_tool(one, language) for one in declaration.agents],
            tool_use_behavior=_end_when_decided,
        )

    def _agent_tool(self, name: str, language: str) -> "Tool":
        """Return a declared agent as a tool. It has no guard: its tools have theirs, for the same request."""
        declaration = self.declarations[name]
        code = next(code for code, spoken in LANGUAGE_NAMES.items() if spoken == language)
        return self.agent(name, code).as_tool(
            name, declaration.description, max_turns=declaration.max_turns, failure_error_function=_no_answer
        )

    def _build_tool(self, name: str, policy: GuardPolicy) -> "Tool":
        from guardrails.guard import guarded

        spec, offer = load_tool(name), self._offer_of(name) or self.offer
        tool = spec.tool if spec.fitted is None else spec.fitted(offer)
        if spec.guard_spec is None:
            return tool
        return guarded(tool, spec.guard_spec(policy, offer), self.admission, self.content)

    def _offer_of(self, name: str) -> Offer | None:
        """Return what a tool may order, None where nothing makes it; a free tool gets the video's."""
        if name == GENERATE_VIDEO or TOOLS[name] not in MAKES:
            return self.offer
        return self.others[name].offer if name in self.others else None


def _model_settings(declared: AgentSettings) -> "ModelSettings":
    from agents import ModelSettings
    from openai.types.shared import Reasoning

    plain = declared.model_dump(exclude_none=True, exclude={"reasoning"})
    reasoning = None if declared.reasoning is None else Reasoning(effort=declared.reasoning.effort)
    return ModelSettings(**plain, reasoning=reasoning)


def _no_answer(context: "RunContextWrapper[RunContext]", error: Exception) -> str:
    """Answer for an agent that broke off. The SDK's own text would invite the model to try again."""
    log.warning("agent as a tool failed", request=context.context.request_id, error=type(error).__name__)
    return "It gave no answer. What it ordered stands and continues by itself. Do not call it again."


def _end_when_decided(
    context: "RunContextWrapper[RunContext]", results: "list[FunctionToolResult]"
) -> "ToolsToFinalOutputResult":
    """End a run in which nothing more can change, without a closing answer that no one would read.

    That is when the order and its caption are stored, or when the model has sent too many malformed calls.
    """
    from agents import ToolsToFinalOutputResult

    from guardrails.guard import MAX_MALFORMED

    run, tools = context.context, {one.tool.name for one in results}
    done = run.order is not None and (run.caption is not None or "generate_caption" in tools)
    ends = done or (run.order is None and run.malformed >= MAX_MALFORMED)
    return ToolsToFinalOutputResult(is_final_output=ends, final_output="" if ends else None)


def load_declarations(folder: Path) -> Mapping[str, Declaration]:
    """Read all declarations and check that they include the two agents that the app runs.

    Raises:
        DeclarationError: See `tools.agent_spec`; or one of the two agents is missing.
    """
    declarations = load_folder(folder, tools=TOOLS)
    for name in (DIRECTOR, CAPTION_WRITER):
        if name not in declarations:
            raise DeclarationError(f"{folder.name}/{name}.md is missing; the bot needs it")
    if GENERATE_VIDEO not in declarations[DIRECTOR].tools:
        raise DeclarationError(f"{folder.name}/director.md: tools: {GENERATE_VIDEO} is missing")
    for tool in paid_tools():
        _check_one_policy(folder, declarations, tool)
    for name, declaration in declarations.items():
        _check_agents(folder, declarations, name, declaration)
    _check_use(folder, declarations)
    return declarations


def _check_agents(
    folder: Path, declarations: Mapping[str, Declaration], name: str, declaration: Declaration
) -> None:
    """Refuse names of other agents that cannot be used."""
    for where in ("handoffs", "agents"):
        for other in getattr(declaration, where):
            if other not in declarations or other == name:
                known = ", ".join(sorted(declarations.keys() - {name})) or "none"
                raise DeclarationError(
                    f"{folder.name}/{name}.md: {where}: {other!r} is no other declared agent; known: {known}"
                )
            if where == "agents" and declarations[other].description is None:
                raise DeclarationError(
                    f"{folder.name}/{other}.md: description is missing; {name}.md calls it as a tool"
                )
    if name in TOOLS:
        raise DeclarationError(f"{folder.name}/{name}.md: a tool has this name; an agent needs another one")


def _check_use(folder: Path, declarations: Mapping[str, Declaration]) -> None:
    """Refuse an agent that nothing uses, a circle of agents as tools, and guardrails that would not run."""
    used, called = {DIRECTOR, CAPTION_WRITER}, {DIRECTOR, CAPTION_WRITER}
    for _ in declarations:  # each round reaches one step further
        used |= {one for name in used for one in declarations[name].handoffs + declarations[name].agents}
        called |= {one for name in used for one in declarations[name].agents}
    for name, declaration in declarations.items():
        if name not in used:
            raise DeclarationError(
                f"{folder.name}/{name}.md: no agent uses it; name it in 'handoffs' or 'agents' of another "
                "one, or remove the file"
            )
        if name in _called_by(declarations, name):
            raise DeclarationError(f"{folder.name}/{name}.md: agents: it would call itself in a circle")
        if declaration.input_guardrails and name not in called:
            raise DeclarationError(
                f"{folder.name}/{name}.md: input_guardrails: they run where a run begins, and a handoff "
                "begins none; name them in the agent that hands over"
            )


def _called_by(declarations: Mapping[str, Declaration], name: str) -> set[str]:
    found = set(declarations[name].agents)
    for _ in declarations:
        found |= {one for called in found for one in declarations[called].agents}
    return found


def _check_one_policy(folder: Path, declarations: Mapping[str, Declaration], tool: str) -> None:
    """Refuse two policies of one paid tool: its orders are counted with one set of limits."""
    owner = next((one for one in _director_first(declarations) if tool in one.tools), None)
    for name, declaration in declarations.items():
        if owner is not None and declaration.tools.get(tool, owner.tools[tool]) != owner.tools[tool]:
            raise DeclarationError(
                f"{folder.name}/{name}.md: tools.{tool}: its values differ from those of "
                f"{owner.name}.md; write the same, or leave the tool out"
            )


def _director_first(declarations: Mapping[str, Declaration]) -> list[Declaration]:
    return sorted(declarations.values(), key=lambda one: one.name != DIRECTOR)


def paid_offers(
    declarations: Mapping[str, Declaration], offers: Mapping[OrderKind, Offer]
) -> Mapping[str, PaidOffer]:
    """Return what every declared paid tool but `generate_video` may order, where something makes its orders.

    `offers` has the offer of each kind of order that is made here.
    """
    found = {}
    for tool in paid_tools():
        owner = next((one for one in _director_first(declarations) if tool in one.tools), None)
        offer = offers.get(MAKES[TOOLS[tool]])
        if tool != GENERATE_VIDEO and owner is not None and offer is not None:
            found[tool] = PaidOffer(offer, owner.tools[tool], owner.limits_of(tool, paid_tools()))
    return found
