"""Proxies that all tests of one session share: each takes a quarter of a minute to start."""

from collections.abc import Iterator

import pytest

from tests.support.litellm import LiteLLMProxy

_EVERY_FALLBACK = {
    name: [{"sora-2": ["other"]}]
    for name in ("fallbacks", "content_policy_fallbacks", "context_window_fallbacks")
}
CONFIGURATIONS = {
    "default": ({}, {}),
    "fallbacks": (
        {
            "litellm_settings": {"num_retries": 2, "default_fallbacks": ["other"]},
            "router_settings": {"num_retries": 2, **_EVERY_FALLBACK},
        },
        {"num_retries": 3},
    ),
    "limited": (
        {"router_settings": {"optional_pre_call_checks": ["enforce_model_rate_limits"]}},
        {"rpm": 1},
    ),
}


def _running(name: str, folders: pytest.TempPathFactory) -> Iterator[LiteLLMProxy]:
    changes, deployment = CONFIGURATIONS[name]
    proxy = LiteLLMProxy(folders.mktemp(f"litellm-{name}"), changes, deployment)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture(scope="session", params=["default", "fallbacks"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteLLMProxy]:
    """LiteLLM as its users begin; and one that tries again, and falls back to a second provider."""
    yield from _running(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def limited_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteLLMProxy]:
    """One that lets one request a minute pass."""
    yield from _running("limited", tmp_path_factory)
