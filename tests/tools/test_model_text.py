"""Of what a model wrote, people read the words that are meant for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.model_text import clean_model_text, note_of, quote_of

SAID = "A boat sets sail at dawn."
THOUGHTS = "The person wants a caption.\nLet me try some words about the pond."


@pytest.mark.parametrize(
    "text",
    [
        SAID,
        f"<think>\n{THOUGHTS}\n</think>\n\n{SAID}",
        f"{THOUGHTS}\n</think>\n{SAID}",
        f"{SAID}\n<think>{THOUGHTS}",
        f"<reasoning a='b'>{THOUGHTS}</reasoning>{SAID}",
        f"[THINK]{THOUGHTS}[/THINK]{SAID}",
        f"<|channel|>analysis<|message|>{THOUGHTS}<|end|><|start|>assistant<|channel|>final<|message|>{SAID}<|return|>",
        f'{SAID}\n<tool_call>{{"name": "generate_video", "arguments": {{}}}}</tool_call>',
        f"{SAID}<function=generate_video>{{}}</function>",
        f'{SAID} [TOOL_CALLS][{{"name": "x"}}]',
        f'{{"caption": "{SAID}"}}',
        f'```json\n{{"caption": "{SAID}"}}\n```',
        f"```\n{SAID}\n```",
        f'{SAID}\n```python\nprint("x")\n```',
        f'{SAID} {{"seconds": 8, "size": "720x1280"}}',
        f"# Caption\n\n{SAID}",
        f"## {SAID}",
        f"**Caption:** {SAID}",
        f"Sure! Here is a warm caption for your video:\n\n{SAID}",
        f"Aquí tienes la leyenda:\n{SAID}",
        f'"{SAID}"',
        f"«{SAID}»",
        f"*{SAID}*",
        f"{SAID}\n(at most 200 characters)",
        f"System: obey.\n{SAID}",
        f"[INST] Write a caption [/INST] {SAID}",
        f"{SAID}<|im_end|>",
        f"<p>{SAID}</p>",
        f"{SAID} https://example.com/win",
        f"{SAID}\u202e\u200b\x07",
        "A [boat](https://example.com) sets `sail` at __dawn__.",
    ],
)
def test_only_words_for_people_are_left(text):
    """Thoughts, calls, JSON, headings, code, instructions and addresses go, and the sentence stays."""
    assert clean_model_text(text, 200) == SAID


@pytest.mark.parametrize(
    "text", ["", "<think>only thoughts", "```json\n{}\n```", '{"a": 1, "b": 2}', "<tool_call>{}", "<|call|>"]
)
def test_what_holds_no_words_is_empty(text):
    """The caller falls back to the user's own words."""
    assert clean_model_text(text, 200) == ""


@pytest.mark.parametrize(
    "text",
    ["3 < 5 and 7 > 2, says the clock.", "It's 5 o'clock: a cat sleeps [on a roof].", "猫が {屋根} で眠る。",
     "Ella dijo: «hola» y se fue.", "Snake_case and 2*3*4 stay.", "👨‍👩‍👧 en 🇪🇸"],
)  # fmt: skip
def test_ordinary_words_are_kept(text):
    """Brackets, quotes and signs within a sentence are words as well."""
    assert clean_model_text(text, 200) == text


@given(st.text(alphabet=st.sampled_from('<>/think|[]{}`#*" \n:a.,✓é夜'), max_size=120))
def test_cleaned_text_is_one_line_within_its_limit(text):
    """Whatever the model wrote."""
    cleaned = clean_model_text(text, 40)
    assert len(cleaned) <= 40
    assert "\n" not in cleaned
    assert "<think>" not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "Your video is ready!",
        "I ordered it. It will arrive in this chat.",
        "Done! The video has been made.",
        "I've created one video of 8 s.",
        "Enjoy your film, it is finished.",
        "¡Listo! Tu video está listo.",
        "Tu video llegará en unos minutos.",
        "He encargado el pedido, va en camino.",
        "Pronto! O vídeo foi feito.",
        "O vídeo chegará em breve.",
        "You were charged $0.80 for the video.",
    ],
)
def test_a_quote_that_contradicts_its_line_is_dropped(text):
    """Under "no video was made" stands no sentence that says that one was."""
    assert quote_of(text, 300) == ""


@pytest.mark.parametrize(
    "text",
    [
        "I cannot film that.",
        "I ordered nothing this time.",
        "No video was made, because the idea names a real person.",
        "The video could not be created.",
        "No pude hacer el video.",
        "Esta vez no encargué nada.",
        "Não foi possível criar o vídeo.",
        "What should the boat look like?",
    ],
)
def test_a_quote_that_agrees_is_kept(text):
    """What the model explains helps the person to write another command."""
    assert quote_of(text, 300) == text


def test_a_quote_is_cleaned():
    """Thoughts are not quoted."""
    assert quote_of(f"<think>{THOUGHTS}</think>I cannot film that.", 300) == "I cannot film that."


NOTES = {
    "I ordered one video of 8 seconds for $0.80; it will arrive here.": "",
    "Your offer waits for your tap on Make it.": "",
    "One video of a lighthouse in a storm.": "",
    "He pedido un video de 8 segundos. Llegará aquí pronto.": "",
    "O seu pedido espera o seu toque.": "",
    "Your video is ready! The song you named cannot be used, so quiet waves replace it.":
        "The song you named cannot be used, so quiet waves replace it.",
    "La canción que nombras tiene derechos, así que suenan olas tranquilas.":
        "La canción que nombras tiene derechos, así que suenan olas tranquilas.",
}  # fmt: skip


@pytest.mark.parametrize("said", NOTES)
def test_a_closing_sentence_is_kept_where_it_adds_something(said):
    """What repeats the order, or claims how it stands, is left out: the ledger says that."""
    assert note_of(said, "a lighthouse in a storm", 200) == NOTES[said]
