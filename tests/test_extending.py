"""docs/extending.md, run as written: its blocks are laid over the repository, in this process."""

import importlib.util
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import tools
from app.application import declare_names
from evals.environment import set_status_message
from ledger.models import RequestState, VideoState, order_id
from providers.images import ImageProvider
from providers.registry import PROVIDERS
from sandbox.preview.images import SandboxImages
from sandbox.video_api.charge_log import clip
from telemetry import metrics
from tests.support.metric_values import value
from tests.support.models import order, raw
from tests.support.pipeline_harness import tool_outputs
from tests.support.services import ROOT
from tools.registry import TOOLS

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
_BLOCK = re.compile(
    r"<!-- (write|insert|run)(?:: ([^ ,]+)(?:, below: (.+?))?)? -->\n```\w*\n(.*?)```\n", re.DOTALL
)


@dataclass
class Overlay:
    """Files of the page, by path, over those of the repository. Each part of the page has its own."""

    folder: Path
    files: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def apply(self, part: str) -> None:
        for kind, name, below, text in _BLOCK.findall(part):
            if kind == "run":
                self.commands.append(text.strip())
            elif kind == "write":
                assert not (ROOT / name).exists(), name
                self.files[name] = text
            else:
                self.files[name] = self._inserted(
                    self.files.get(name) or (ROOT / name).read_text(), below, text
                )
        for name, text in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    @staticmethod
    def _inserted(before: str, below: str, text: str) -> str:
        lines = before.splitlines(keepends=True)
        (place,) = [number for number, line in enumerate(lines) if line.startswith(below)]
        return "".join((*lines[: place + 1], text, *lines[place + 1 :]))

    def load(self, path: str, name: str):
        spec = importlib.util.spec_from_file_location(name, self.folder / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


@pytest.fixture
def overlay(tmp_path, monkeypatch):
    """Lay one part of the page over the repository: `overlay("Add a provider")`; unload it afterwards."""
    known = dict(sys.modules)

    def lay(title: str) -> Overlay:
        made = Overlay(tmp_path / "overlay")
        made.apply(PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0])
        return made

    yield lay
    for name in sys.modules.keys() - known.keys():
        del sys.modules[name]


@pytest.fixture
def provider_overlay(overlay, monkeypatch):
    made = overlay("Add a provider")
    changed = made.load("providers/registry.py", "overlay_provider_registry").PROVIDERS
    assert changed.keys() - PROVIDERS.keys() == {"acme"}
    monkeypatch.setitem(PROVIDERS, "acme", changed["acme"])
    made.load("providers/acme.py", "providers.acme")
    return made


@pytest.fixture
def tool_overlay(overlay, monkeypatch):
    made = overlay("Add a tool")
    module = made.load("tools/use_caption.py", "tools.use_caption")
    monkeypatch.setattr(tools, "use_caption", module, raising=False)
    changed = made.load("tools/registry.py", "overlay_tool_registry").TOOLS
    assert changed.keys() - TOOLS.keys() == {"use_caption"}
    monkeypatch.setitem(TOOLS, "use_caption", changed["use_caption"])
    return made


@pytest.fixture
def paid_overlay(overlay, monkeypatch):
    made = overlay("Add a paid tool")
    module = made.load("tools/generate_wallpaper.py", "tools.generate_wallpaper")
    monkeypatch.setattr(tools, "generate_wallpaper", module, raising=False)
    changed = made.load("tools/registry.py", "overlay_paid_registry").TOOLS
    assert changed.keys() - TOOLS.keys() == {"generate_wallpaper"}
    monkeypatch.setitem(TOOLS, "generate_wallpaper", changed["generate_wallpaper"])
    return made


def run_tests(made: Overlay) -> None:
    """Run the command at the end of a part, in this process."""
    (command,) = made.commands
    path = command.removeprefix("python -m pytest ")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", str(ROOT / "pyproject.toml")]
    assert pytest.main([*options, f"--rootdir={made.folder}", str(made.folder / path)]) == 0


def test_the_test_of_the_new_provider_passes(provider_overlay):
    """The page's command."""
    run_tests(provider_overlay)


async def test_the_new_provider_makes_a_video(provider_overlay, pipeline_env):
    """An order becomes one job there and one file here, counted under the provider's own name."""
    declare_names()
    page = provider_overlay.load("tests/providers/test_acme.py", "page_test_acme")
    fake = page.FakeAcme("done", clip(seconds=8))
    async with page.serve(fake) as acme:
        env = await pipeline_env([order()], provider=lambda _: acme, compare=False)
        metrics.VIDEOS_STARTED.declare(provider="acme", model="acme-1")
        request = await env.open_request()
        await env.run_agent(request)
        assert await env.finish_video(request) is VideoState.SUCCEEDED
    assert len(fake.jobs) == 1
    assert env.worker.asset_path(await env.video(request)).read_bytes()
    text = metrics.exposition()
    assert value(text, metrics.VIDEOS_STARTED.name, provider="acme", model="acme-1") >= 1


def test_the_test_of_the_new_tool_passes(tool_overlay):
    """The page's command."""
    run_tests(tool_overlay)


async def test_the_new_tool_is_called(tool_overlay, pipeline_env, monkeypatch):
    """The agent that the page declares calls it twice: the words are kept once, and a guard decided."""
    declare_names()
    agents = tool_overlay.folder / "agents"
    shutil.copy(ROOT / "agents" / "caption_writer.md", agents)
    monkeypatch.setattr("tools.agent_spec._SOURCE_FOLDER", agents)
    calls = [[order(), raw('{"words": "My own words"}', name="use_caption")]]
    calls.append([raw('{"words": "Other words"}', name="use_caption")])
    env = await pipeline_env(*calls)
    request = await env.open_request()
    await env.run_agent(request)
    assert (await env.request(request)).state is RequestState.ORDERED
    assert (await env.request(request)).caption == "My own words"
    assert "My own words" in tool_outputs(env)[-1]
    assert await env.refused(request) == [("replay", "redis")]
    assert await env.finish_video(request) is VideoState.SUCCEEDED
    assert value(metrics.exposition(), metrics.DECISIONS.name, tool="use_caption", decision="admitted") >= 1


def test_the_test_of_the_new_paid_tool_passes(paid_overlay):
    """The page's command."""
    run_tests(paid_overlay)


async def test_the_new_paid_tool_makes_one_wallpaper(paid_overlay, pipeline_env, tmp_path):
    """One module, one line and a declaration: its calls are one order, beside a video and a still."""
    declare_names()
    images = ImageProvider(SandboxImages(tmp_path / "images"), tmp_path / "media" / "stills")
    calls = [raw(f'{{"prompt": "fox {n}"}}', name="generate_wallpaper") for n in range(3)]
    folder = paid_overlay.folder / "agents"
    shutil.copy(ROOT / "agents" / "caption_writer.md", folder)
    env = await pipeline_env([*calls], "done", images=images, specs=folder, compare=False)
    request = await env.open_request()
    await env.run_agent(request)
    key = order_id(request, "generate_wallpaper")
    await set_status_message(env.ledger, key)
    assert await env.finish_video(key) is VideoState.SUCCEEDED
    assert [word for word, _ in await env.refused(request)] == ["replay", "replay"]
    made = await env.video(key)
    assert (made.tool, made.size, made.kind, str(made.cost)) == (
        "generate_wallpaper", "1280x720", "image", "$0.04",
    )  # fmt: skip
    assert "One wallpaper (1280x720) for $0.04 is ordered" in tool_outputs(env)[0]
    assert env.agent_factory.others["generate_wallpaper"].limits.quota_window_s == 7 * 86_400
