"""One version: the command, the metric, the project and the image say the same."""

import re
import tomllib

import pytest
from typer.testing import CliRunner

from app.application import declare_names
from bot import app as commands
from ledger.migrate import newest_revision
from telemetry.metrics import exposition
from telemetry.version import VERSION
from tests.support.deploy_files import read_compose
from tests.support.metric_values import value
from tests.support.services import ROOT


def test_the_command_prints_the_version():
    """`--version` needs no settings and names version, schema and Python."""
    found = CliRunner().invoke(commands, ["--version"], env={"HTTP_PORT": "no number"})
    assert found.exit_code == 0
    assert re.fullmatch(
        rf"OneTake {VERSION} \(ledger schema {newest_revision()}, Python 3\.\S+\)\n", found.output
    )


def test_the_metric_names_the_version():
    """`onetake_build_info` is 1 for what runs."""
    declare_names()
    text = exposition()
    assert value(text, "onetake_build_info", version=VERSION, schema=newest_revision()) == 1


def test_the_project_has_no_other_version():
    """pyproject.toml reads it from the code, so does the image's tag; the changelog has its heading."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    source = project["tool"]["hatch"]["version"]
    [found] = re.findall(source["pattern"], (ROOT / source["path"]).read_text("utf-8"))
    assert found == VERSION
    assert {one.image for one in read_compose().ours.values()} == {f"onetake:{VERSION}"}
    assert read_compose(ONETAKE_VERSION="9.9.9").services["bot"].image == "onetake:9.9.9"
    release = VERSION.partition(".dev")[0]
    assert f"\n## {release} " in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("pattern", [r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?"])
def test_the_version_is_a_tag(pattern):
    """PEP 440 and a registry both take it."""
    assert re.fullmatch(pattern, VERSION)
