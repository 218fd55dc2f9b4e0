"""Answers of compatible servers become calls and refusals that the SDK reads."""

import json

import pytest

from tools.model_answers import EndpointError, normalise, unwrap_arguments

GOOD = {"prompt": "A paper boat.", "seconds": 8, "size": "720x1280"}
TEXT = json.dumps(GOOD)
TOOLS = ("generate_video", "generate_caption", "quota_left")


def chat(calls=None, content=None, finish="tool_calls", **message):
    message = {"role": "assistant", "content": content, "tool_calls": calls} | message
    return {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def asked(*used):
    tools = [{"type": "function", "function": {"name": name}} for name in TOOLS]
    return {"tools": tools, "messages": [{"role": "assistant", "tool_calls": [{"id": one} for one in used]}]}


def call(name="generate_video", arguments=TEXT, **more):
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}} | more


def message_of(answer, *used):
    return normalise("chat", asked(*used), answer)["choices"][0]["message"]


def calls_of(*calls, used=()):
    return message_of(chat(list(calls)), *used)["tool_calls"]


FENCED = f"```json\n{TEXT}\n```"


@pytest.mark.parametrize(
    "given",
    [TEXT, GOOD, json.dumps(TEXT), json.dumps(json.dumps(TEXT)), FENCED, json.dumps(FENCED),
     f"```\n{TEXT}```",
     f"{TEXT}<|call|>", f"  {TEXT}\n"],
    ids=["text", "object", "twice", "thrice", "fence", "fence, encoded", "plain fence", "token", "spaces"],
)  # fmt: skip
def test_wrapped_arguments_are_unwrapped(given):
    """Arguments as an object, encoded twice or in a code fence are the arguments that they hold."""
    (found,) = calls_of(call(arguments=given))
    assert json.loads(found["function"]["arguments"]) == GOOD


@pytest.mark.parametrize(
    "given",
    ['{"seconds": 4, "seconds": 8}', '{"seconds": NaN}', '{"seconds": 8', "[1]", "null", '{"a": 1} {"b": 2}'],
)
def test_arguments_that_are_no_plain_object_reach_the_guard_unchanged(given):
    """The guard sees a key that stands twice and refuses: unwrapping repairs nothing."""
    assert unwrap_arguments(given) == given


@pytest.mark.parametrize("given", [None, ""])
def test_absent_arguments_are_an_empty_object(given):
    """A tool without arguments can be called; another tool's guard says what is missing."""
    assert unwrap_arguments(given) == "{}"


def test_half_a_surrogate_becomes_a_character_that_can_be_encoded():
    """Half a surrogate in arguments or text raised UnicodeEncodeError out of the run."""
    answer = chat([call(arguments='{"prompt": "a \ud83d"}')], content="b \ud800")
    message = message_of(answer)
    assert message["tool_calls"][0]["function"]["arguments"] == '{"prompt": "a \ufffd"}'
    assert message["content"] == "b \ufffd"


@pytest.mark.parametrize("given", ["", None, 7, "  "], ids=repr)
def test_an_id_that_cannot_be_used_is_replaced(given):
    """Every call has an id that is a text."""
    (found,) = calls_of(call(id=given))
    assert isinstance(found["id"], str)
    assert found["id"].strip()


def test_a_missing_id_and_type_are_added():
    """A call without `id` and `type`, which the SDK would drop, is a call."""
    (found,) = calls_of({"function": {"name": "generate_video", "arguments": TEXT}})
    assert (found["type"], found["id"][:5]) == ("function", "call_")


def test_ids_are_unique_in_the_conversation():
    """An id that repeats in the answer, or was used before, is replaced: the SDK would end the run."""
    found = calls_of(call(), call(arguments="{}"), call(id="new"), used=("call_1",))
    assert len({one["id"] for one in found} | {"call_1"}) == 4
    assert found[2]["id"] == "new"


@pytest.mark.parametrize(
    "given",
    ["generate_video<|channel|>commentary", "functions.generate_video", "generate_video()",
     " generate_video\n", "<|start|>assistant to=functions.generate_video"],
)  # fmt: skip
def test_a_name_with_a_tail_is_the_tool_that_it_contains(given):
    """A name that holds exactly one offered tool, as a word of its own, means it."""
    (found,) = calls_of(call(given))
    assert found["function"]["name"] == "generate_video"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("generate_video_hd", "generate_video_hd"), ("render a film!", "render_a_film"), (None, "unnamed"),
     ("generate_video generate_caption", "generate_video_generate_caption"), ("x" * 99, "x" * 64)],
)  # fmt: skip
def test_an_unknown_name_stays_unknown(given, kept):
    """No tool is guessed, and the name may be sent back in the conversation."""
    (found,) = calls_of(call(given))
    assert found["function"]["name"] == kept


IN_TEXT = f'<tool_call>\n{{"name": "generate_video", "arguments": {TEXT}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("content", "left"),
    [(IN_TEXT, None), (f"I order it.\n{IN_TEXT}<|im_end|>", "I order it."),
     (f"<think>Should I?\n<tool_call> no</think>{IN_TEXT}", None),
     (IN_TEXT.replace("</tool_call>", ""), None)],
    ids=["alone", "after words", "after thoughts", "not closed"],
)  # fmt: skip
def test_a_call_that_ends_the_text_is_a_call(content, left):
    """A server without a parser leaves the call in the text."""
    message = message_of(chat(None, content, "stop"))
    (found,) = message["tool_calls"]
    assert json.loads(found["function"]["arguments"]) == GOOD
    assert message["content"] == left


