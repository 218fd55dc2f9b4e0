"""What the doctor says of a Redis: by its cause, and without stopping where it cannot see."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.application import App
from app.health import write_checks
from app.redis_check import check_redis_url
from ledger.models import VideoState as V
from tests.support.app_harness import open_app_env, wait_for_state
from tests.support.private_servers import RedisServer, free_port, private_redis, private_sentinel

pytestmark = pytest.mark.slow
PASSWORD = "pa/s?s#w@d"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis whose users need a password, and of which one may see and change no configuration."""
    with private_redis() as one:
        one.execute(
            "ACL", "SETUSER", "managed", "on", f">{PASSWORD}", "~{onetake}*", "~onetake*", "&onetake*",
            "+@all", "-@admin", "-info", "-config",
        )  # fmt: skip
        one.execute("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", "~*", "+@read", "+info", "+@connection")
        yield one


@pytest.mark.parametrize(
    ("user", "password", "health", "words"),
    [
        ("managed", PASSWORD, "look", ["takes writes", "INFO is forbidden", "noeviction"]),
        ("managed", "wrong", "ill", ["user or password is refused"]),
        ("reader", PASSWORD, "ill", ["lacks a right", "KEY_PREFIX"]),
    ],
)
async def test_acl_users(server: RedisServer, user: str, password: str, health: str, words: list[str]):
    """Who may not see the configuration is a remark; who may not write is ill. No password is shown."""
    found = await check_redis_url(f"redis://{user}:{password}@127.0.0.1:{server.port}/0", "onetake")
    assert found.health == health
    assert [word for word in words if word not in found.words] == []
    assert password not in found.words


async def test_the_app_runs_as_such_a_user(server: RedisServer, tmp_path: Path):
    """Where INFO and CONFIG are forbidden a command is one video, and the user has no right too few."""
    url = f"redis://managed:{PASSWORD}@127.0.0.1:{server.port}/0"
    async with open_app_env(tmp_path, url, settings={"key_prefix": "onetake"}) as env:
        await env.user().send("/create a lighthouse in a storm")
        await wait_for_state(env, V.DELIVERED, seconds=30)
        assert len(env.fake_provider.charges()) == 1
        await env.app.docket.add("notify", key="notify:tg:none")("tg:none")
        assert (await _http_ready(env.app)) == ["ledger", "redis"]


async def _http_ready(app: App) -> list[str]:
    for check in write_checks(app).values():
        await check.ready()
    return sorted(write_checks(app))


async def test_a_sentinel_is_named(server: RedisServer):
    """A Sentinel's port as redis:// is called that, with the URL to use; the right URL is well."""
    with private_redis() as master, private_sentinel(master, "mymaster", 1) as sentinel:
        wrong = await check_redis_url(f"redis://127.0.0.1:{sentinel.port}/0", "onetake")
        right = await check_redis_url(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0", "onetake")
        other = await check_redis_url(f"redis+sentinel://127.0.0.1:{sentinel.port}/nobody/0", "onetake")
    assert wrong.health == other.health == "ill"
    assert "redis+sentinel://HOST:PORT/MASTER/DB" in wrong.words
    assert "name no master" in other.words
    assert right.health == "well"


def _certificate(folder: Path) -> tuple[str, str]:
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", key, "-out", certificate,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


async def test_a_certificate_that_is_not_trusted_is_called_that(tmp_path: Path):
    """TLS works with a root of one's own; without it the words are of the certificate, not of silence."""
    key, certificate = _certificate(tmp_path)
    port = free_port()
    tls = {
        "tls-port": str(port), "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no",
    }  # fmt: skip
    with private_redis(**tls):
        trusted = await check_redis_url(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", "onetake")
        unknown = await check_redis_url(f"rediss://127.0.0.1:{port}/0", "onetake")
        plain = await check_redis_url(f"redis://127.0.0.1:{port}/0", "onetake")
    assert trusted.health == "well"
    assert (unknown.health, plain.health) == ("ill", "ill")
    assert "is not trusted" in unknown.words
    assert "ssl_ca_certs" in unknown.words
    assert "does not answer" in plain.words


async def test_a_broken_url_is_one_sentence():
    """It names REDIS_URL and no password."""
    found = await check_redis_url("hunter2", "onetake")
    assert found.health == "ill"
    assert "REDIS_URL" in found.words
    assert "hunter2" not in found.words
