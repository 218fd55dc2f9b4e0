"""A director played by the rehearsal model, and tools that write down what they were called with."""

from agents import Agent, RunConfig, Runner
from agents.decorators import tool

from sandbox.model import SandboxModel
from tools.agent_spec import PLACEHOLDERS, declarations_folder, load_folder

IDEA = "Un mercado tradicional mexicano al amanecer"
ORDERED = "Ordered: it will arrive in this chat."
REFUSED = "The user's 5 videos are used up. Nothing was made and nothing was paid by this call."
KINDS = {"generate_video": "pays", "generate_caption": "writes", "quota_left": "reads"}
QUIET = RunConfig(tracing_disabled=True)
FORGIVING = RunConfig(tracing_disabled=True, tool_not_found_behavior="return_error_to_model")


class Studio:
    """Real function tools that write down what they were called with."""

    def __init__(self, answer=ORDERED):
        self.videos, self.captions, self.quota_reads = [], [], 0

        @tool(
            failure_error_function=lambda _context, _error: "The arguments do not fit; nothing was ordered."
        )
        def generate_video(prompt: str, seconds: int, size: str) -> str:
            self.videos.append({"prompt": prompt, "seconds": seconds, "size": size})
            return answer

        @tool(failure_error_function=None)
        def generate_caption(about: str) -> str:
            self.captions.append(about)
            return "Written."

        @tool(failure_error_function=None)
        def quota_left() -> str:
            self.quota_reads += 1
            return "4 left."

        self.tools = [generate_video, generate_caption, quota_left]


def director(model, studio):
    declared = load_folder(declarations_folder(), tools=KINDS)["director"]
    instructions = declared.render(**dict.fromkeys(PLACEHOLDERS, "-") | {"language": "Spanish"})
    return Agent(name="director", instructions=instructions, model=model, tools=studio.tools)


async def run(behavior="benign", idea=IDEA, answer=ORDERED, max_turns=8, **options):
    model, studio = SandboxModel(behavior, **options), Studio(answer)
    result = await Runner.run(director(model, studio), idea, max_turns=max_turns, run_config=FORGIVING)
    return model, studio, result
