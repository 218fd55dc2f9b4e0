"""The provider of the tests is the provider of the evals: one oracle, in `sandbox.video_api`."""

from sandbox.video_api.charge_log import FakeProviderProcess, ProviderLog, clip, running_fake_provider
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY, SIGNATURE, ApiShape, Content, FakeJob, PostOutcome

__all__ = [
    "FAKE_KEY",
    "SIGNATURE",
    "ApiShape",
    "Content",
    "FakeJob",
    "FakeProvider",
    "FakeProviderProcess",
    "PostOutcome",
    "ProviderLog",
    "clip",
    "running_fake_provider",
]
