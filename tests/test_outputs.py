"""Where a finished video may lie: what a provider names as its address is a stranger's word."""

import pytest

from providers.base import BadAsset
from providers.download import web_address

GOOD = "https://host/v.mp4?sig=1"


@pytest.mark.parametrize(
    "url", [None, 7, "", "/v.mp4", "ftp://host/v", "file:///etc/passwd", "https//host", "http://["]
)
def test_what_is_no_address_is_not_asked(url):
    """Neither a path nor a broken URL nor another protocol is fetched, on loopback neither."""
    for secure in (True, False):
        with pytest.raises(BadAsset):
            web_address(url, secure=secure)


def test_a_video_is_fetched_over_https_alone():
    """Plain http is for an API that is itself spoken to so: a server on loopback."""
    assert web_address(GOOD, secure=True) == GOOD
    assert web_address("http://127.0.0.1:1/v", secure=False)
    with pytest.raises(BadAsset):
        web_address("http://host/v.mp4", secure=True)
