"""Bugs at the model's endpoint: its answers as they came, its refusals as failures, its time without end."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from agents import ModelRetrySettings, RetryPolicyContext

from tools import model_endpoint
from tools.context import RunContext
from tools.text import trimmed


@contextmanager
def answers_as_they_came() -> Iterator[None]:
    """Hand answers to the SDK in the shape in which the endpoint sent them."""
    with patch.object(model_endpoint, "_api_of", lambda _: None):
        yield


@contextmanager
def refusal_is_failure() -> Iterator[None]:
    """Take every end of a run for a failure that another attempt may mend."""
    with patch.object(model_endpoint, "failure_of", lambda _: "model"):
        yield


@contextmanager
def text_as_written() -> Iterator[None]:
    """Show people what the model wrote as it wrote it."""
    with (
        patch("tools.generate_caption.clean_model_text", trimmed),
        patch("worker.run_agent.quote_of", trimmed),
    ):
        yield


@contextmanager
def never_repeated() -> Iterator[None]:
    """Repeat no request to the endpoint, so that one 429 ends the attempt."""
    with patch.object(model_endpoint, "retries_of", lambda _: ModelRetrySettings(max_retries=0)):
        yield


@contextmanager
def repeated_after_the_order() -> Iterator[None]:
    """Repeat requests to the endpoint although the order is stored."""
    build = model_endpoint.retries_of

    def forgetful(run: RunContext) -> ModelRetrySettings:
        settings = build(run)
        policy = settings.policy

        def repeated(context: RetryPolicyContext) -> bool:
            order, run.order = run.order, None
            try:
                return bool(policy and policy(context))
            finally:
                run.order = order

        return ModelRetrySettings(max_retries=settings.max_retries, policy=repeated)

    with patch.object(model_endpoint, "retries_of", forgetful):
        yield
