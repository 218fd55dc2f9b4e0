"""Tests of what a preview shows: the subjects of an idea, and only the places that its words name."""

from pathlib import Path

import pytest
from PIL import ImageChops

from sandbox.renderer import subjects
from sandbox.renderer.drawing import Lettering
from sandbox.renderer.subjects import MOST, motion_of, subjects_of

IDEAS = [
    row.split("\t")
    for row in Path(__file__).with_name("ideas.tsv").read_text("utf-8").splitlines()
    if not row.startswith("#")
]


@pytest.mark.parametrize(
    ("subject", "idea"), [pair for pair in IDEAS if pair[0] != "-"], ids=[i for s, i in IDEAS if s != "-"]
)
def test_the_subject_is_the_main_actor(subject, idea):
    """What was judged as a right picture of an ordinary idea is drawn, and first."""
    assert subjects_of(idea).actors[:1] == (subject,)


def test_the_subject_of_most_ordinary_ideas_is_drawn():
    """At least 60 of 100 ordinary ideas, judged strictly, show their subject."""
    drawn = [idea for subject, idea in IDEAS if subject != "-"]
    assert len(IDEAS) > 100
    assert len(drawn) / len(IDEAS) >= 0.6


@pytest.mark.parametrize(
    ("idea", "actors", "setting"),
    [
        ("tres gatitos en una canasta", "🐈", ""),
        ("um cachorrinho e dois pássaros", "🐕🐦", ""),
        ("two wolves and three foxes in the snow", "🐺🦊", "snow"),
        ("a child's red balloon drifts over rooftops", "🎈🧒", "street"),
        ("un colibri en camara lenta", "🐦", ""),
        ("children build a snowman without snow", "🧒⛄", ""),
        ("un paseo sin lluvia con mi perro", "🐕", ""),
        ("Martin Luther King street sign", "", "street"),
        ("The Queen Elizabeth cruise ship", "🚢", "sea"),
        ("A Dog And A Cat", "🐕🐈", ""),
        ("una cometa roja sobre el mar", "🪁", "sea"),
        ("el pan de la abuela", "🍞👵", ""),
        ("a pan of rice", "🍚", ""),
        ("um menino marvado", "👦", ""),
        ("🐶 on a 🛹", "🐶🛹", ""),
        ("👩‍🍳 at work", "👩‍🍳", ""),
        ("a storm of paper letters", "✉", ""),
        ("Un Gato Negro en la Playa", "🐈‍⬛", "beach"),
        ("the sound of one thought", "", ""),
        ("", "", ""),
    ],
)
def test_words_choose_the_pictures(idea, actors, setting):
    """Plurals, diminutives, missing accents, possessives, names and negations in three languages."""
    found = subjects_of(idea)
    assert "".join(found.actors) == actors
    assert found.setting == frozenset(setting.split())


@pytest.mark.parametrize(
    ("idea", "setting"),
    [
        ("a fox in a quiet forest at night watching fireflies", "forest night fireflies"),
        ("un barco al atardecer en el mar", "sea dusk"),
        ("uma vila na montanha, neve caindo", "mountain snow"),
        ("an astronaut walks on the moon", "moon"),
        ("a marvellous marble", ""),
        ("a seafood dinner", ""),
        ("mata a saudade", ""),
    ],
)
def test_a_place_is_named_by_whole_words(idea, setting):
    """No place comes from a part of a word, and none where no word says one."""
    assert subjects_of(idea).setting == frozenset(setting.split())


def test_the_prompt_is_read_only_if_the_idea_names_nothing():
    """The first sentence of the prompt helps out; the director's instructions never become a picture."""
    assert subjects_of("something nice", "A whale in a bottle. Camera on a drone.").actors == ("🐋",)
    assert subjects_of("a cat", "A whale in a bottle.").actors == ("🐈",)


def test_a_scene_has_few_actors():
    """A list of ten animals shows three."""
    assert len(subjects_of("cat dog horse cow pig sheep goat duck fox wolf").actors) == MOST


def test_every_picture_that_a_word_leads_to_is_in_the_font():
    """No name leads to a picture that the font draws as nothing or as its box."""
    letters = Lettering(1)
    lexicons, motions = subjects._tables()
    pictures = {picture for one in lexicons.values() for picture in one.actors.values()}
    assert len(pictures) > 1000
    assert set(motions) <= pictures
    box = letters.picture("\U0010fffd", 24)
    for picture in pictures:
        drawn = letters.picture(picture, 24)
        assert drawn.getbbox() is not None, picture
        assert drawn.size != box.size or ImageChops.difference(drawn, box).getbbox(), picture


def test_what_flies_does_not_roll():
    """A picture moves as its thing does, and stays where nothing is known."""
    assert [motion_of(picture) for picture in "🦅⛵🚗🍕"] == ["fly", "swim", "roll", "bob"]
