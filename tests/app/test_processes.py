"""What a process says at its start of the accounts that it has."""

from types import SimpleNamespace

from app.processes import ask_providers
from evals.environment import FAKE_KEY, prices
from guardrails.money import Money
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from sandbox.video_api.openai import FakeProvider


async def test_a_start_says_where_orders_cannot_be_placed(tmp_path, capsys):
    """A wrong key and a server that is not there are said, each with its account; a good key is not."""
    dialect, listed = DIALECTS["openai"], prices(Money.parse("$0.10"))
    async with FakeProvider(tmp_path / "provider", shape="openai") as server:
        good = OpenAICompat(server.base_url, FAKE_KEY, dialect, listed)
        wrong = OpenAICompat(server.base_url, "sk-wrong-key-0123456789", dialect, listed)
        away = OpenAICompat("http://127.0.0.1:1/v1", FAKE_KEY, dialect, listed)
        accounts = {one.account: one for one in (good, wrong, away)}
        await ask_providers(SimpleNamespace(worker=SimpleNamespace(providers=accounts)))  # type: ignore[arg-type]
        for one in accounts.values():
            await one.close()
        assert server.posts() == []
    said = capsys.readouterr().out
    assert good.account not in said
    assert wrong.account in said
    assert away.account in said
    assert "VIDEO_API_KEY is not accepted" in said
    assert "sk-wrong-key" not in said
