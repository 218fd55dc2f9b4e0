"""The wheel `onetake-guardrails`: the same folder, alone in an empty environment, and beside others."""

import re
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, CompletedProcess, run

import pytest

from tests.support.services import ROOT

PROJECT = ROOT / "packages" / "guardrails"
UV = [sys.executable, "-m", "uv"]
LOWEST = "0.18.3"

TEN_LINES = """
import asyncio, json
from agents.tool_context import ToolContext
from onetake_guardrails import DidNotHappen, Guard, Happened, SqlStore, current_key

effects = {}

async def ask_provider(key, arguments):
    return Happened(effects[key]) if key in effects else DidNotHappen()

async def main():
    guard = Guard(store=SqlStore("sqlite+aiosqlite:///guard.db"), namespace="shop")

    @guard.tool(once="per_request", key=lambda a: a.order_id, quota="5/day", budget="$15/day", cost="$3", verify=ask_provider)
    async def refund(ctx, order_id: str, amount: str) -> str:
        effects[current_key()] = f"refunded {order_id}"
        if amount == "lost":
            raise TimeoutError
        return effects[current_key()]

    async def call(order_id, amount):
        raw = json.dumps({"order_id": order_id, "amount": amount})
        request = guard.request(id="act-1", user="u1", context=None)
        context = ToolContext(request, tool_name="refund", tool_call_id="c", tool_arguments=raw)
        return await refund.on_invoke_tool(context, raw)

    print(await asyncio.gather(call("A", "lost"), call("B", "3"), call("A", "lost")), len(effects))
    await guard.close()

asyncio.run(main())
"""  # noqa: E501 - a program

Install = Callable[..., Path]


def uv(*arguments: str, cwd: Path | None = None) -> CompletedProcess[str]:
    done = run([*UV, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode and re.search(
        r"dns error|error sending request|failed to fetch", done.stderr, re.IGNORECASE
    ):
        pytest.skip("the package index cannot be had: the wheel was not installed")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as `uv build` does."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--out-dir", str(folder), cwd=PROJECT)
    return next(folder.glob("*.whl"))


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Install packages into an empty environment; gives its interpreter."""

    def make(*packages: str) -> Path:
        uv("venv", "--quiet", "--python", sys.executable, str(tmp_path / "env"))
        python = tmp_path / "env" / "bin" / "python"
        uv("pip", "install", "--quiet", "--python", str(python), *packages)
        return python

    return make


def played(python: Path, folder: Path) -> str:
    done = run([python, "-c", TEN_LINES], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


EXPECTED = "['refunded A', 'refunded B', 'refunded A'] 2"


def test_its_metadata_keeps_its_promises():
    """At most six requirements, none a pre-release, a range of the SDK; the version is in its changelog."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    needs = {re.split(r"[<>=]", one)[0]: one for one in project["dependencies"]}
    assert needs.keys() == {"openai-agents", "opentelemetry-api", "redis"}
    assert needs["openai-agents"].startswith(f"openai-agents>={LOWEST},<")
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    assert not [one for one in [*needs.values(), *extras] if re.search(r"\d(a|b|rc)\d", one) or "==" in one]
    assert f"## {project['version']}" in (PROJECT / "CHANGELOG.md").read_text("utf-8")
    assert (PROJECT / "LICENSE").read_text("utf-8") == (ROOT / "LICENSE").read_text("utf-8")
    assert (ROOT / "guardrails" / "py.typed").exists()


@pytest.mark.slow
def test_the_wheel_is_the_folder(wheel):
    """It has every file of guardrails/ under its import name, and nothing else."""
    folder = ROOT / "guardrails"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    packed = {one for one in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in one}
    assert packed == {f"onetake_guardrails/{one}" for one in files if "__pycache__" not in one}


@pytest.mark.slow
@pytest.mark.parametrize("sdk", [LOWEST, "newest"])
def test_ten_lines_in_an_empty_environment(wheel, install, tmp_path, sdk):
    """Installed alone with the lowest and the newest SDK, the ten lines take two effects for two items."""
    python = install(str(wheel), *([] if sdk == "newest" else [f"openai-agents=={sdk}"]))
    assert played(python, tmp_path) == EXPECTED


@pytest.mark.slow
def test_it_brings_at_most_six_distributions(wheel, install, tmp_path):
    """Beyond what openai-agents brings by itself."""
    python = install("openai-agents")
    before = uv("pip", "list", "--quiet", "--format", "freeze", "--python", str(python)).stdout.split()
    uv("pip", "install", "--quiet", "--python", str(python), str(wheel))
    after = uv("pip", "list", "--quiet", "--format", "freeze", "--python", str(python)).stdout.split()
    assert len(after) - len(before) - 1 <= 6


@pytest.mark.nightly
@pytest.mark.parametrize("other", ["openai-guardrails", "guardrails-ai"])
def test_it_lives_beside_packages_named_guardrails(wheel, install, tmp_path, other):
    """Both ship the import name `guardrails`; ours is `onetake_guardrails`, and the example plays."""
    python = install(str(wheel), other)
    assert played(python, tmp_path) == EXPECTED
    where = "import guardrails, onetake_guardrails; print(guardrails.__file__, onetake_guardrails.__file__)"
    done = run([python, "-c", where], stdout=PIPE, text=True, check=True, cwd=tmp_path)
    assert len(set(done.stdout.split()[-2:])) == 2
