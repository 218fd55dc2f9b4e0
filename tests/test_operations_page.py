"""docs/operations.md has a walk for every alert, and names commands that exist."""

import re

import pytest
import yaml
from services import ROOT
from typer.main import get_command

from bot import app

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_walk(rule):
    """The runbook of each rule is a heading of the page."""
    assert f"### {rule['alert']}\n" in PAGE
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_no_walk_is_without_its_alert():
    """A rule that was taken away takes its walk with it."""
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
