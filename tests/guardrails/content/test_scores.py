"""A text with a child is refused unless it is plainly harmless; small signs add up."""

import pytest

from guardrails.content.policy import RulesJudge
from guardrails.content.rules import load_rules

RULES = """
category: minor
words:
  children: {en: [child]}
  adults: {en: [stranger, man]}
  places: {en: [van, bed]}
  secrets: {en: ["whisper*"]}
  weapons: {en: [knife]}
  play: {en: [kite, cake, picnic]}
  things: {en: [lamp, door, spoon]}
  grammar: {en: [sees, holds]}
scores:
  at-risk:
    near: [children]
    within: 10
    refused_at: 3
    points: {adults: 1, places: 1, secrets: 1, weapons: 3}
HARMLESS
"""
TURNED = "    harmless: [play]\n    ordinary: [things]\n    neutral: [grammar]\n    strange_at_most: 2\n"


def judge(folder, harmless: str):
    (folder / "own.yaml").write_text(RULES.replace("HARMLESS", harmless))
    return RulesJudge(load_rules(folder))


@pytest.fixture(scope="module")
def adding(tmp_path_factory):
    """Only adds up points."""
    return judge(tmp_path_factory.mktemp("adding"), "")


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """Asks for something harmless, too."""
    return judge(tmp_path_factory.mktemp("turned"), TURNED)


@pytest.mark.parametrize(
    ("idea", "word"),
    [
        ("a child and a knife", "refused"),  # one grave sign
        ("a child, a man, a van", "allowed"),
        ("a child, a man, a van, whispers", "refused"),  # three small ones of different kinds
        ("a child, a man, a stranger, a man, a man", "allowed"),  # a list counts once
        ("a man whispering in a van", "allowed"),  # without a child
        ("a child flies over hills and rivers and far mountains beyond a knife", "allowed"),  # far away
        ("a ch1ld and a kn1fe", "refused"),  # disguises are undone as elsewhere
    ],
)
def test_signs_of_different_kinds_add_up(adding, idea, word):
    """A grave sign or three small ones refuse, near a child alone."""
    assert adding.judge_sync(idea).word == word


@pytest.mark.parametrize(
    ("idea", "word"),
    [
        ("a child holds a kite", "allowed"),  # plainly harmless
        ("a child holds a lamp", "allowed"),  # without a point something ordinary is enough
        ("a child sees", "refused"),  # nothing speaks for it
        ("a man flies", "allowed"),  # nor has to, without a child
        ("a child, a bed, a kite", "allowed"),  # one harmless word for one point
        ("a child, a bed, a lamp", "refused"),
        ("a child, a bed, a lamp, a spoon", "allowed"),  # two ordinary words are one
        ("a child, a man, a bed, a kite", "refused"),
        ("a child, a man, a bed, a kite, a cake", "allowed"),
        ("a child, a knife, a kite, a cake, a picnic, a lamp", "refused"),  # nothing outweighs a grave sign
        ("a child frobs grobbing quuxes and a kite", "refused"),  # too much that no list knows
        ("a child frobs grobbing and a kite", "allowed"),
    ],
)
def test_a_child_needs_something_harmless(turned, idea, word):
    """Below the points too, what speaks for an idea must outweigh what speaks against it."""
    assert turned.judge_sync(idea).word == word


@pytest.mark.parametrize(
    ("idea", "word"),
    [("a man whispered to a child in a van", "refused"), ("a man whis to a child in a van", "allowed")],
)
def test_a_stem_begins_a_word(adding, idea, word):
    """A phrase that ends in `*` stands for every word that begins so."""
    assert adding.judge_sync(idea).word == word


LONG = """
In a sunlit backyard a boy of about seven kneels in the soft grass beside a weathered fence and inspects
a ladybug on his fingertip. The camera pushes in to a close-up, golden light filters through the leaves.
Behind him his little sister in a yellow sundress spins in circles, laughing. Their grandmother shells
peas on the porch. The ladybug lifts into the air and the boy follows it with his gaze. Warm palette.

Plano secuencia al amanecer en un pueblo de pescadores: una niña de ocho años con trenzas y un
impermeable rojo camina por el muelle con una canasta vacía. La cámara la sigue mientras saluda a un
perro viejo que duerme sobre una pila de cuerdas. Su abuelo la espera con una sonrisa y llena la canasta
de sardinas. Ella le da un abrazo y vuelven a casa, donde la madre ha preparado chocolate. Luz natural,
tonos cálidos.

Um menino de cabelos cacheados entra numa biblioteca antiga, iluminada por vitrais coloridos. Ele puxa um
livro enorme da prateleira e letras douradas formam um dragão de papel que dança em volta dele. A câmera
gira enquanto o menino ri e tenta tocar as asas. Outras crianças aparecem, e de cada livro surgem barcos,
baleias, planetas e castelos. Todos se sentam no tapete para ouvir uma história. Animação 3D.
""".strip().split("\n\n")


@pytest.mark.parametrize("idea", LONG, ids=["en", "es", "pt"])
def test_a_long_idea_gathers_no_points(idea):
    """Small signs that are far from each other in a long description do not add up."""
    assert RulesJudge(load_rules()).judge_sync(idea).word == "allowed"
