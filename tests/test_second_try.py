"""CI's second try: it forgives a law that passes alone, and says so; it hides nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
from second_try import MOST

SCRIPT = Path(__file__).with_name("second_try.py")
_LAWS = """
import pathlib, pytest

@pytest.mark.parametrize("number", range({count}))
def test_law(number):
    {body}
"""
_WATCHED = f"""
import sys

sys.path.insert(0, {str(SCRIPT.parent)!r})
from second_try import Witness

def pytest_configure(config):
    config.pluginmanager.register(Witness(config))
"""
_TOO_MUCH = 'mark = pathlib.Path("tried"); charges = [1] * (2 - mark.exists()); mark.touch(); '
_TOO_LITTLE = 'mark = pathlib.Path("tried"); charges = [1] * mark.exists(); mark.touch(); '
_ONE = "\n    assert len(charges) == 1"
_SHAKY = 'mark = pathlib.Path(f"tried-{number}"); first = not mark.exists(); mark.touch(); assert not first'


@pytest.mark.parametrize(
    ("count", "body", "code", "said"),
    [
        (MOST, _SHAKY, 0, "PASSED ONLY AT THE SECOND TRY"),
        (MOST + 1, _SHAKY, 1, f"{MOST + 1} laws are written down as failed"),
        (1, "assert False", 1, "RED"),
        (1, "pass", 1, "0 laws are written down as failed"),
        (1, _TOO_MUCH + _ONE, 1, "RED: too much was sent or charged"),
        (1, _TOO_LITTLE + _ONE, 0, "PASSED ONLY AT THE SECOND TRY"),
    ],
    ids=["shaky laws pass, by name", "too many stay red", "a broken law stays red", "no list is no pass",
         "a charge too many has no second try", "a charge that was not there yet has one"],
)  # fmt: skip
def test_only_a_few_laws_that_pass_alone_are_forgiven(tmp_path, count, body, code, said):
    """Up to five failed laws are tried once more; the run is green only if all pass, and they are named."""
    (tmp_path / "test_laws.py").write_text(_LAWS.format(count=count, body=body))
    (tmp_path / "conftest.py").write_text(_WATCHED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    alone = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    subprocess.run([sys.executable, "-m", "pytest", "-q"], check=False, **alone)
    found = subprocess.run([sys.executable, SCRIPT], check=False, **alone)
    assert (found.returncode, said in found.stdout) == (code, True), found.stdout
    if code == 0:
        assert all(f"test_law[{number}]" in found.stdout.split(said)[1] for number in range(count))
