"""What is written among the cases: a new one can be read, and a name that would break them writes nothing."""

import shutil

import pytest

from evals.dataset import CASES, DatasetError, read_all, scaffold


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CASES, tmp_path / "cases")


@pytest.mark.parametrize("name", ["C99", "K98b", "B97-as-the-page-says"])
def test_a_new_case_is_read_with_all_others(folder, name):
    """What `python -m evals new` writes holds at once, and every other case stays."""
    before = read_all(folder)
    assert scaffold(name, folder).name.startswith(name[0].lower())
    assert sorted([*(case.id for case in before), name]) == [case.id for case in read_all(folder)]


@pytest.mark.parametrize("name", ["Cfoo", "c99", "C1", "C99B", "C99: x", "C99\n", "Z01", "*01", "", "C01"])
def test_a_name_that_no_case_may_have_writes_nothing(folder, name):
    """An id against the pattern, or one that is taken, would break every later command."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DatasetError, match=r"is no id of a case|C01 is there already"):
        scaffold(name, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
