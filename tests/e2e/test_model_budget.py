"""What models cost is in ledger, metrics and the run's span; a day's cap refuses the next run."""

import pytest

from chat.i18n import translator
from ledger import model_usage
from ledger.models import RequestState
from telemetry import semconv
from telemetry.metrics import exposition
from tests.support.metric_values import value
from tests.support.otlp import receiver, wait_for_traces

PRICES = """
priced_on: 2026-11-28
source: a test
models:
  rehearsal: {input: $100, output: $100}
"""


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("language", ["en", "es", "pt"])
async def test_a_cap_refuses_the_next_run(app_env, tmp_path, language):
    """The first run is counted; the second is refused in the user's language, and calls no model."""
    prices = tmp_path / "models.yaml"
    prices.write_text(PRICES)
    async with receiver() as collector:
        settings = {
            "model_prices": prices, "model_user_day_cap": "0.01",
            "otel_exporter_otlp_endpoint": collector.url,
        }  # fmt: skip
        env = await app_env(settings=settings, changes={"cooldown": None})
        before = value(exposition(), "onetake_model_tokens_total", kind="output")
        ana = env.user(language=language)
        await ana.send("/create a market at dawn")
        await env.wait_settled()
        (used,) = await model_usage.model_costs(env.app.ledger)
        assert (used.model, used.unpriced_calls) == ("rehearsal", 0)
        assert used.cost.micros == 100 * (used.input_tokens + used.output_tokens)
        assert value(exposition(), "onetake_model_tokens_total", kind="output") - before == used.output_tokens
        (trace,) = await wait_for_traces(collector)
        run = trace.one(semconv.PROCESS)
        assert float(run.tags[semconv.MODEL_COST]) == pytest.approx(used.cost.micros / 1e6, rel=1e-4)
        assert run.tags[f"{semconv.MODEL_TOKENS}.output"] == str(used.output_tokens)

        await ana.send("/create a harbour")
        (request, video), _ = await env.wait_settled(count=2)
        assert (request.state, request.reason, video) == (RequestState.REFUSED, "model_budget_user", None)
        said = translator(language)("refused_model_budget_user", when="").partition("<")[0]
        shown = await ana.wait_for(lambda bubble: said.strip() in bubble.text)
        assert shown
        assert await model_usage.model_costs(env.app.ledger) == [used]
        refused = next(
            one.one(semconv.CREATE_VIDEO)
            for one in await wait_for_traces(collector, 2)
            if one.one(semconv.CREATE_VIDEO).tags[semconv.REFUSED] == "true"
        )
        assert refused.tags[semconv.REFUSED_BY] == "ledger"
        assert refused.tags[semconv.REASON] == "model_budget_user"


async def test_a_cap_without_prices_is_refused_at_the_start():
    """A cap that could never be reached is a mistake."""
    from app.settings import SettingsError, read_settings

    with pytest.raises(SettingsError, match="MODEL_PRICES"):
        read_settings(_env_file=None, model_day_cap="5")
