"""What an idea asks for in plain words, in three languages; and what only seems so."""

import pytest

from tools.wishes import Wish, shape_of, wish_of

WISHES = {
    "a fox in the snow, 12 seconds": Wish(seconds=12),
    "a fox in the snow, 20 seconds long": Wish(seconds=20),
    "12s of rain, vertical video": Wish(seconds=12, shape="upright"),
    "un zorro, 8 segundos, en vertical": Wish(seconds=8, shape="upright"),
    "uma raposa na neve, 12 segundos, formato paisagem": Wish(seconds=12, shape="wide"),
    "a one minute video of rain in 16:9": Wish(seconds=60, shape="wide"),
    "un video cuadrado de un faro": Wish(shape="square"),
    "three videos of a lighthouse": Wish(several=True),
    "hazme dos videos de un faro": Wish(several=True),
    "faça três vídeos de um farol": Wish(several=True),
    "a fox for twelve seconds": Wish(seconds=12),
    "un zorro de ocho segundos": Wish(seconds=8),
    "uma raposa, doze segundos": Wish(seconds=12),
    "a fox without sound": Wish(sound=False),
    "a silent film of a fox": Wish(sound=False),
    "un zorro con sonido": Wish(sound=True),
    "uma raposa sem som, preto e branco": Wish(sound=False, look=True),
    "a fox as stop-motion": Wish(look=True),
    "un zorro en dibujos animados": Wish(look=True),
}
SCENES = (
    "an 80s synthwave car", "una fiesta de los 80s", "a 90s disco party", "0 to 100 in 3 seconds",
    "de 0 a 100 en 3 segundos", "a cake with 12 candles", "a boy of seven who takes a photo",
    "a portrait of an old sailor", "a square in Lisbon", "a wide river", "a clock at 12:30",
    "a silent forest", "the sound of rain", "from zero to a hundred in ten seconds",
    "un bosque mudo de nieve",
    "5 s or 10 s of rain", "los 2 gatos", "um retrato na parede",
)  # fmt: skip


@pytest.mark.parametrize("idea", WISHES)
def test_a_wish_is_read(idea):
    assert wish_of(idea) == WISHES[idea]


@pytest.mark.parametrize("idea", SCENES)
def test_a_scene_is_no_wish(idea):
    """A figure, a shape or a number that is part of what is to be seen; two lengths at once."""
    assert wish_of(idea) == Wish()


def test_a_size_has_a_shape():
    assert [shape_of(size) for size in ("720x1280", "1280x720", "720x720")] == ["upright", "wide", "square"]
