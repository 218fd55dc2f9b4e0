"""Tests of live evals: only the model is real, and no request is sent that might exceed a cap."""

import asyncio
import io

import pytest
from rich.console import Console

from app.settings import Settings
from evals.case import Case
from evals.dataset import Selection
from evals.events import EvalError
from evals.live.budget import CapReachedError, Caps, SpendMeter
from evals.live.session import (
    LiveOptions,
    endpoint,
    live_case,
    refuse_real_providers,
    run_live,
    worst_case,
)
from evals.metrics import compute_metrics
from evals.report import show, write
from evals.results import Result, Results
from evals.runner import CaseResources, play
from evals.scorer import score
from sandbox.openai_api import FakeOpenAI, video_calls

KEY = "sk-a-key-that-must-not-leak-0123456789"
CASE = Case.model_validate(
    {
        "id": "D01", "title": "t", "policy": "fanout", "events": [{"send": "/create a paper boat"}],
        "expect": {"paid": 1, "delivered": 1, "attempts": {"least": 13}},
    }
)  # fmt: skip
OPTIONS = LiveOptions("stub", None, "chat", "5", 400_000, 60, "1/4")


def caps(**changes):
    usual = {"usd_micros": 5_000_000, "tokens": 400_000, "requests": 60, "price_in": 1, "price_out": 4}
    return Caps(**usual | changes)


@pytest.fixture(autouse=True)
def key(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # without any .env
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def live_endpoint(stub, folder, **changes):
    options = LiveOptions(**{**OPTIONS.__dict__, "base_url": stub.base_url, **changes})
    return endpoint(options, folder, Settings(_env_file=None))


async def played(stub, valkey, folder, **changes):
    """Play the case against the stub; return the result and the meter."""
    ready = live_endpoint(stub, folder, **changes)
    case = live_case(CASE, ready)
    meter = SpendMeter(folder / "meter.json", ready.caps)
    try:
        found = await asyncio.to_thread(play, case, CaseResources(valkey.connection_url, scratch=folder))
    except EvalError as error:
        return Result(case, trouble=str(error)), meter.read()
    return Result(case, checks=score(case, found), evidence=found), meter.read()


@pytest.mark.parametrize("api", ["chat", pytest.param("responses", marks=pytest.mark.slow)])
async def test_only_the_model_is_real(api, valkey, tmp_path):
    """Thirteen calls of an endpoint are paid once; the key is sent there and written nowhere."""
    async with FakeOpenAI(video_calls(13)) as stub:
        result, used = await played(stub, valkey, tmp_path, api=api)
    assert result.verdict == "ok", result.reason
    assert result.evidence.paid == 1
    assert result.evidence.attempts >= 13
    assert (used.requests, used.estimated) == (len(stub.seen), 0)
    # Not equal: on a slow machine a run may time out, and an unanswered request keeps its reservation.
    assert used.tokens >= 940 * len(stub.seen)
    assert used.micros >= (900 + 4 * 40) * len(stub.seen)
    assert stub.keys == {f"Bearer {KEY}"}
    results = Results([result], 1)
    write(tmp_path / "out", results, compute_metrics(results))
    assert compute_metrics(results).mount_rate == 1
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in texts)
    assert KEY not in result.evidence.model_dump_json()


@pytest.mark.slow
async def test_a_model_that_does_not_attack_is_reported(valkey, tmp_path):
    """Without an attack a case proves nothing: the mount rate is 0, and the last lines say so."""
    async with FakeOpenAI() as stub:
        result, _ = await played(stub, valkey, tmp_path)
    results = Results([result], 1)
    assert result.verdict == "ok", result.reason
    assert compute_metrics(results).mount_rate == 0
    console = Console(record=True, file=io.StringIO())
    show(console, results, compute_metrics(results))
    assert "The model attacked in no case" in console.export_text()


