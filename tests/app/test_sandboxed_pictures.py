"""A person who tries the bot on their own machine sees their picture move, without a key or a setting."""

import pytest
from pydantic import SecretStr

from app.application import open_sandboxed_app
from app.processes import run_polling, run_worker, running
from app.settings import read_settings
from chat.i18n import translator
from guardrails.money import Money
from ledger.models import VideoState
from tests.support.app_harness import wait_for_state
from tests.support.crash_env import is_offer
from tests.support.pictures import photo
from worker.pictures import folder_of

EN = translator("en")


class Seen:
    """As much of an environment as `wait_for_state` asks."""

    def __init__(self, app):
        self.app = app

    async def latest(self, user_id: int = 1001):
        from ledger import requests

        found = await requests.list_for_user(self.app.ledger, user_id, 1)
        return found[0] if found else None


@pytest.mark.slow
async def test_a_picture_moves_in_the_sandbox(tmp_path):
    """From the photo to the preview of it; the picture is stored for a day, and in no job's folder."""
    settings = read_settings(_env_file=None, var_dir=tmp_path)
    async with (
        open_sandboxed_app(settings, tmp_path) as (app, api),
        running(run_polling(app), run_worker(app)),
    ):
        ana = api.user(1001, "Ana")
        await ana.photo("/create she waves at the camera, 4 seconds", data=photo(720, 1280))
        asked = await ana.wait_for(lambda one: EN("button_allow_picture") in one.button_texts, 60)
        await ana.tap(asked.id, EN("button_allow_picture"))
        offer = await ana.wait_for(is_offer, 60)
        await ana.tap(offer.id, EN("button_make", price=Money.parse("$1.50")))
        await wait_for_state(Seen(app), VideoState.DELIVERED, seconds=240)
        assert len(list(folder_of(app.settings.media, 1001).glob("*.jpg"))) == 1
        assert list((tmp_path / "provider").rglob("picture.jpg")) == []


@pytest.mark.parametrize(
    ("given", "used"),
    [({}, "unjudged"), ({"pictures": "judged"}, "judged"), ({"pictures": "off"}, "off")],
)
async def test_what_is_set_holds_in_the_sandbox_too(tmp_path, given, used):
    """Unset, pictures are used unjudged there; on a real Telegram only with a key."""
    settings = read_settings(_env_file=None, var_dir=tmp_path, **given)
    assert settings.picture_policy == given.get("pictures", "judged")
    async with open_sandboxed_app(settings, tmp_path) as (app, _):
        assert (app.chat.pictures, app.chat.picture_judge) == (used, None)


async def test_a_key_judges_in_the_sandbox_too(tmp_path):
    settings = read_settings(
        _env_file=None, var_dir=tmp_path, moderation_api_key=SecretStr("sk-a-moderation-key")
    )
    async with open_sandboxed_app(settings, tmp_path) as (app, _):
        assert app.chat.picture_judge is not None
