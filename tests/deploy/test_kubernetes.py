"""deploy/kubernetes: Kubernetes' own schemas take it, and it fits the app. No cluster runs here."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.secret_files import SUFFIX, secret_fields
from app.settings import Settings, read_settings
from bot import app as commands
from telemetry.version import VERSION
from tests.support.deploy_files import DEPLOY, read_compose, seconds
from tests.support.services import ROOT

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
OBJECTS: list[dict[str, Any]] = [
    one
    for name in KUSTOMIZATION["resources"]
    for one in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))
]


def named(one: dict[str, Any]) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """Return the specification of each pod, by its name."""
    found = {name: one["spec"]["template"]["spec"] for name, one in of_kind("Deployment").items()}
    for name, one in of_kind("CronJob").items():
        found[name] = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def container(pod: dict[str, Any]) -> dict[str, Any]:
    [found] = pod["containers"]
    return found


CONFIG: dict[str, str] = of_kind("ConfigMap")["onetake"]["data"]


@pytest.mark.parametrize("one", OBJECTS, ids=named)
def test_kubernetes_takes_it(one: dict[str, Any]):
    """The strict schema of the newest version that the library has: no unknown key, no wrong type."""
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_every_file_is_applied():
    """Each file is in the kustomization, and the image is of this version."""
    assert {path.name for path in FOLDER.iterdir()} == {"kustomization.yaml", *KUSTOMIZATION["resources"]}
    [image] = KUSTOMIZATION["images"]
    assert image["newTag"] == VERSION
    assert {container(pod)["image"] for pod in pods().values()} == {image["name"]}
    assert {named(one) for one in OBJECTS if one["kind"] == "Secret"} == set(), "secrets are in no file here"


def test_every_name_exists():
    """Volumes, claims, secrets, ports and labels that are used are there."""
    for name, pod in pods().items():
        assert container(pod)["envFrom"] == [{"configMapRef": {"name": "onetake"}}]
        volumes = {one["name"]: one for one in pod["volumes"]}
        assert {one["name"] for one in container(pod)["volumeMounts"]} == set(volumes), name
        claims = [one.get("persistentVolumeClaim", {}).get("claimName") for one in volumes.values()]
        assert {one for one in claims if one} <= set(of_kind("PersistentVolumeClaim"))
    service = of_kind("Service")["bot"]
    labels = of_kind("Deployment")["bot"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    [rule] = of_kind("Ingress")["bot"]["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert CONFIG["WEBHOOK_URL"] == f"https://{rule['host']}{path['path']}"


def test_its_variables_are_settings(tmp_path):
    """Each is read by app/settings.py and allowed there; each secret is a file of the mounted Secret."""
    secrets = {f"{name.upper()}{SUFFIX}" for name in secret_fields(Settings)}
    given = {name: value for name, value in CONFIG.items() if not name.startswith("OTEL_")}
    assert {name.lower() for name in given.keys() - secrets} <= set(Settings.model_fields)
    mounted = {one["mountPath"] for one in container(pods()["bot"])["volumeMounts"]}
    for name in given.keys() & secrets:
        assert given[name].rpartition("/")[0] in mounted
        assert given[name].rpartition("/")[2] == name.removesuffix(SUFFIX).lower().replace("_", "-")
    values = {"WEBHOOK_SECRET": "hook", "DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"}
    plain = {name.lower(): value for name, value in (given | values).items() if name not in secrets}
    assert read_settings(_env_file=None, **plain).worker == "apart"


def test_the_probes_ask_what_is_meant():
    """Liveness and start ask whether a restart helps, readiness whether the stores take a write."""
    for name in ("bot", "worker"):
        one = container(pods()[name])
        [port] = one["ports"]
        assert str(port["containerPort"]) == CONFIG["HTTP_PORT"]
        wanted = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
        assert {probe: one[probe]["httpGet"] for probe in wanted} == {
            probe: {"path": path, "port": port["name"]} for probe, path in wanted.items()
        }
        assert one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"] >= 600
        stop = pods()[name]["terminationGracePeriodSeconds"]
        assert stop == seconds(read_compose().services[name].stop_grace_period)


def test_its_commands_are_commands():
    """What runs is a command of bot.py, as in compose."""
    known = {one.name or one.callback.__name__ for one in commands.registered_commands}
    for name, pod in pods().items():
        one = container(pod)
        word = one["args"][0].partition("-m bot ")[2].split()[0] if "command" in one else one["args"][0]
        assert word in known, name


def test_nothing_runs_as_root():
    """As the image's own user, without privileges, on a file system that it cannot change."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    for name, pod in pods().items():
        user = pod["securityContext"]
        assert (user["runAsNonRoot"], f"USER {user['runAsUser']}:{user['runAsGroup']}" in dockerfile) == (
            True,
            True,
        )
        limits = container(pod)["securityContext"]
        assert limits["readOnlyRootFilesystem"], name
        assert limits["capabilities"] == {"drop": ["ALL"]}
        assert container(pod)["resources"]["limits"]["memory"]
        assert pod["automountServiceAccountToken"] is False
