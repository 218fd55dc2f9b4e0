"""Cleans text of a model that people read: captions, and what the model is quoted to have said.

A model without a parser on its server leaves its thoughts, calls and template tokens in the text; others
wrap it in JSON, a code block, a heading or a preamble. What is left is plain words on one line.
"""

import json
import re
import unicodedata
from typing import Any, Final

from tools.text import storable, trimmed

MAX_CHARACTERS: Final = 8000
"""Longer text of a model is cut before it is cleaned."""

_BLOCK: Final = re.DOTALL | re.IGNORECASE
_WORDS: Final = r"think|thinking|thought|thoughts|reasoning|analysis|reflection|scratchpad"
_CALLS: Final = r"tool_call|tool_calls|function_call|function_calls|function|invoke|tools?|tool_response"
_HIDDEN: Final = tuple(
    re.compile(pattern, _BLOCK)
    for pattern in (
        rf"<({_WORDS})\b[^>]*>.*?(?:</\1>|\Z)",
        rf"\A.*</(?:{_WORDS})>",  # the template of the endpoint opened the thoughts
        r"\[think\].*?(?:\[/think\]|\Z)",
        r"◁think▷.*?(?:◁/think▷|\Z)",
        r"\A.*<\|channel\|>\s*final\s*(?:<\|message\|>)?",
        r"<\|channel\|>\s*(?:analysis|commentary).*?(?:<\|(?:end|return|call)\|>|\Z)",
        rf"<({_CALLS})\b[^>]*>.*?(?:</\1>|\Z)",
        r"\[TOOL_CALLS\].*\Z",
        r"\[INST\].*?(?:\[/INST\]|\Z)",
        r"<<SYS>>.*?(?:<</SYS>>|\Z)",
    )
)
"""Parts that are not for people: thoughts, calls, instructions."""

_MARKUP: Final = tuple(
    re.compile(pattern, _BLOCK)
    for pattern in (
        r"<\|[^<>|]{0,60}\|>",
        r"</?[A-Za-z][\w:-]*(?:\s[^<>]*)?/?>",
        r"https?://\S+",
    )
)
"""Template tokens, tags and addresses."""

