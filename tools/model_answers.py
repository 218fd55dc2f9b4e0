"""Normalises answers of model endpoints, chat completions and responses, before the SDK reads them.

Compatible servers send calls in shapes at which the SDK raises before any guard runs: arguments as an object
or encoded twice, ids that are missing or repeated, names with a tail, calls inside the text. Each becomes a
valid call, or a call that a guard refuses in words. Nothing is guessed: a name is repaired only to a tool
that the request offered, and arguments are unwrapped but never changed.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import uuid4

Api = Literal["chat", "responses"]
Body = dict[str, Any]

_WITHHELD: Final = "The endpoint's content filter withheld the answer."
_DECLINED: Final = "The model declined to answer."
OWN_REFUSALS: Final = frozenset({_WITHHELD, _DECLINED})
"""Refusals that stand where the model wrote none itself: nothing that could be quoted."""
_BAD_GATEWAY: Final = 502
_ENCODINGS: Final = 3
"""How often arguments are decoded: once is right, twice was seen, thrice is generous."""
_MAX_NAME: Final = 64
_FENCE: Final = re.compile(r"\s*```[A-Za-z]*\s*(.*?)\s*```\s*", re.DOTALL)
_TEMPLATE_TOKENS: Final = re.compile(r"(?:\s|<\|[^<>|]{0,40}\|>|</?tool_call>)*")
_THOUGHTS: Final = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE
)
_CALL_OPEN: Final = re.compile(r"^[ \t]*<(tool_call|function_call)>", re.MULTILINE)
_CALL_IN_TEXT: Final = re.compile(
    r"<(tool_call|function_call)>\s*(.*?)\s*(?:</\1>|(?=<(?:tool_call|function_call)>)|\Z)", re.DOTALL
)
_REFUSED: Final = frozenset({"content_filter", "refusal", "safety", "prohibited_content"})
"""Ends of an answer that say that it was refused."""


class EndpointError(Exception):
    """An endpoint reported its own failure inside an answer with status 200.

    Attributes:
        status: The HTTP status that the answer should have had.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the answer reports a failure, status {status}")
        self.status = status


@dataclass
class _Conversation:
    """What a request offered and used: the tools' names, and the call ids so far."""

    tools: tuple[str, ...] = ()
    ids: set[str] = field(default_factory=set)

    def id_of(self, given: Any) -> str:
        """Return a call id that this conversation has not used: the given one if it can be kept."""
        found = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
        if not found.strip() or found in self.ids or clean_text(found) != found:
            found = f"call_{uuid4().hex[:24]}"
        self.ids.add(found)
        return found

    def name_of(self, given: Any) -> str:
        """Return the offered tool that a name stands for; else the name, in characters that may be sent."""
        text = given if isinstance(given, str) else ""
        if text in self.tools:
            return text
        meant = [name for name in self.tools if _contains_word(text, name)]
        if len(meant) == 1:
            return meant[0]
        return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:_MAX_NAME] or "unnamed"


def normalise(api: Api, asked: Any, answer: Any) -> Body:
    """Return an endpoint's answer in the shape that its API documents.

    Args:
        api: Which API was asked.
        asked: The request's JSON body.
        answer: The answer's JSON body; it may be changed in place.

    Raises:
        EndpointError: The answer is none: it has no choices, or reports a failure.
    """
    if not isinstance(answer, dict):
        raise EndpointError(_BAD_GATEWAY)
    conversation = _read_conversation(asked if isinstance(asked, dict) else {})
    return (_chat if api == "chat" else _responses)(answer, conversation)