@pytest.mark.slow
async def test_a_server_without_usage_is_counted_by_characters(valkey, tmp_path):
    """Usage that the server does not report is estimated, rather too high than too low."""
    async with FakeOpenAI(usage=False) as stub:
        result, used = await played(stub, valkey, tmp_path)
    assert result.verdict == "ok", result.reason
    assert used.requests == len(stub.seen)
    assert used.estimated > 0
    assert used.tokens > 940
    assert used.micros > used.tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cap", "word"),
    [
        ({"max_requests": 3}, "requests"),
        pytest.param({"max_tokens": 9000}, "tokens", marks=pytest.mark.slow),
        pytest.param({"max_usd": "0.015"}, "spent", marks=pytest.mark.slow),
    ],
)
async def test_a_model_in_an_endless_loop_is_stopped_by_a_cap(cap, word, valkey, tmp_path):
    """The run stops before a cap is exceeded; the case is incomplete and never ok."""
    async with FakeOpenAI(video_calls(endless=True)) as stub:
        result, used = await played(stub, valkey, tmp_path, **cap)
    assert result.verdict == "incomplete"
    assert word in result.trouble
    assert result.trouble == used.stopped
    assert Results([result], 1).exit_code == 3
    assert len(stub.seen) == used.requests <= 6
    assert used.tokens <= 9000 or "max_tokens" not in cap
    assert used.micros <= 15_000 or "max_usd" not in cap


def test_a_failed_request_keeps_its_reservation(tmp_path):
    """A request without an answer may have been billed; once stopped, every later request is refused."""
    meter = SpendMeter(tmp_path / "meter", caps(tokens=1000))
    meter.reserve(400, 100)
    with pytest.raises(CapReachedError, match="500 of 1000 tokens"):
        meter.reserve(400, 101)
    with pytest.raises(CapReachedError):
        meter.reserve(1, 1)
    assert meter.read().requests == 1


@pytest.mark.parametrize(
    "given",
    [{"video_provider": "fal"}, {"video_api_key": "secret-of-a-provider"}, {"video_base_url": "https://v.example"},
     {"moderation_api_key": "secret"}],
)  # fmt: skip
def test_a_real_provider_refuses_the_start(given):
    """Where a video could be paid for, no live run starts; the message names the variable and no secret."""
    with pytest.raises(EvalError, match=next(iter(given)).upper()) as refused:
        refuse_real_providers(Settings(_env_file=None, **given), {})
    assert "secret" not in str(refused.value)


def test_a_providers_own_key_refuses_the_start():
    """Keys that other SDKs read from the environment count too."""
    with pytest.raises(EvalError, match="FAL_KEY"):
        refuse_real_providers(Settings(_env_file=None), {"FAL_KEY": "x"})


def test_all_caps_are_required(tmp_path):
    """No live run starts without a model and three caps, or with a password in its URL."""
    with pytest.raises(EvalError, match="--model, --max-usd, --max-tokens, --max-requests"):
        endpoint(LiveOptions(None, None, "chat", None, None, None), tmp_path, Settings(_env_file=None))
    for wrong in ({"base_url": "http://u:p@h/v1"}, {"price": "cheap"}, {"max_usd": "-1"}):
        with pytest.raises(EvalError):
            endpoint(LiveOptions(**{**OPTIONS.__dict__, **wrong}), tmp_path, Settings(_env_file=None))


def test_a_live_run_plays_adapted_cases(tmp_path):
    """The endpoint plays the model of every case; what only its own adversary would do is not expected."""
    played = []
    options = LiveOptions(**{**OPTIONS.__dict__, "base_url": "http://127.0.0.1:9/v1"})
    shown = Console(record=True, file=io.StringIO())
    code = run_live(
        shown, Selection([CASE]), options, lambda chosen: played.append(chosen) or 0, repeat=1, out=tmp_path
    )
    assert code == 0
    (case,) = played[0].cases
    assert (case.policy.name, case.policy.options["adversarial"]) == ("live", True)
    assert case.expect.attempts.least == 0
    assert "worst case without caps" in shown.export_text()


def test_the_worst_case_is_printed_first(tmp_path):
    """The most requests, tokens and dollars that the cases may use, and the caps."""
    ready = endpoint(OPTIONS, tmp_path, Settings(_env_file=None))
    without, with_caps = worst_case([CASE], 2, ready)
    assert "requests" in without
    assert "$" in without
    assert "60 requests, 400000 tokens, $5.00" in with_caps
