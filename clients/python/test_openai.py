"""OpenAI's own Python client against Yantra: what it sends is accepted, what it gets parses into its types."""

import asyncio
import base64
import json
import math
import re
import struct
import time

import openai
import pydantic
import pytest

QUESTION = [{"role": "user", "content": "What is the capital of Italy? Answer in one sentence."}]


def ask(client, model, **extra):
    settings = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 16} | extra
    return client.chat.completions.create(**settings)


def test_models(client, model, embedding_model):
    names = [entry.id for entry in client.models.list()]
    assert model in names and embedding_model in names
    assert client.models.retrieve(model).object == "model"


def test_chat(client, model):
    reply = ask(client, model)
    assert reply.object == "chat.completion" and reply.model == model
    [choice] = reply.choices
    assert choice.message.role == "assistant"
    assert "Rome" in choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert 0 < reply.usage.completion_tokens <= 16
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_chat_streamed_says_the_same(client, model):
    whole = ask(client, model).choices[0].message.content
    chunks = list(ask(client, model, stream=True, stream_options={"include_usage": True}))
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    with_choices = [chunk for chunk in chunks if chunk.choices]
    assert with_choices[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in with_choices) == whole
    assert [c.choices[0].finish_reason for c in with_choices if c.choices[0].finish_reason] in (["stop"], ["length"])
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_no_usage_unless_asked_for(client, model):
    assert all(chunk.usage is None for chunk in ask(client, model, stream=True))


def test_a_stream_closed_early_leaves_the_server_well(client, model):
    with ask(client, model, stream=True, max_tokens=200) as stream:
        next(iter(stream))
    assert ask(client, model, max_tokens=1).choices


def test_several_choices(client, model):
    reply = ask(client, model, n=3, temperature=1, seed=1, max_tokens=4)
    assert sorted(choice.index for choice in reply.choices) == [0, 1, 2]


def test_seed_repeats(client, model):
    first, second = (ask(client, model, temperature=1, seed=7).choices[0].message.content for _ in range(2))
    assert first == second


def test_max_tokens_is_kept(client, model):
    for limit in ({"max_tokens": 3}, {"max_tokens": None, "max_completion_tokens": 3}):
        reply = ask(client, model, **limit)
        assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 3


def test_stop_string_ends_and_is_left_out(client, model):
    reply = ask(client, model, stop=["Rome"])
    assert "Rome" not in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"


def test_logprobs(client, model):
    reply = ask(client, model, logprobs=True, top_logprobs=3, max_tokens=5)
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens == 5
    assert "".join(token.token for token in content) == reply.choices[0].message.content
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        best = [alternative.logprob for alternative in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        # Greedy: the token taken is the likeliest.
        assert math.isclose(token.logprob, best[0], abs_tol=1e-5)
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token


def test_completions(client, model):
    reply = client.completions.create(model=model, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert reply.object == "text_completion" and "Paris" in reply.choices[0].text
    chunks = client.completions.create(
        model=model, prompt="The capital of France is", max_tokens=4, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == reply.choices[0].text


def test_embeddings(client, embedding_model):
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell."]
    reply = client.embeddings.create(model=embedding_model, input=texts, encoding_format="float")
    assert [entry.index for entry in reply.data] == [0, 1, 2]
    cat, kitten, market = (entry.embedding for entry in reply.data)
    assert len(cat) == 384 and math.isclose(sum(x * x for x in cat), 1, abs_tol=1e-4)
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))
    assert dot(cat, kitten) > dot(cat, market) + 0.2
    assert reply.usage.prompt_tokens > 0


def test_embeddings_as_base64(client, embedding_model):
    [plain] = client.embeddings.create(model=embedding_model, input="hello", encoding_format="float").data
    # Without a format the client asks for base64 and decodes it itself.
    [decoded] = client.embeddings.create(model=embedding_model, input="hello").data
    [raw] = client.embeddings.create(model=embedding_model, input="hello", encoding_format="base64").data
    numbers = struct.unpack("<384f", base64.b64decode(raw.embedding))
    assert list(numbers) == pytest.approx(plain.embedding, abs=1e-6)
    assert decoded.embedding == pytest.approx(plain.embedding, abs=1e-6)


def test_async_requests_side_by_side(async_client, model):
    async def all_of_them():
        async with async_client:
            return await asyncio.gather(*(ask(async_client, model, max_tokens=6) for _ in range(6)))

    replies = asyncio.run(all_of_them())
    assert len({reply.choices[0].message.content for reply in replies}) == 1


@pytest.mark.parametrize(
    ("error", "settings"),
    [
        (openai.NotFoundError, {"model": "no-such-model"}),
        (openai.BadRequestError, {"messages": []}),
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"max_tokens": -5}),
        (openai.BadRequestError, {"extra_body": {"no_such_field": 1}}),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "word " * 20_000}]}),
    ],
)
def test_errors_have_the_clients_types(client, model, error, settings):
    with pytest.raises(error) as raised:
        ask(client, settings.pop("model", model), **settings)
    assert raised.value.body["message"] and raised.value.body["type"]