def clean_text(text: str) -> str:
    """Return text that can be encoded: half a surrogate becomes U+FFFD, and two halves their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_conversation(asked: Body) -> _Conversation:
    names = (
        _dict(tool.get("function")).get("name") or tool.get("name") for tool in _dicts(asked.get("tools"))
    )
    return _Conversation(tuple(name for name in names if isinstance(name, str)), set(_used_ids(asked)))


def _used_ids(asked: Body) -> Iterable[str]:
    for message in _dicts(asked.get("messages")):
        yield from (str(call.get("id")) for call in _dicts(message.get("tool_calls")))
    yield from (str(item["call_id"]) for item in _dicts(asked.get("input")) if item.get("call_id"))


# Chat completions


def _chat(answer: Body, conversation: _Conversation) -> Body:
    choices = _dicts(answer.get("choices"))
    if not choices:
        raise EndpointError(_status_of(answer.get("error")))
    choice = choices[0]
    message = choice["message"] = _dict(choice.get("message"))
    message["role"] = "assistant"
    message["content"] = _text_of(message.get("content"))
    message["refusal"] = _refusal_of(message, choice.get("finish_reason"))
    calls = [] if message["refusal"] else _chat_calls(message, conversation)
    message.pop("function_call", None)
    message["tool_calls"] = calls or None
    if message["refusal"]:
        message["content"] = None
    return answer | {"choices": [choice]}


def _refusal_of(message: Body, finish: Any) -> str | None:
    """Return the refusal of a message; an answer that a filter cut is refused, whatever was left of it."""
    said = message.get("refusal")
    if isinstance(said, str) and said.strip():
        return clean_text(said)
    if finish == "content_filter":
        return _WITHHELD
    return (message["content"] or _DECLINED) if finish in _REFUSED else None


def _chat_calls(message: Body, conversation: _Conversation) -> list[Body]:
    found = message.get("tool_calls")
    raw = _dicts([found] if isinstance(found, dict) else found) or _dicts([message.get("function_call")])
    if not raw:
        message["content"], raw = _calls_in_text(message["content"] or "", conversation.tools)
    return [_chat_call(call, conversation) for call in raw]


def _chat_call(call: Body, conversation: _Conversation) -> Body:
    function = _dict(call.get("function")) or call
    tidy = {
        "name": conversation.name_of(function.get("name")),
        "arguments": unwrap_arguments(_arguments_of(function)),
    }
    return call | {"id": conversation.id_of(call.get("id")), "type": "function", "function": tidy}


# Responses


def _responses(answer: Body, conversation: _Conversation) -> Body:
    status, error = answer.get("status"), answer.get("error")
    if status in ("failed", "cancelled") or not isinstance(answer.get("output"), list):
        raise EndpointError(_status_of(error))
    items = [_response_item(item, conversation) for item in _dicts(answer["output"])]
    refusal = _response_refusal(answer, items)
    if refusal is not None:
        items = [_message([{"type": "refusal", "refusal": refusal}])]
    elif not any(item.get("type") == "function_call" for item in items):
        items = [new for item in items for new in _with_calls_of_text(item, conversation)]
    return answer | {"output": items}


def _response_item(item: Body, conversation: _Conversation) -> Body:
    kind = item.get("type")
    if kind == "function_call" or (kind is None and "name" in item):
        kept = {name: value for name, value in item.items() if name != "id" or isinstance(value, str)}
        return kept | {
            "type": "function_call",
            "call_id": conversation.id_of(item.get("call_id") or item.get("id")),
            "name": conversation.name_of(item.get("name")),
            "arguments": unwrap_arguments(_arguments_of(item)),
        }
    if kind == "message" or (kind is None and "content" in item):
        return _message([_part(one) for one in _parts(item.get("content"))], item)
    return item


def _message(parts: Sequence[Body], item: Body | None = None) -> Body:
    given = item or {}
    known = given.get("id")
    return given | {
        "id": known if isinstance(known, str) and known else f"msg_{uuid4().hex[:24]}",
        "type": "message", "role": "assistant", "status": given.get("status") or "completed",
        "content": list(parts),
    }  # fmt: skip


def _parts(content: Any) -> list[Body]:
    return [{"text": content}] if isinstance(content, str) else _dicts(content)


def _part(part: Body) -> Body:
    if part.get("type") == "refusal" or part.get("refusal"):
        return {"type": "refusal", "refusal": _text_of(part.get("refusal")) or _DECLINED}
    text = _text_of(part.get("text")) or ""
    return part | {"type": "output_text", "text": text, "annotations": part.get("annotations") or []}


def _response_refusal(answer: Body, items: Sequence[Body]) -> str | None:
    said = [part["refusal"] for item in items for part in _dicts(item.get("content")) if part.get("refusal")]
    if said:
        return str(said[0])
    return _WITHHELD if _dict(answer.get("incomplete_details")).get("reason") in _REFUSED else None


def _with_calls_of_text(item: Body, conversation: _Conversation) -> list[Body]:
    """Return the item, and the calls that its text holds as items of their own."""
    if item.get("type") != "message":
        return [item]
    calls: list[Body] = []
    for part in _dicts(item.get("content")):
        part["text"], found = _calls_in_text(part.get("text") or "", conversation.tools)
        calls += found
    made = [_response_item({"type": "function_call"} | call, conversation) for call in calls]
    return made if made and not any(part["text"] for part in item["content"]) else [item, *made]


# Parts of both


def _calls_in_text(text: str, tools: Sequence[str]) -> tuple[str | None, list[Body]]:
    """Return a text without the calls that a server left in it, and those calls.

    Only where the text ends with them, outside of the model's thoughts, and each names an offered tool: a
    call that the model talks about is none.
    """
    plain = _THOUGHTS.sub("", text)
    opened = _CALL_OPEN.search(plain)
    if opened is None or not tools:
        return text or None, []
    tail = plain[opened.start() :]
    found = [_read_call(match[2]) for match in _CALL_IN_TEXT.finditer(tail)]
    known = [call for call in found if call is not None and call["name"] in tools]
    if len(known) < len(found) or not _TEMPLATE_TOKENS.fullmatch(_CALL_IN_TEXT.sub("", tail)):
        return text, []
    return plain[: opened.start()].strip() or None, known


def _read_call(text: str) -> Body | None:
    try:
        call = json.loads(_unfenced(text))
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    return {"name": call["name"], "arguments": _arguments_of(call)}


def _arguments_of(call: Body) -> Any:
    return call["arguments"] if "arguments" in call else call.get("parameters")


def unwrap_arguments(given: Any) -> str:
    """Return arguments as the JSON text of an object, if that is what they hold; else as they are.

    Text that is an object already is kept byte for byte: the guard must see a key that stands twice.
    """
    if given is None or given == "":
        return "{}"
    if not isinstance(given, str):
        return clean_text(json.dumps(given, ensure_ascii=False))
    text = clean_text(given)
    inner = text
    for _ in range(_ENCODINGS):
        inner = _unfenced(inner)
        found, rest = _decoded(inner)
        if isinstance(found, dict):
            return inner if not rest else inner[: len(inner) - len(rest)]
        if not isinstance(found, str):
            return text
        inner = clean_text(found)
    return text


def _unfenced(text: str) -> str:
    match = _FENCE.fullmatch(text)
    return match[1] if match else text.strip()


def _decoded(text: str) -> tuple[Any, str]:
    """Decode one JSON value; return it and the template tokens after it. None if there is anything else."""
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, ""
    rest = text[end:]
    return (found, rest) if _TEMPLATE_TOKENS.fullmatch(rest) else (None, "")


def _contains_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_-]){re.escape(word)}(?![A-Za-z0-9_-])", text) is not None


def _text_of(content: Any) -> str | None:
    if isinstance(content, list):
        content = "".join(part["text"] for part in _dicts(content) if isinstance(part.get("text"), str))
    return clean_text(content) or None if isinstance(content, str) else None


def _status_of(error: Any) -> int:
    """Return the status that a failure inside an answer stands for; 502 if it names none."""
    known = {"rate_limit_exceeded": 429, "invalid_prompt": 400, "content_filter": 400}
    code = _dict(error).get("code")
    if isinstance(code, str):
        code = int(code) if re.fullmatch(r"[45][0-9]{2}", code) else known.get(code)
    return code if isinstance(code, int) and 400 <= code <= 599 else _BAD_GATEWAY


def _dict(value: Any) -> Body:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Body]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
