"""What runs elsewhere: the hosted CI, .ci/ without any server, deploy/digests.sh with a docker of ours."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.deploy_files import DEPLOY, read_compose
from tests.support.services import ROOT


def test_hosted_ci_runs_what_a_submission_runs():
    """The oldest Python that the project takes and a newer one, on both systems, with .ci/run alone."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["ci"]
    matrix = job["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    oldest, *newer = matrix["python"]
    assert project["requires-python"] == f">={oldest}"
    assert newer
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert workflow["permissions"] == {"contents": "read"}
    assert job["strategy"]["fail-fast"] is False


def test_what_cannot_be_had_is_named(tmp_path):
    """On a machine without apt and without any server, as macOS, .ci/ goes on and names what is absent."""
    bash = shutil.which("bash")
    (tmp_path / "bin").mkdir()
    for name in ("mktemp", "ls", "sort", "tail", "rm", "id", "python3"):
        found = shutil.which(name)
        assert found
        (tmp_path / "bin" / name).symlink_to(found)
    installs = [
        line for line in (ROOT / ".ci/run").read_text("utf-8").splitlines() if line.startswith("install ")
    ]
    script = "\n".join(
        [
            "set -euo pipefail",
            f"source {ROOT}/.ci/services.sh",
            "trap stop_services EXIT",
            *(line.replace("/usr/lib/postgresql", "/nowhere") for line in installs),
            "ls() { return 2; }  # no PostgreSQL",
            "start_postgres",
            "start_redis",
            'printf "%s\\n" "${absent[@]:-nothing}"',
        ]
    )
    env = {"PATH": str(tmp_path / "bin"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [bash, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(installs)
    assert "caddy: the proxy's file was not tried by Caddy itself" in done.stdout


FAKE_DOCKER = """#!/bin/sh
# docker buildx imagetools inspect --format … IMAGE
for word in "$@"; do image=$word; done
case "$image" in %s) echo "no such manifest" ;; *) echo "sha256:$(printf %%064d ${#image})" ;; esac
"""


def pin(folder: Path, unknown: str = "-") -> subprocess.CompletedProcess[str]:
    """Run the script on a copy of deploy/, with a docker that gives each image a digest but one."""
    shutil.copytree(DEPLOY, folder / "deploy")
    docker = folder / "docker"
    docker.write_text(FAKE_DOCKER % unknown)
    docker.chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        [folder / "deploy/digests.sh"], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_every_image_is_pinned(tmp_path):
    """The file that is written puts the digest of each service's own image behind its tag."""
    done = pin(tmp_path)
    assert done.returncode == 0, done.stderr
    pinned = yaml.safe_load((tmp_path / "deploy/compose.digests.yaml").read_text("utf-8"))["services"]
    compose = read_compose()
    assert set(pinned) == set(compose.services)
    for name, one in compose.services.items():
        if one.build is not None:
            assert pinned[name]["build"]["args"]["PYTHON_IMAGE"].startswith(
                "python:3.11.14-slim-bookworm@sha256:"
            )
        else:
            assert pinned[name] == {"image": f"{one.image}@sha256:{len(one.image):064d}"}


@pytest.mark.parametrize("unknown", ["grafana*", "python*"])
def test_no_digest_is_invented(tmp_path, unknown):
    """Where docker gives none, the script names the image, fails, and leaves no file."""
    done = pin(tmp_path, unknown)
    assert done.returncode == 1
    assert "no digest in the answer of docker: no such manifest" in done.stderr
    assert not list((tmp_path / "deploy").glob("compose.digests*"))
