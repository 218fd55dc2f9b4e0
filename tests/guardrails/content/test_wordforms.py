"""The forms that a phrase of the rules stands for."""

import pytest

from guardrails.content.wordforms import UnknownEndingsError, forms


@pytest.mark.parametrize(
    ("phrase", "language", "some"),
    [
        ("stab~vv", "en", ["stab", "stabs", "stabbed", "stabbing", "stabber"]),
        ("strangle~v", "en", ["strangles", "strangled", "strangling"]),
        ("bury~v", "en", ["buries", "buried", "burying"]),
        ("bab~y", "en", ["baby", "babies"]),
        ("corpse~", "en", ["corpse", "corpses"]),
        ("chic~o", "es", ["chico", "chicas", "chiquita"]),
        ("ahorc~ar", "es", ["ahorca", "ahorcó", "ahorque", "ahorcarlo", "ahorcándose", "ahorcadas"]),
        ("desvist~ir", "es", ["desviste", "desvistió", "desvistiéndose"]),
        ("fusil~s", "es", ["fusiles"]),
        ("menin~o", "pt", ["menino", "meninas", "menininha"]),
        ("degol~ar", "pt", ["degolou", "degolando", "degolados"]),
        ("{big|huge|} dog~", "en", ["big dog", "huge dogs", " dogs"]),
        ("{niñ{o|a}|nene} de {age}", "es", ["niña de 12", "nene de doce", "niño de 0"]),
        ("no marks", "any", ["no marks"]),
    ],
)
def test_a_phrase_stands_for_its_forms(phrase, language, some):
    """Endings, alternatives and ages are written out."""
    assert set(some) <= set(forms(phrase, language))


def test_ages_end_where_childhood_ends():
    """No form of an age is 18 or more, in digits or in words."""
    found = set(forms("{age}", "en"))
    assert {"0", "17", "seventeen"} <= found
    assert not {"18", "eighteen"} & found


@pytest.mark.parametrize("phrase", ["kill~ar", "{a|kill~x}"])
def test_unknown_endings_are_named(phrase):
    """An ending that the language does not have is an error that lists those that it has."""
    with pytest.raises(UnknownEndingsError, match="endings of 'en' are ~, ~v"):
        list(forms(phrase, "en"))
