"""Which model plays the agents: a real endpoint if a key is set, else the rehearsal model."""

from typing import Literal

from agents import Model, ModelProvider, OpenAIProvider
from openai import AsyncOpenAI

from sandbox.model import RehearsalModel


class RehearsalModels(ModelProvider):
    """Gives every agent the same rehearsal model, whatever name its declaration asks for."""

    def __init__(self, model: RehearsalModel | None = None) -> None:
        self.model = model or RehearsalModel()

    def get_model(self, model_name: str | None) -> Model:  # noqa: ARG002 - the interface names it
        return self.model


def choose_models(
    api_key: str | None, base_url: str | None = None, api: Literal["responses", "chat"] = "responses"
) -> ModelProvider:
    """Return the models of the endpoint that is configured; without a key, the rehearsal model.

    Model calls cost little and change nothing, so this client may retry.
    """
    if api_key is None:
        return RehearsalModels()
    client = AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=2, timeout=60)
    return OpenAIProvider(openai_client=client, use_responses=api == "responses")
