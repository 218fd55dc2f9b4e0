"""URLs of Redis: odd passwords, Sentinels."""

import pytest

from guardrails.redis_url import RedisUrlError, host_of, normalize, parse_sentinel_url, with_option


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pa/ss@h:1/0", "redis://:pa%2Fss@h:1/0"),
        ("redis://u:p@ss?x#/y@h:1/0?socket_timeout=4", "redis://u:p%40ss%3Fx%23%2Fy@h:1/0?socket_timeout=4"),
        ("redis://u:p%40ss@h/0?a_b=x@y", "redis://u:p%40ss@h/0?a_b=x@y"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_a_password_may_be_typed(url: str, normal: str):
    """What separates the parts of a URL is encoded; what is encoded stays."""
    assert normalize(url) == normal
    assert normalize(normal) == normal


def test_a_sentinel_url_is_read():
    """Hosts with and without ports, IPv6, master, database, credentials of both."""
    found = parse_sentinel_url(
        "rediss+sentinel://u:p/w@a:1,[::1]:2,c/mymaster/3?sentinel_password=a@b&max_connections=4&ssl_cert_reqs=none"
    )
    assert found.sentinels == (("a", 1), ("::1", 2), ("c", 26379))
    assert (found.master, found.db) == ("mymaster", 3)
    assert found.options == {
        "username": "u", "password": "p/w", "max_connections": 4, "ssl": True, "ssl_cert_reqs": "none",
    }  # fmt: skip
    assert found.sentinel_options == {"password": "a@b", "ssl": True, "ssl_cert_reqs": "none"}
    assert "p/w" not in repr(found)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis+sentinel://a:1", "master"),
        ("redis+sentinel://a:1/m/x", "'x'"),
        ("redis+sentinel://a:99999/m", "'a:99999'"),
        ("redis+sentinel://:hunter2@/m", "address of a Sentinel"),
        ("http://hunter2", "redis+sentinel"),
        ("hunter2", "7 characters"),
    ],
)
def test_a_wrong_url_is_one_sentence(url: str, word: str):
    """It says what is wrong, without a password."""
    with pytest.raises(RedisUrlError) as error:
        parse_sentinel_url(url)
    assert word in str(error.value)
    assert "hunter2" not in str(error.value)


def test_an_option_replaces_one_of_its_name():
    """The others stay as they are."""
    assert with_option("redis://:a/b@h/0?x_y=1&db=2", "db", "3") == "redis://:a%2Fb@h/0?x_y=1&db=3"


def test_a_host_may_be_shown():
    """No user, no password, no options."""
    assert host_of("redis://u:p/w@h:1/0?password=x") == "h:1"
    assert host_of("redis+sentinel://u:p@a:1,b:2/m/0") == "a:1,b:2"
