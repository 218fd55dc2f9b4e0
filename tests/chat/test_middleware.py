"""The middleware of Bot API calls."""

import gc
import weakref

from aiogram.methods import GetMyCommands, Response, SendMessage

from chat.middleware import KeptResponses


async def test_the_model_of_an_answer_is_built_once():
    """pydantic drops a model that nothing refers to, and aiogram refers to none between two calls."""
    read_by = []

    async def make_request(_, method):
        model = Response[method.__returning__]
        read_by.append(weakref.ref(model))
        return model(ok=True)

    call = KeptResponses()
    for text in ("first", "second"):
        await call(make_request, None, SendMessage(chat_id=1, text=text))
        gc.collect()
    first, second = (ref() for ref in read_by)
    assert first is not None
    assert first is second


async def test_a_bot_has_it(app_env):
    """Answers to a running bot's calls are read by models that stay."""
    env = await app_env()
    await env.app.bot.get_my_commands()
    kept = weakref.ref(Response[GetMyCommands().__returning__])
    gc.collect()
    assert kept() is not None
