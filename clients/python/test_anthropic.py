"""Anthropic's own Python client against Yantra: what it sends is accepted, what it gets parses into its types."""

import json

import anthropic
import pytest

from conftest import needed

QUESTION = [{"role": "user", "content": "What is the capital of Italy? Answer in one sentence."}]
WEATHER = {
    "name": "weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
    },
}
# The client has no argument for it any more.
GREEDY = {"extra_body": {"temperature": 0}}
MUST_CALL = {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 200}


@pytest.fixture(scope="module")
def claude(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=url.removesuffix("/v1"), api_key=needed("YANTRA_API_KEY"), max_retries=0, timeout=120
    )


def ask(claude, model, **extra):
    return claude.messages.create(**{"model": model, "messages": QUESTION, "max_tokens": 32} | GREEDY | extra)


def test_message(claude, model):
    message = ask(claude, model)
    assert message.content[0].type == "text" and "Rome" in message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens") and message.usage.output_tokens > 0


def test_stream(claude, model):
    with claude.messages.stream(model=model, messages=QUESTION, max_tokens=32, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text == ask(claude, model).content[0].text


def test_stop_sequence(claude, model):
    message = ask(claude, model, stop_sequences=["Rome"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Rome")


def test_tools(claude, model):
    message = ask(claude, model, **MUST_CALL)
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert call.name == "weather" and call.input["city"] in ("Rome", "Oslo") and 1 <= call.input["days"] <= 9
    with claude.messages.stream(model=model, messages=QUESTION, **GREEDY, **MUST_CALL) as stream:
        assert stream.get_final_message().content[-1].input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages = [*QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    after = ask(claude, model, messages=messages, tools=[WEATHER], tool_choice={"type": "none"})
    assert after.content[0].text


def test_structured_output(claude, model):
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Milan"]}}, "required": ["city"]}
    schema["additionalProperties"] = False
    message = ask(claude, model, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(message.content[0].text)["city"] in ("Rome", "Milan")


def test_count_tokens(claude, model):
    count = claude.messages.count_tokens(model=model, messages=QUESTION)
    usage = ask(claude, model).usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_errors(claude, model):
    with pytest.raises(anthropic.NotFoundError):
        ask(claude, "no-such-model")
    with pytest.raises(anthropic.BadRequestError, match="image"):
        source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
        ask(claude, model, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
