"""docs/reliability.md comes from a run: its generator counts what ran, and the page names what exists."""

import json
import re

import pytest
import reliability
from conftest import HOUSE
from reliability import GROUPS, Run, laws, page

PAGE = HOUSE / "docs" / "reliability.md"
LAW = re.compile(r"(?m)^- `(test_\w+)` ×(\d+):")
FAULT = "test_every_fault_costs_one_post_and_leaves_doubt"
RUNS = [
    Run("test_provider_contract", f"{FAULT}[openai_compat/sglang-cut]", True, 1),
    Run("test_hosts_contract", f"{FAULT}[fal-hang]", False, 1),
    Run("test_hosts_contract", "test_a_bad_download_leaves_no_file[fal-json]", True, 1),
    Run("test_crash_matrix", "test_a_worker_is_killed_at_each_step[woken-keyed]", True, 1),
    Run("test_crash_matrix", "test_a_worker_is_killed_between_post_and_answer[blind]", True, 1),
    Run("test_stores_sql", "test_a_deadlock_orders_once[postgresql]", True, 1),
]  # fmt: skip


def test_the_page_counts_what_ran(tmp_path):
    """Faults by provider and dialect, stores, crash points, the storm's figures; a broken law stands out."""
    storm = tmp_path / "soak.json"
    storm.write_text(json.dumps(
        {"command": "soak --seed 7", "figures": {"lost": 0}, "tried": {"redis cut": 3}, "ends": {"killed": 2}}
    ))  # fmt: skip
    text = page(RUNS, storm)
    assert "| `openai_compat/sglang` | 1 | 0 | 0 | 0 | 0 |" in text
    assert "| `fal` | 1 | 0 | 1 | 0 | 1 |" in text
    assert "| PostgreSQL | 1 | 0 |" in text
    assert "| `woken` | held | not run |" in text
    assert "| between the POST and its answer | not run | held |" in text
    assert "| lost | 0 |" in text
    assert "redis cut ×3" in text
    assert "| **all** | **6** | **5** | **1** |" in text


def test_every_group_is_run():
    """The files that the page speaks of exist, and `make reliability` runs them and no other."""
    recipe = (HOUSE / "Makefile").read_text("utf-8").partition("\nreliability:")[2].partition("\n\n")[0]
    asked = re.findall(r"tests/(test_[\w*]+)\.py", recipe)
    found = {path.stem for name in asked for path in (HOUSE / "tests").glob(f"{name}.py")}
    assert found == set(GROUPS)
    assert "--json" in recipe


@pytest.mark.parametrize("module", GROUPS)
def test_every_law_says_what_it_is(module):
    """A law on the page is a sentence, not a name."""
    assert all(said for _, said in laws(module))


@pytest.mark.skipif(not PAGE.exists(), reason="docs/reliability.md was not generated yet: make reliability")
def test_the_page_names_the_laws_that_exist():
    """The committed page lists the laws of today, each of which ran: else `make reliability` again."""
    listed = LAW.findall(PAGE.read_text("utf-8"))
    assert {name for name, _ in listed} == {name for module in GROUPS for name, _ in laws(module)}
    assert [name for name, times in listed if times == "0"] == []
    assert reliability.HEAD.strip() in PAGE.read_text("utf-8")
