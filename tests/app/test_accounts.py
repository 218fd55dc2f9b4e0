"""VIDEO_ACCOUNT and VIDEO_DRAIN: which account takes new orders, which ones finish theirs."""

import pytest

from app.accounts import collect_accounts
from app.application import choose_provider
from app.settings import SettingsError, read_settings
from providers.accounts import account_of, normalized

PRICES = "{priced_on: 2026-11-22, source: here, models: {a: {seconds: [4], per_second: {720x1280: '$0.10'}}}}"
SECRET = "sk-canary-1234567890"


def collected(folder, drain: str | None = None, **given):
    (folder / "prices.yaml").write_text(PRICES, encoding="utf-8")
    if drain is not None:
        (folder / "drain.yaml").write_text(drain, encoding="utf-8")
        given["video_drain"] = folder / "drain.yaml"
    settings = read_settings(
        _env_file=None, video_provider="openai_compat", video_base_url="https://new.example/v1",
        video_prices=folder / "prices.yaml", **{"video_api_key": SECRET} | given,
    )  # fmt: skip
    return collect_accounts(settings, choose_provider(settings))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://host/v1", "HTTPS://Host:443/v1/", True),
        ("http://host:80", "http://HOST/", True),
        ("https://[2001:DB8::1]:443/v1", "https://[2001:db8::1]/v1", True),
        ("https://host/v1", "https://host:8443/v1", False),
        ("https://host/v1", "http://host/v1", False),
        ("https://host/v1", "https://host/V1", False),
        ("https://host/v1", "https://other/v1", False),
    ],
)
def test_base_urls_are_compared_in_one_form(one, other, same):
    """Case of scheme and host, a default port and a last slash make no other account; all else does."""
    assert (normalized(one) == normalized(other)) is same
    assert (account_of("p", one, "k") == account_of("p", other, "k")) is same


def test_an_account_tells_no_key():
    """Provider, dialect and host can be read from it; the key cannot, and another key is another account."""
    found = account_of("openai_compat", "https://api.host/v1", SECRET, "inworld")
    assert found.startswith("openai_compat:inworld@api.host#")
    assert SECRET not in found
    assert (
        len({found, *(account_of("openai_compat", "https://api.host/v1", k, "inworld") for k in ("", "a"))})
        == 3
    )
    assert len(account_of("openai_compat", f"https://{'h' * 250}/v1", SECRET, "inworld")) <= 200


async def test_a_name_keeps_orders_over_a_rotated_key(tmp_path):
    """A named account stays the same under another key, and still knows what it was before it was named."""
    before = collected(tmp_path)
    named = collected(tmp_path, video_account="main")
    rotated = collected(tmp_path, video_account="main", video_api_key="another")
    assert named.primary.account == rotated.primary.account == "openai_compat:main"
    assert named.by_account[before.primary.account] is named.primary
    assert before.primary.account not in rotated.by_account
    for one in (before, named, rotated):
        await one.close()


async def test_drained_accounts_are_read(tmp_path, monkeypatch):
    """Each entry is an account of its own; its key comes from the environment, or from a file named there."""
    (tmp_path / "key").write_text("third-key\n", encoding="utf-8")
    monkeypatch.setenv("OLD_KEY", "second-key")
    monkeypatch.setenv("OLDER_KEY_FILE", str(tmp_path / "key"))
    found = collected(
        tmp_path,
        f"""
        - {{provider: openai_compat, base_url: "https://old.example/v1", api_key_env: OLD_KEY}}
        - {{provider: openai_compat, base_url: "https://old.example/v1", api_key_env: OLDER_KEY,
           dialect: inworld, prices: "{tmp_path}/prices.yaml", account: older}}
        """,
    )
    expected = {
        found.primary.account,
        account_of("openai_compat", "https://old.example/v1", "second-key", "openai"),
        account_of("openai_compat", "https://old.example/v1", "third-key", "inworld"),
        "openai_compat:older",
    }
    assert set(found.by_account) == expected
    assert found.primary.account == account_of("openai_compat", "https://new.example/v1", SECRET, "openai")
    await found.close()


@pytest.mark.parametrize(
    ("drain", "words"),
    [
        ("provider: fal", "no list of accounts"),
        ("- {provider: [", "not YAML"),
        ("- {provider: nobody}", "'nobody' is not known"),
        ("- {provider: openai_compat}", "entry 1"),
        ("- {provider: openai_compat, api_key: sk-canary-1234567890}", "api_key"),
        ("- {provider: openai_compat, base_url: 'https://h/v1', api_key_env: NOT_SET}", "NOT_SET_FILE"),
        ("- {provider: openai_compat, base_url: 'https://h/v1', dialect: klingon}", "klingon"),
        ("- {provider: openai_compat, base_url: 'https://h/v1', account: 'a b'}", "'a b'"),
        ("- {provider: openai_compat, base_url: 'https://new.example/v1', api_key_env: SAME}", "twice"),
    ],
)
def test_a_wrong_list_names_entry_and_field(tmp_path, monkeypatch, drain, words):
    """A list that cannot be used stops the start in one sentence, without what may be a secret."""
    monkeypatch.setenv("SAME", SECRET)
    with pytest.raises(SettingsError, match="VIDEO_DRAIN") as error:
        collected(tmp_path, drain)
    assert words in str(error.value)
    assert SECRET not in str(error.value)


def test_a_wrong_name_is_refused():
    """VIDEO_ACCOUNT is one word: it stands in tables and alerts."""
    with pytest.raises(SettingsError, match="VIDEO_ACCOUNT"):
        read_settings(_env_file=None, video_account="a b")
