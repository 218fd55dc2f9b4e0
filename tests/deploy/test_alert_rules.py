"""The alert rules name series that exist, link to pages that exist, and fire rightly on real output.

`promtool` comes with Debian's `prometheus`; where it is absent, the tests that need it say so.
"""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from app.application import declare_names
from app.processes import render_metrics
from bot import app
from evals.environment import PRICE
from ledger import transitions
from ledger.models import VideoState
from telemetry import semconv
from telemetry.metrics import VERDICTS, exposition
from tests.support.services import ROOT
from worker.tracing import EXPENSIVE, SLOW_S

FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is absent (Debian: apt-get install prometheus)"
)


def promtool(*args: str, cwd: Path = FOLDER) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *args], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def samples(text: bytes) -> list[tuple[str, dict[str, str], float]]:
    return [
        (one.name, one.labels, one.value)
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_series_of_a_rule_is_exposed(rule):
    """Each series and each label's word in a rule exists at /metrics before anything has happened: a rule
    with a misspelt name never fires.
    """
    declare_names()
    exposed = samples(exposition())
    known = {name for name, _, _ in exposed}
    for name, selector in re.findall(r"(onetake_[a-z_]+)(\{[^}]*\})?", rule["expr"]):
        base = name.removesuffix("_bucket")
        histogram = name.endswith("_bucket") and f"{base}_count" not in known
        assert name in known or histogram, name
        for label, how, words in re.findall(r'([a-z]+)(=~|!=|=)"([^"]*)"', selector):
            values = {labels.get(label) for found, labels, _ in exposed if found == name}
            assert set(words.split("|")) <= values, f"{name}: {label}{how}{words}, known {values}"


SPANS = {
    semconv.CREATE_VIDEO, semconv.PROCESS, semconv.SUBMIT, semconv.RECONCILE, semconv.PROVIDER_WORK,
    *(f"{semconv.GUARD} {word}" for word in VERDICTS),
    *(f"{semconv.ORDER} {state.lower()}" for state in VideoState),
}  # fmt: skip
"""Spans that a link may search for."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_links_to_a_trace_and_a_page(rule):
    """Each alert has a sentence, a search in Jaeger and a section of the runbook."""
    notes = rule["annotations"]
    known = ("none",) if rule["alert"] == "Watchdog" else ("page", "warn")
    assert rule["labels"]["severity"] in known
    search = parse_qs(urlsplit(notes["jaeger"]).query)
    assert notes["jaeger"].startswith("{{ $externalLabels.jaeger }}/search?")
    assert search["service"] == ["onetake-worker"]
    assert set(search.get("operation", [])) <= SPANS
    assert notes["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert notes["summary"]


def test_rules_and_spans_have_the_same_thresholds():
    """The rules call the same requests expensive and slow as the tags of spans."""
    rules = {rule["alert"]: rule["expr"] for rule in RULES}
    assert rules["CommandTooDear"].endswith(f"> {EXPENSIVE.micros // 1_000_000}")
    assert rules["TakeStuck"].endswith(f"> {SLOW_S:.0f}")


@needs_promtool
def test_the_rules_pass_their_own_tests():
    """promtool finds no fault, and each rule fires just over its threshold and not below."""
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def evaluated(folder: Path, before: bytes, after: bytes) -> set[str]:
    """Return the alerts that fire when /metrics shows `before` for an hour, then `after` for ten minutes."""
    older = {(name, tuple(sorted(labels.items()))): value for name, labels, value in samples(before)}
    series = []
    for name, labels, value in samples(after):
        key = (name, tuple(sorted(labels.items())))
        text = ",".join(f'{label}="{word}"' for label, word in sorted(labels.items()))
        was = f"{older[key]:g}x60 " if key in older else "_x60 "
        series.append({"series": f"{name}{{{text}}}", "values": f"{was}{value:g}x10"})
    asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "70m"}
    test = {
        "rule_files": [str(FOLDER / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [asked]}],
    }
    path = folder / "real.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    # With no samples expected, promtool names those that it got.
    return set(re.findall(r'alertname=\\?"(\w+)', done.stdout + done.stderr))


@pytest.mark.slow
@needs_promtool
async def test_a_good_run_fires_nothing(app_env, tmp_path):
    """The rules, asked about the real output before and after one video, keep quiet."""
    env = await app_env("thirteen")
    before = await render_metrics(env.app)
    _, video = await env.create()
    assert video.state is VideoState.DELIVERED
    # The model asked thirteen times: that twelve were prevented is worth an alert, and nothing else is.
    assert evaluated(tmp_path, before, await render_metrics(env.app)) <= {"ModelInsists", "Watchdog"}


@pytest.mark.slow
@needs_promtool
async def test_a_second_paid_job_pages(app_env, tmp_path):
    """A provider that lists a second job for one request: the real output of that run pages at once."""
    env = await app_env()
    before = await render_metrics(env.app)
    request, _ = await env.create()
    twice = {"event": "charge", "job": "a-second-job", "micros": PRICE.micros}
    env.fake_provider.write("charges.jsonl", twice)
    await transitions.adopt_job(env.app.ledger, request.request_id, "a-second-job", "test", PRICE)
    fired = evaluated(tmp_path, before, await render_metrics(env.app))
    assert {"RequestPaidTwice", "BreakerOpen"} <= fired


PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
RULE_FILE = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))
ALERTS = [rule for group in RULE_FILE["groups"] for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_runbook_section(rule):
    """The runbook of each rule is a heading of the page."""
    assert f"### {rule['alert']}\n" in PAGE
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_every_runbook_section_has_an_alert():
    """When a rule is removed, its section of the page is removed too."""
    assert set(re.findall(r"(?m)^### (\w+)$", PAGE)) == {rule["alert"] for rule in ALERTS}


def test_the_page_names_commands_that_exist():
    """Every `python -m bot WORD` and each of its options is a command's."""
    commands = get_command(app).commands
    for word, rest in re.findall(r"python -m bot ([a-z]+)([^`|\n]*)", PAGE):
        options = {one for param in commands[word].params for one in param.opts}
        assert set(re.findall(r"--[a-z]+", rest)) <= options, word


def test_what_the_page_links_to_is_there():
    """Links to files and to headings of this page lead somewhere."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    headings = {one.lower().replace(" ", "-") for one in re.findall(r"(?m)^#+ (.+)$", PAGE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings
