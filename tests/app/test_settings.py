"""Settings: an error names its variable, and no secret is printed."""

import re

import pytest

from app.settings import Settings, SettingsError, read_settings
from telemetry.redaction import redact
from tests.support.services import ROOT

EXAMPLE = ROOT / ".env.example"
SECRETS = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Remove every variable of the machine, and the .env of the folder."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_nothing_is_required():
    """Without any variable every part is embedded; an empty variable counts as not set."""
    settings = read_settings()
    assert settings.ledger_url == "sqlite:///var/ledger.db"
    assert (settings.telegram_bot_token, settings.video_provider) == (None, "local")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("HTTP_PORT", "http", "integer"),
        ("HTTP_PORT", "70000", "65535"),
        ("WORKER", "outside", "inside"),
        ("WORKER_CONCURRENCY", "0", "1"),
        ("LOG_LEVEL", "LOUD", "DEBUG"),
        ("ALLOWED_USERS", "1001,@ana", "@ana"),
        ("ADMINS", "-5", "user id"),
        ("ACCESS", "closed", "invite"),
        ("KEY_PREFIX", "a{b}", "pattern"),
        ("CLOCK_SHIFT", "60", "only 0"),
        ("VIDEO_PROVIDER", "sora", "local"),
        ("ADMIN_TOKEN", "short", "20 to 256"),
        ("ADMIN_TOKEN", "with spaces in it, which no header carries", "without spaces"),
        ("ALLOWED_USERS", ",", "leave it out"),
        ("ADMINS", " , ", "names nobody"),
        ("JAEGER_URL", "jaeger:16686", "http://"),
        ("TELEGRAM_API_URL", "api.telegram.org", "http://"),
        ("OPENAI_BASE_URL", "https://", "no host"),
        ("VIDEO_BASE_URL", "http://h:port/v1", "address"),
        ("MODERATION_BASE_URL", "http://[::1/v1", "address"),
        ("VIDEO_API_KEY", "key-with-a-line\nbreak", "line break"),
        ("DAY_COST_WARN", "500", "DAY_COST_PAGE"),
        ("TELEGRAM_BOT_TOKN", "1:x", "did you mean TELEGRAM_BOT_TOKEN"),
        ("REDIS_URI", "redis://h", "did you mean REDIS_URL"),
        ("ADMIN", "1001", "did you mean ADMINS"),
        ("WEBHOOK_URL", "https://example.org/hook", "WEBHOOK_SECRET"),
    ],
)
def test_bad_value_names_its_variable(monkeypatch, name, value, why):
    """The error is one sentence with the variable and what is allowed."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as error:
        read_settings()
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("url", "secret"), [("https://x.org/h", "no spaces"), ("x.org/h", "fine")])
def test_invalid_webhook_is_refused(monkeypatch, url, secret):
    """A secret with other characters, or an invalid address, is found before Telegram is called."""
    monkeypatch.setenv("WEBHOOK_URL", url)
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    with pytest.raises(SettingsError, match="WEBHOOK") as error:
        read_settings()
    assert secret not in str(error.value)


def test_secrets_stay_secret(monkeypatch):
    """A secret is in no error and in no printed settings."""
    for name in SECRETS:
        monkeypatch.setenv(name.upper(), "hunter2-hunter2-hunter2")
    assert "hunter2" not in repr(read_settings())
    monkeypatch.setenv("HTTP_PORT", "x")
    with pytest.raises(SettingsError) as error:
        read_settings()
    assert "hunter2" not in str(error.value)


def test_env_file_in_another_encoding_is_an_error(tmp_path):
    """A .env in another encoding is one sentence, not a traceback."""
    (tmp_path / ".env").write_bytes(b"KEY_PREFIX=\xff\xfe")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_settings()


def test_example_lists_every_variable():
    """.env.example names exactly the variables that exist, each once, all commented, without secrets."""
    found = re.findall(r"(?m)^#([A-Z_]+)=(.*)$", EXAMPLE.read_text("utf-8"))
    names = [name.lower() for name, _ in found]
    assert sorted(names) == sorted(Settings.model_fields)
    assert not re.findall(r"(?m)^[A-Z]", EXAMPLE.read_text("utf-8"))
    filled = {name.lower() for name, value in found if value} & SECRETS
    assert filled <= {"redis_url", "database_url"}


def test_example_shows_the_defaults():
    """Where .env.example shows a value that has a default, it shows that default."""
    for name, value in re.findall(r"(?m)^#([A-Z_]+)=(.+)$", EXAMPLE.read_text("utf-8")):
        default = Settings.model_fields[name.lower()].default
        if default not in (None, frozenset()):
            assert value == str(default).lower() if isinstance(default, bool) else str(default), name


def test_a_misspelt_name_in_the_file_is_found_too(tmp_path):
    """`.env` is read as the environment is."""
    (tmp_path / ".env").write_text("video_modle=tiny-1\n")
    with pytest.raises(SettingsError, match=r"VIDEO_MODLE .* did you mean VIDEO_MODEL"):
        read_settings()


def test_names_of_others_are_no_mistakes(monkeypatch):
    """Platforms set names that resemble ours beside ours, and prefixes are not ours alone."""
    monkeypatch.setenv("REDIS_URL", "redis://here")
    for name in ("REDIS_URI", "REDIS_PORT", "VIDEO_GID", "OPENAI_ORG_ID", "WORKER_PORT_80_TCP"):
        monkeypatch.setenv(name, "elsewhere")
    assert read_settings().redis_url is not None


def test_every_secret_is_hidden_by_value(monkeypatch):
    """Whatever shape a configured secret has, neither it nor its parts can be written any more."""
    given = {
        "VIDEO_API_KEY": "plainwordsecret",
        "REDIS_URL": "redis://:pass%2Fword%20one@host/0",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue-submarine,malformed-header-value",
        "WEBHOOK_SECRET": "hook_secret_value",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read_settings()
    forms = ("plainwordsecret", "pass/word one", "pass%2Fword%20one", "blue-submarine",
             "malformed-header-value", "hook_secret_value")  # fmt: skip
    for form in forms:
        assert redact(f"<{form}>") == "<***>"


def test_every_secret_can_be_in_a_file(monkeypatch, tmp_path):
    """NAME_FILE, from the environment or from .env, gives NAME, without the line break at its end."""
    for name in SECRETS:
        (tmp_path / name).write_text(f"hunter2-hunter2-hunter2-{name}\n")
        monkeypatch.setenv(f"{name.upper()}_FILE", str(tmp_path / name))
    monkeypatch.delenv("ADMIN_TOKEN_FILE")
    (tmp_path / ".env").write_text(f"admin_token_file={tmp_path / 'admin_token'}\nADMIN_TOKEN=\n")
    settings = read_settings()
    for name in SECRETS:
        assert getattr(settings, name).get_secret_value() == f"hunter2-hunter2-hunter2-{name}"
    assert "hunter2" not in repr(settings)
    assert redact("<hunter2-hunter2-hunter2-video_api_key>") == "<***>"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            {"ADMIN_TOKEN_FILE": "absent"},
            "ADMIN_TOKEN_FILE absent cannot be read (No such file or directory)",
        ),
        ({"ADMIN_TOKEN_FILE": "empty"}, "ADMIN_TOKEN_FILE empty is empty"),
        ({"ADMIN_TOKEN_FILE": "binary"}, "ADMIN_TOKEN_FILE binary cannot be read (it is not UTF-8)"),
        ({"ADMIN_TOKEN_FILE": "whole", "ADMIN_TOKEN": "a-token-of-some-length"}, "are both set"),
        ({"ADMIN_TOKEN_FILE": "short"}, "ADMIN_TOKEN: it opens the admin page"),
        ({"ADMIN_TOKEN_FIL": "whole"}, "did you mean ADMIN_TOKEN_FILE"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_said(monkeypatch, tmp_path, given, why):
    """One sentence names the variable and what is wrong; what the file holds is not in it."""
    files = {"empty": b"\n", "binary": b"\xff\xfe", "whole": b"hunter2-hunter2-hunter2", "short": b"hunter2"}
    for name, value in files.items():
        (tmp_path / name).write_bytes(value)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        read_settings()
    assert why in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_jaeger_has_an_address_for_people_and_one_for_the_bot():
    """Links use JAEGER_URL; the bot asks JAEGER_API_URL where its own way is another one."""
    people = read_settings(jaeger_url="https://traces.example.org")
    assert people.jaeger_query_url == "https://traces.example.org"
    both = read_settings(jaeger_url="https://traces.example.org", jaeger_api_url="http://jaeger:16686")
    assert (both.jaeger_url, both.jaeger_query_url) == ("https://traces.example.org", "http://jaeger:16686")