def test_wrong_keys_are_refused(url, model):
    for key in ("wrong", "test-key-of-xtask-and-more"):
        with pytest.raises(openai.AuthenticationError):
            ask(openai.OpenAI(base_url=url, api_key=key, max_retries=0), model)


class Capital(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=24)
    inhabitants: int = pydantic.Field(ge=0, le=50_000_000)
    is_coastal: bool


def test_structured_output(client, model):
    completion = client.chat.completions.parse(
        model=model, messages=QUESTION, response_format=Capital, temperature=1, seed=7, max_tokens=120
    )
    assert completion.choices[0].finish_reason == "stop"
    assert isinstance(completion.choices[0].message.parsed, Capital)


def test_structured_output_streamed(client, model):
    with client.chat.completions.stream(
        model=model, messages=QUESTION, response_format=Capital, temperature=1, seed=8, max_tokens=120
    ) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Capital)


def test_choices_and_patterns(client, model):
    chosen = ask(client, model, extra_body={"structured_outputs": {"choice": ["Rome", "Milan"]}})
    assert chosen.choices[0].message.content in ("Rome", "Milan")
    matched = ask(client, model, extra_body={"response_format": {"type": "regex", "pattern": "[A-Z]{3}-[0-9]{2}"}})
    assert re.fullmatch("[A-Z]{3}-[0-9]{2}", matched.choices[0].message.content)


def test_unsupported_schema_is_named(client, model):
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        ask(client, model, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
        },
    },
}


def call_of(message):
    (call,) = message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "weather" and call.type == "function" and call.id
    assert arguments["city"] in ("Rome", "Oslo") and 1 <= arguments["days"] <= 9
    return arguments


@pytest.mark.parametrize("way", ["auto", "json", "react"])
def test_tools(client, model, way):
    settings = {
        "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300,
        "extra_body": {"tool_format": way},
    }
    whole = ask(client, model, **settings)
    assert whole.choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(model=model, messages=QUESTION, temperature=0, **settings) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert call_of(streamed.message) == call_of(whole.choices[0].message)


def test_a_conversation_with_a_tool_goes_on(client, model):
    first = ask(client, model, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=300)
    message = first.choices[0].message
    messages = [*QUESTION, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}]
    second = client.chat.completions.create(
        model=model, messages=messages, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=16
    )
    assert second.choices[0].message.content


def respond(client, model, **extra):
    settings = {"model": model, "input": QUESTION[0]["content"], "temperature": 0, "max_output_tokens": 32} | extra
    return client.responses.create(**settings)


def test_response(client, model):
    response = respond(client, model)
    assert "Rome" in response.output_text and response.usage.output_tokens > 0
    assert client.responses.retrieve(response.id).output_text == response.output_text
    after = respond(client, model, input="And of France?", previous_response_id=response.id)
    assert after.output_text and after.usage.input_tokens > response.usage.input_tokens
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_response_streamed(client, model):
    settings = {"model": model, "input": QUESTION[0]["content"], "max_output_tokens": 32, "temperature": 0}
    with client.responses.stream(**settings) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == respond(client, model).output_text


def test_response_structured(client, model):
    response = client.responses.parse(
        model=model, input=QUESTION[0]["content"], text_format=Capital, temperature=0, max_output_tokens=120
    )
    assert isinstance(response.output_parsed, Capital)


def test_response_tools(client, model):
    tool = {"type": "function"} | WEATHER["function"]
    settings = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 200}
    response = respond(client, model, **settings)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "weather" and json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    assert respond(client, model, input=result, previous_response_id=response.id).output_text


def test_batch(client, model):
    body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 4}
    bodies = [body | {"seed": number} for number in range(5)] + [body | {"max_tokens": -1}]
    lines = [
        {"custom_id": f"item-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number, body in enumerate(bodies)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("items.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "items.jsonl", "batch")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert file.id in [entry.id for entry in client.files.list(purpose="batch", limit=1)]

    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"for": "a test"}
    )
    assert batch.id in [entry.id for entry in client.batches.list(limit=1)]
    until = time.monotonic() + 120
    while batch.status not in ("completed", "failed") and time.monotonic() < until:
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.metadata == {"for": "a test"}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (6, 5, 1)
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"item-{number}" for number in range(5)]
    expected = ask(client, model, max_tokens=4).choices[0].message.content
    for answer in answers:
        assert answer["response"]["status_code"] == 200 and answer["error"] is None
        reply = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])
        assert reply.choices[0].message.content == expected
    (wrong,) = (json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines())
    assert wrong["custom_id"] == "item-5" and wrong["response"]["status_code"] == 400
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
