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
from guardrails.policy import GuardPolicy, limits_of
from ledger.database import Ledger
from ledger.guard_stores import LedgerJournal
from ledger.models import LANGUAGE_NAMES, Request
from telemetry.metrics import DECISIONS, DUPLICATES, VIOLATIONS
from telemetry.tracing import TRACER
from tools.agent_spec import Declaration, DeclarationError, load_folder
from tools.offer import Offer
from tools.registry import GENERATE_VIDEO, TOOLS, load_tool
from tools.wishes import wish_of

if TYPE_CHECKING:
    from agents import (
        Agent,
        FunctionToolResult,
        ModelProvider,
        RunConfig,
        RunContextWrapper,
        Tool,
        ToolsToFinalOutputResult,
    )

    from tools.context import Enqueue, RunContext

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
    _agents: dict[tuple[str, str, bool], "Agent[RunContext]"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def video_policy(self) -> GuardPolicy:
        """The policy of `generate_video` in the director's declaration."""
        return self.declarations[DIRECTOR].tools[GENERATE_VIDEO]

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
            language=request.language, offer=self.offer, policy=policy, limits=limits_of(policy),
            admission=self.admission, enqueue=self.enqueue,
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
        return found

    def _build_agent(self, name: str, language: str, more: str = "") -> "Agent[RunContext]":
        from agents import Agent, ModelSettings

        from tools.context import RunContext

        declaration = self.declarations[name]
        settings = declaration.settings
        return Agent[RunContext](
            name=declaration.name,
            model=declaration.model,
            instructions=declaration.render(
                language=language,
                price_list=self.offer.price_list(),
                sizes=", ".join(self.offer.capabilities.sizes),
            )
            + more,
            model_settings=ModelSettings(**settings.model_dump(exclude_none=True)),
            tools=[self._build_tool(tool, policy) for tool, policy in declaration.tools.items()],
            tool_use_behavior=_end_when_decided,
        )

    def _build_tool(self, name: str, policy: GuardPolicy) -> "Tool":
        from guardrails.guard import guarded

        spec = load_tool(name)
        tool = spec.tool if spec.fitted is None else spec.fitted(self.offer)
        if spec.guard_spec is None:
            return tool
        return guarded(tool, spec.guard_spec(policy, self.offer), self.admission, self.content)


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
    paid = declarations[DIRECTOR].tools.get(GENERATE_VIDEO)
    if paid is None:
        raise DeclarationError(f"{folder.name}/director.md: tools: {GENERATE_VIDEO} is missing")
    for name, declaration in declarations.items():
        # Orders are counted with one set of limits; a second one would have no effect.
        if declaration.tools.get(GENERATE_VIDEO, paid) != paid:
            raise DeclarationError(
                f"{folder.name}/{name}.md: tools.{GENERATE_VIDEO}: its values differ from those of "
                f"{DIRECTOR}.md; write the same, or leave the tool out"
            )
    return declarations