@pytest.mark.parametrize(
    "content",
    [f"I will not do this:\n{IN_TEXT}\nSend another idea.", f"They wrote {IN_TEXT}",
     f"<think>{IN_TEXT}</think>No.", f"<think>{IN_TEXT}", IN_TEXT.replace("generate_video", "rm"),
     "<tool_call>{</tool_call>"],
    ids=["words after it", "in a line", "in thoughts", "in open thoughts", "unknown tool", "no JSON"],
)  # fmt: skip
def test_a_call_that_the_model_talks_about_is_none(content):
    """Quoted, considered or unusable calls stay text."""
    message = message_of(chat(None, content, "stop"))
    assert (message["tool_calls"], message["content"]) == (None, content)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [(chat(None, refusal="I can't."), "I can't."), (chat([call()], refusal="I can't."), "I can't."),
     (chat(None, "half a sen", "content_filter"), "The endpoint's content filter withheld the answer."),
     (chat([call()], None, "content_filter"), "The endpoint's content filter withheld the answer."),
     (chat(None, "I will not.", "refusal"), "I will not.")],
    ids=["refusal", "refusal and call", "filtered text", "filtered call", "refusal as the end"],
)  # fmt: skip
def test_a_refusal_is_a_refusal(answer, refusal):
    """A refusal holds no call and no other text."""
    message = message_of(answer)
    assert (message["refusal"], message["tool_calls"], message["content"]) == (refusal, None, None)


def test_an_empty_refusal_is_none():
    """Servers that always send the field send an empty text."""
    assert message_of(chat([call()], refusal=""))["tool_calls"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [({"choices": None}, 502), ({"choices": []}, 502), ([], 502), ("no", 502),
     ({"choices": None, "error": {"code": 429}}, 429), ({"error": {"code": "400"}}, 400),
     ({"error": {"code": 200}}, 502), ({"error": "gone"}, 502)],
    ids=repr,
)  # fmt: skip
def test_an_answer_without_choices_is_a_failure_of_the_endpoint(answer, status):
    """It gets the status that it should have had, so that it is repeated or not by the same rule."""
    with pytest.raises(EndpointError) as raised:
        normalise("chat", asked(), answer)
    assert raised.value.status == status


def test_other_spellings_of_a_message_are_read():
    """A call as one object, the old `function_call`, and text in parts."""
    function = call()["function"]
    assert len(message_of(chat(call()))["tool_calls"]) == 1
    assert (
        message_of(chat(None, function_call=function))["tool_calls"][0]["function"]["name"]
        == "generate_video"
    )
    assert message_of(chat(None, [{"type": "text", "text": "a"}, {"text": "b"}]))["content"] == "ab"


# Responses


def response(*output, **more):
    return {"id": "r", "object": "response", "status": "completed", "output": list(output)} | more


def response_items(answer, *used):
    tools = [{"type": "function", "name": name} for name in TOOLS]
    history = [{"type": "function_call", "call_id": one} for one in used]
    return normalise("responses", {"tools": tools, "input": history}, answer)["output"]


def function_call(name="generate_video", arguments=TEXT, **more):
    return {
        "type": "function_call",
        "id": "fc",
        "call_id": "call_1",
        "name": name,
        "arguments": arguments,
    } | more


def said(text):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


@pytest.mark.parametrize(
    "item",
    [function_call(arguments=GOOD), function_call(arguments=json.dumps(TEXT)), function_call(call_id=None),
     function_call(call_id=""), function_call(call_id=3, id=4), function_call("functions.generate_video"),
     {"name": "generate_video", "arguments": FENCED}, said(IN_TEXT)],
    ids=["object", "twice", "null id", "empty id", "numbers", "prefix", "no type", "in text"],
)  # fmt: skip
def test_calls_of_the_responses_api(item):
    """The same shapes in the other API."""
    (found,) = response_items(response(item))
    assert (found["type"], found["name"]) == ("function_call", "generate_video")
    assert json.loads(found["arguments"]) == GOOD
    assert isinstance(found["call_id"], str)
    assert found["call_id"].strip()
    assert isinstance(found.get("id", ""), str)


def test_ids_of_the_responses_api_are_unique():
    """One constant id for all calls is one id each."""
    found = response_items(response(function_call(), function_call(arguments="{}")), "call_1")
    assert len({one["call_id"] for one in found} | {"call_1"}) == 3


@pytest.mark.parametrize(
    "answer",
    [response({"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}, function_call()),
     response(said("half"), status="incomplete", incomplete_details={"reason": "content_filter"})],
    ids=["refusal", "filtered"],
)  # fmt: skip
def test_refusals_of_the_responses_api(answer):
    """A refusal is the whole answer."""
    (found,) = response_items(answer)
    assert [part["type"] for part in found["content"]] == ["refusal"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [(response(status="failed", error={"code": "rate_limit_exceeded"}), 429), ({"output": None}, 502),
     (response(status="failed", error={"code": "server_error"}), 502),
     (response(status="failed", error={"code": "invalid_prompt"}), 400)],
    ids=["rate limit", "no output", "server error", "prompt"],
)  # fmt: skip
def test_failures_of_the_responses_api(answer, status):
    """An answer that says that it failed is a failure."""
    with pytest.raises(EndpointError) as raised:
        response_items(answer)
    assert raised.value.status == status


def test_other_items_are_kept():
    """Reasoning goes back to the endpoint as it came."""
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    assert response_items(response(reasoning, function_call()))[0] == reasoning
