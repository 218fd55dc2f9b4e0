"""A pytest plugin that plays the trials with one adapter.

python -m pytest -p bench.peers.plugin --adapter my_library.adapter:Mine --seeds 20
"""

import importlib.metadata
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.peers import trials
from bench.peers.adapter import Adapter
from bench.peers.place import Place, lines
from bench.peers.player import adapter_named
from bench.peers.stage import Stage, preload
from bench.peers.stores import servers
from bench.peers.words import RECEIPT, faults

POSTGRES = "ONETAKE_TEST_POSTGRES"
"""The variable that names a PostgreSQL server on which databases may be created."""


@dataclass
class Result:
    """One trial in one seed: what went wrong in effects and words, and how many answers gave the receipt."""

    trial: str
    seed: int
    effects: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    answers: int = 0
    receipts: int = 0
    seconds: float = 0


RESULTS = pytest.StashKey[list[Result]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("peers", "trials of a tool that costs money")
    group.addoption("--adapter", help="module:Class of the library that is tried")
    group.addoption("--seeds", type=int, default=20, help="how often each trial is played")
    group.addoption("--trials", default="", help="only these, by name")
    group.addoption("--peers-report", type=Path, help="write the results here, as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Load no conftest of another folder: the trials need none, and have no packages of others."""
    if getattr(early_config.known_args_namespace, "adapter", None):
        early_config.known_args_namespace.file_or_dir = [str(Path(trials.__file__))]


def pytest_configure(config: pytest.Config) -> None:
    """Collect the trials, and no other tests, where an adapter is named."""
    config.stash[RESULTS] = []
    if config.getoption("--adapter"):
        config.args[:] = [str(Path(trials.__file__))]
        path = str(config.getoption("--adapter"))
        root = str(Path(__file__).parents[2])
        os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        preload(path.partition(":")[0])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play each trial once per seed."""
    if not {"stage", "trial"} <= set(metafunc.fixturenames):
        return
    chosen = [name for name in str(metafunc.config.getoption("--trials")).split(",") if name]
    known = [*trials.TRIALS, *trials.EDGES]
    if unknown := set(chosen) - {trial.name for trial in known}:
        raise pytest.UsageError(f"no trial is called {', '.join(unknown)}; known: {[t.name for t in known]}")
    seeds = range(int(metafunc.config.getoption("--seeds")))
    fitting = [(trial, seed) for trial in known for seed in seeds if not chosen or trial.name in chosen]
    names = [f"{trial.name}-{seed}" for trial, seed in fitting]
    metafunc.parametrize(("trial", "seed"), fitting, ids=names)


@pytest.fixture(scope="session")
def adapter(request: pytest.FixtureRequest) -> type[Adapter]:
    """Return the class of the adapter."""
    return adapter_named(str(request.config.getoption("--adapter")))


@pytest.fixture(scope="session")
def machines(adapter: type[Adapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Start the servers that the adapter wants, once for all trials."""
    if "postgres" in adapter.wants and POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} names no PostgreSQL server")
    folder = tmp_path_factory.mktemp(f"{adapter.__name__.lower()}-{os.getpid()}")
    with servers(adapter.wants, folder, os.environ.get(POSTGRES, "")) as found:
        yield found


@pytest.fixture
def stage(
    request: pytest.FixtureRequest,
    adapter: type[Adapter],
    machines: dict[str, Any],
    trial: trials.Trial,
    seed: int,
    tmp_path: Path,
) -> Stage:
    """Set up one trial: empty stores, and a random generator that the seed and the trial make."""
    if trial in trials.EDGES and trial.name not in adapter.edges:
        pytest.skip(f"{adapter.__name__} has no {trial.name}")
    for server in machines.values():
        server.mend()
        server.empty()
    urls = {name: server.url for name, server in machines.items()}
    limits = {"quota": 5} if trial.name == "quota" else {"budget": 15} if trial.name == "budget" else {}
    place = Place(tmp_path, **urls, **limits)  # type: ignore[arg-type]
    path = str(request.config.getoption("--adapter"))
    chance = random.Random(f"{trial.name}-{seed}")
    return Stage(path, adapter, place, adapter.stores(place, machines), seed, chance)


@pytest.fixture
def verdict(
    request: pytest.FixtureRequest, stage: Stage, adapter: type[Adapter], seed: int
) -> Callable[[trials.Trial, trials.Wanted], None]:
    """Return the judge of one trial: it keeps the result and fails the test if anything is wrong."""
    began = time.monotonic()

    def judge(trial: trials.Trial, wanted: trials.Wanted) -> None:
        result = Result(trial.name, seed, seconds=round(time.monotonic() - began, 2))
        result.effects = _wrong_effects(stage, wanted)
        died = [f"a run died: {line['why']}" for line in lines(stage.place.folder / "died.jsonl")]
        result.words = [*faults(stage.place, store_was_hurt=stage.hurt), *died]
        said = [line["text"] for line in lines(stage.place.sentences)]
        result.answers, result.receipts = len(said), sum(1 for text in said if RECEIPT.search(text))
        request.config.stash[RESULTS].append(result)
        wrong = [*result.effects, *result.words]
        if wrong and trial.name in adapter.outside:
            pytest.xfail(f"outside its promise ({adapter.outside[trial.name]}): {wrong[0]}")
        if wrong:
            pytest.fail("\n".join(wrong), pytrace=False)

    return judge


def _wrong_effects(stage: Stage, wanted: trials.Wanted) -> list[str]:
    found = stage.effects()
    if isinstance(wanted, int):
        total = sum(found.values())
        return [] if total == wanted else [f"{total} effects, wanted {wanted}"]
    names = sorted({*found, *wanted})
    wrong = [
        f"{act} {item}: {found.get((act, item), 0)} effects, wanted {wanted.get((act, item), 0)}"
        for act, item in names
        if found.get((act, item), 0) != wanted.get((act, item), 0)
    ]
    return [*wrong, *stage.notes, *stage.hung]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report."""
    config = session.config
    where = config.getoption("--peers-report", None)
    if not where or not config.getoption("--adapter"):
        return
    kind = adapter_named(str(config.getoption("--adapter")))
    report = {
        "adapter": str(config.getoption("--adapter")),
        "packages": {name: _version(name) for name in kind.packages},
        "store": kind.store,
        "outside": dict(kind.outside),
        "edges": sorted(kind.edges),
        "results": [asdict(one) for one in config.stash[RESULTS]],
    }
    where.write_text(json.dumps(report, indent=1))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
