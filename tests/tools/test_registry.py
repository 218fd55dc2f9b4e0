"""One line in a registry: the name is known to declarations, settings, metrics and traces."""

import sys
from dataclasses import dataclass
from datetime import date
from types import ModuleType, SimpleNamespace

import pytest
from agents import function_tool
from opentelemetry.sdk.trace import ReadableSpan

from app.application import choose_provider, declare_names
from app.settings import Settings, SettingsError
from guardrails.money import Money
from providers import registry as providers
from providers.pricing import ModelPrice, PriceList
from telemetry import exporter, metrics
from tests.support.metric_values import value
from tools import generate_video, quota_left
from tools.agent_factory import AgentFactory, load_declarations
from tools.registry import TOOLS, ToolSpec, guarded_tools, load_tool

DECLARED = """---
name: director
model: gpt-5-mini
max_turns: 2
tools:
  generate_video: {once: per_request}
  send_postcard: {once: per_request}
---
You act.
"""
WRITER = "---\nname: caption_writer\nmodel: gpt-5-mini\nmax_turns: 1\n---\nYou write.\n"


@function_tool
async def send_postcard(text: str) -> str:
    """Send a postcard."""
    return text


@pytest.fixture
def postcard(monkeypatch):
    module = ModuleType("tools.send_postcard")
    module.send_postcard, module.guard_spec = send_postcard, generate_video.guard_spec
    module.recorded = generate_video.recorded
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(TOOLS, "send_postcard", "writes")
    monkeypatch.setattr(exporter, "_TOOL_NAMES", set())
    return load_tool("send_postcard")


@dataclass
class Zenith:
    config: providers.ProviderConfig
    name: str = "zenith"


@pytest.fixture
def zenith(monkeypatch):
    module = ModuleType("zenith_adapter")
    module.from_config = Zenith
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(providers.PROVIDERS, "zenith", module.__name__)
    return module


def span_name(name):
    return exporter.scrub(ReadableSpan(name)).name


def test_a_tool_of_the_registry_can_be_declared_and_is_guarded(tmp_path, postcard):
    """A declaration may name it, and the agent gets it behind its guard."""
    (tmp_path / "director.md").write_text(DECLARED)
    (tmp_path / "caption_writer.md").write_text(WRITER)
    offer = SimpleNamespace(price_list=lambda: "", capabilities=SimpleNamespace(sizes=(), avoids=False))
    factory = AgentFactory(load_declarations(tmp_path), None, None, None, None, offer, None)
    tools = {tool.name: tool for tool in factory.agent("director", "en").tools}
    assert list(tools) == [generate_video.NAME, postcard.name]
    assert len(tools[postcard.name].tool_input_guardrails) == 1


def test_a_tool_of_the_registry_has_its_own_name_in_metrics_and_spans(postcard):
    """Nothing becomes `other` in silence: only what is in no registry does."""
    declare_names()
    for name in (postcard.name, "made_up"):
        metrics.DECISIONS.add(tool=name, decision="quota", layer="redis")
    text = metrics.exposition()
    assert value(text, metrics.DECISIONS.name, tool=postcard.name, decision="quota", layer="redis") == 1
    assert value(text, metrics.DECISIONS.name, tool=postcard.name, decision="budget", layer="redis") == 0
    assert b"made_up" not in text
    assert span_name(f"execute_tool {postcard.name}") == f"execute_tool {postcard.name}"
    assert span_name(f"execute_tool {quota_left.NAME}") == f"execute_tool {quota_left.NAME}"
    assert span_name("execute_tool made_up") == "execute_tool other"


def test_a_provider_of_the_registry_can_be_chosen(zenith, tmp_path):
    """VIDEO_PROVIDER takes its name, and its module is given what is configured."""
    (tmp_path / "prices.yaml").write_text(
        "{priced_on: 2026-11-22, source: here, models: {a: {seconds: [4], per_second: {720x1280: '$0.10'}}}}"
    )
    settings = Settings(
        _env_file=None, video_provider="zenith", video_api_key="k", video_prices=tmp_path / "prices.yaml"
    )
    made = choose_provider(settings)
    price = ModelPrice(seconds=(4,), per_second={"720x1280": Money.parse("$0.10")})
    assert made.config == providers.ProviderConfig(
        api_key="k", prices=PriceList(priced_on=date(2026, 11, 22), source="here", models={"a": price})
    )
    assert "'k'" not in repr(made.config)


def test_a_provider_of_the_registry_has_its_own_name_in_metrics(zenith):
    """Its series begin at zero under its name."""
    declare_names()
    metrics.VIDEOS_STARTED.declare(provider="zenith", model="zenith-1")
    metrics.GENERATION.record(7, provider="zenith")
    text = metrics.exposition()
    assert value(text, metrics.VIDEOS_STARTED.name, provider="zenith", model="zenith-1") == 0
    assert value(text, f"{metrics.GENERATION.name}_count", provider="zenith") == 1


@pytest.mark.parametrize("name", providers.PROVIDERS)
def test_every_provider_can_be_chosen_or_says_what_is_missing(name):
    """Each line of the registry names a module that builds a provider of this name, or says what to set."""
    settings = Settings(_env_file=None, video_provider=name)
    with pytest.raises(SettingsError, match=f"VIDEO_PROVIDER {name}: .*(key|token|VIDEO_PRICES|base URL)"):
        choose_provider(settings)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_can_be_loaded(name):
    """Each line of the registry has a module with a function of its name, and a guard spec if needed."""
    assert load_tool(name).kind == TOOLS[name]


def test_contradicting_lines_are_refused():
    """A name that is not the function's, or a guard where there is nothing to guard, is refused."""
    with pytest.raises(ValueError, match="named 'send_postcard'"):
        ToolSpec("postcard", "writes", send_postcard, generate_video.guard_spec, generate_video.recorded)
    with pytest.raises(ValueError, match="unless it only reads"):
        ToolSpec("send_postcard", "writes", send_postcard)
    with pytest.raises(ValueError, match="unless it only reads"):
        ToolSpec("send_postcard", "reads", send_postcard, generate_video.guard_spec, generate_video.recorded)


def test_only_guarded_tools_are_counted():
    """A tool that only reads has no guard, so no verdicts."""
    assert set(TOOLS) - set(guarded_tools()) == {quota_left.NAME}