_FENCE: Final = re.compile(r"```[\w-]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_HEADING: Final = re.compile(r"\s{0,3}#{1,6}\s")
_MARKS: Final = re.compile(r"(?<!\w)[*_~]{1,3}(?=\S)|(?<=\S)[*_~]{1,3}(?!\w)|`")
_LABEL: Final = re.compile(
    r"\s*(?:final\s+)?(?:caption|answer|output|response|assistant|t[ií]tulo|leyenda|pie de (?:foto|v[ií]deo)"
    r"|respuesta|legenda|resposta)\s*:\s*",
    re.IGNORECASE,
)
_INSTRUCTION: Final = re.compile(
    r"\s*(?:system|user|human|developer|instructions?|note|task|language of the user|characters?|word count"
    r"|instrucciones|nota|tarea|instruções|tarefa)\s*:.*|.*\bat most \d+ characters\b.*",
    re.IGNORECASE,
)
_PREAMBLE: Final = re.compile(
    r"\s*(?:sure|certainly|of course|okay|ok|here(?:'s| is| are)|claro|por supuesto|aqu[ií]|com certeza)\b"
    r"[^\n]{0,120}:\s*$",
    re.IGNORECASE,
)
_QUOTES: Final = ('""', "''", "“”", "«»", "„“", "‘’", "「」")
_KEPT: Final = frozenset({"\n", "\t", "\u200d", "\u200c", *map(chr, range(0xE0020, 0xE0080))})
"""White space; and joiners and tags, which emoji sequences and some scripts need."""


def clean_model_text(text: str, most: int) -> str:
    """Return what a model wrote for people, as plain words on one line of at most `most` characters.

    Empty if nothing of it is for people.
    """
    found = storable(text, MAX_CHARACTERS)
    for pattern in _HIDDEN:
        found = pattern.sub(" ", found)
    found = _LINK.sub(r"\1", _without_blocks(found))
    for pattern in _MARKUP:
        found = pattern.sub(" ", found)
    return trimmed(_unquoted(" ".join(_lines(found).split())), most)


def _without_blocks(text: str) -> str:
    """Return text without code blocks and JSON; a block that is the whole text is unwrapped first."""
    whole = _FENCE.fullmatch(text.strip())
    inner = whole[1] if whole else _FENCE.sub("\n", text)
    said = _only_text(inner.strip())
    return _without_json(inner) if said is None else said


def _only_text(text: str) -> str | None:
    """Return the one text that a JSON value holds: `{"caption": "…"}` is its caption."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and len(found) == 1:
        (found,) = found.values()
    return found if isinstance(found, str) else None


def _without_json(text: str) -> str:
    decoder, kept, at = json.JSONDecoder(), [], 0
    for opened in re.finditer(r"[{\[]", text):
        if opened.start() < at:
            continue
        value, end = _decode(decoder, text, opened.start())
        if isinstance(value, dict) or (isinstance(value, list) and value):
            kept.append(text[at : opened.start()])
            at = end
    return " ".join((*kept, text[at:]))


def _decode(decoder: json.JSONDecoder, text: str, start: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start


def _lines(text: str) -> str:
    """Return the lines that are for people, without Markdown."""
    lines = [line for line in text.splitlines() if line.strip() and not _INSTRUCTION.fullmatch(line)]
    said = [line for line in lines if not _HEADING.match(line) and not _PREAMBLE.fullmatch(line)]
    kept = said or [_HEADING.sub("", line) for line in lines if _HEADING.match(line)]
    plain = (_LABEL.sub("", _MARKS.sub("", line), count=1) for line in kept)
    return "".join(sign for sign in "\n".join(plain) if _is_shown(sign))


def _is_shown(sign: str) -> bool:
    return sign in _KEPT or unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Co")


def _unquoted(text: str) -> str:
    for opening, closing in _QUOTES:
        if len(text) > 2 and text[0] == opening and text[-1] == closing and closing not in text[1:-1]:
            return text[1:-1].strip()
    return text


_SENTENCE_END: Final = re.compile(r"[.!?…;]+(?:\s+|$)")
_CLAIM: Final = re.compile(
    # The thing, and that it exists or will: in any order within one sentence.
    r"(?=.*\b(?:videos?|vídeos?|clips?|films?|movies?|pel[ií]culas?|filmes?|it|order|pedido|encargo|lo|o)\b)"
    r".*\b(?:ready|made|done|finished|complete[d]?|created?|generat(?:ed|ing)|order(?:ed|ing)|rendered|rendering"
    r"|delivered|attached|queued|placed|charged|paid|(?:under|on (?:its|the)) ?way|being made|in progress"
    r"|will (?:arrive|be (?:ready|there|sent))|coming|enjoy"
    r"|list[oa]s?|hech[oa]s?|hice|cread[oa]s?|cre[ée]|generad[oa]s?|gener[ée]|encargad[oa]s?|encargu[ée]"
    r"|terminad[oa]s?|entregad[oa]s?|en (?:camino|marcha|proceso)|llegar[áa]|cobrad[oa]s?|disfr[úu]ta\w*"
    r"|pront[oa]s?|feit[oa]s?|fiz|criad[oa]s?|criei|gerad[oa]s?|gerei|encomendad[oa]s?|encomendei|entregue"
    r"|a caminho|em andamento|chegar[áa]|aproveite)\b",
    re.IGNORECASE | re.DOTALL,
)
_DENIAL: Final = re.compile(
    r"n[o']t\b|n’t\b|\b(?:no|nothing|never|none|cannot|unable|without|neither|nor|if|once|when|before"
    r"|nada|nunca|ning[úu]n\w*|sin|si|cuando|antes"
    r"|não|nenhum\w*|sem|se|quando)\b",
    re.IGNORECASE,
)


def quote_of(text: str, most: int) -> str:
    """Return what a model said under "no video was made, and nothing was charged"; empty if it claims else.

    A sentence that says that something was made, ordered or charged, and denies nothing, contradicts the line
    above the quote, which the ledger wrote.
    """
    said = clean_model_text(text, most)
    claims = (part for part in _SENTENCE_END.split(said) if _CLAIM.match(part) and not _DENIAL.search(part))
    return "" if next(claims, None) is not None else said


_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_NEW_WORDS: Final = 3
# Of a sentence that only repeats what the message above it says.
_COMMON_TEXT: Final = """
    about approve arrive asked been below cents chat coming confirm cost costs dollars done have here idea
    just make making message minutes offer order ordered please price prompt ready request seconds send
    shown soon take taps that there this tool video videos wait waiting waits when will with would your aquí
    aprobar apruebes botón cuesta cuando dólares enviar esperando espera está este idea hacer listo llegará
    mensaje minutos oferta pedido pide precio pronto puedes queda segundos solicitud solo tocar toques video
    vídeo aguarda aguardando aprovar aqui botão chegar custa dólares enviar espera este fazer ideia mensagem
    minutos oferta pedido pode preço pronto quando segundos solicitação toque tocar vídeo você
"""
_COMMON: Final = frozenset(_COMMON_TEXT.split())


def note_of(text: str, known: str, most: int) -> str:
    """Return what a model's closing sentences add to an order that was placed; empty if they add nothing.

    The message about the order says what is made at which price, and the ledger says how it stands. So a
    sentence that claims such things is left out, and one whose words are all in `known`: idea and prompt.

    Args:
        text: What the model said last.
        known: What the person reads or wrote anyway.
        most: Characters.
    """
    said = clean_model_text(text, MAX_CHARACTERS)
    heard = {word.lower() for word in _WORD.findall(known)} | _COMMON
    kept = []
    for match in re.finditer(r"[^.!?…;]+(?:[.!?…;]+|$)", said):
        part = match.group().strip()
        news = {word.lower() for word in _WORD.findall(part)} - heard
        claims = _CLAIM.match(part) and not _DENIAL.search(part)
        if len(news) >= _NEW_WORDS and not claims:
            kept.append(part)
    return trimmed(" ".join(kept), most)
