// The Responses API through OpenAI's own Node client.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { apiKey, capitalSchema, messages, model, url, weather, weatherSchema } from "./target.js";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 120_000 });

const request = { model, input: messages[0].content, temperature: 0, max_output_tokens: 32 };

test("a response is kept, continued and deleted", async () => {
  const response = await client.responses.create(request);
  assert.match(response.output_text, /Rome/);
  assert.ok(response.usage.output_tokens > 0);
  assert.equal((await client.responses.retrieve(response.id)).id, response.id);
  const items = await client.responses.inputItems.list(response.id);
  assert.equal(items.data[0].content[0].text, request.input);

  const previous = { input: "And of France?", previous_response_id: response.id };
  const after = await client.responses.create({ ...request, ...previous });
  assert.ok(after.output_text && after.usage.input_tokens > response.usage.input_tokens);
  assert.equal(after.previous_response_id, response.id);

  await client.responses.delete(response.id);
  await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
  await assert.rejects(client.responses.create({ ...request, ...previous }), OpenAI.NotFoundError);
});

test("events come in order and say what the whole response says", async () => {
  const whole = await client.responses.create(request);
  const stream = await client.responses.create({ ...request, stream: true });
  const kinds = [];
  let text = "";
  let last = null;
  for await (const event of stream) {
    assert.equal(event.sequence_number, kinds.length);
    kinds.push(event.type);
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  assert.equal(text, whole.output_text);
  assert.deepEqual(kinds.slice(0, 4), [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
  ]);
  assert.ok(["response.completed", "response.incomplete"].includes(last.type), last.type);
  assert.equal(last.response.output[0].content[0].text, text);

  const helper = client.responses.stream(request);
  assert.equal((await helper.finalResponse()).output_text, text);
});

test("structured output", async () => {
  const format = { type: "json_schema", name: "capital", schema: capitalSchema, strict: true };
  const response = await client.responses.parse({ ...request, text: { format }, max_output_tokens: 120 });
  assert.deepEqual(Object.keys(response.output_parsed).sort(), ["city", "inhabitants", "is_coastal"]);
});

test("a function call goes there and back, whole and streamed", async () => {
  const tools = [{ type: "function", ...weather, parameters: weatherSchema, strict: true }];
  const settings = { ...request, tools, tool_choice: "required", parallel_tool_calls: false, max_output_tokens: 200 };
  const response = await client.responses.create(settings);
  const [call] = response.output.filter((item) => item.type === "function_call");
  const given = JSON.parse(call.arguments);
  assert.ok(call.name === "weather" && ["Rome", "Oslo"].includes(given.city), call.arguments);

  const stream = await client.responses.create({ ...settings, stream: true });
  let streamed = "";
  let done = null;
  for await (const event of stream) {
    if (event.type === "response.function_call_arguments.delta") streamed += event.delta;
    if (event.type === "response.function_call_arguments.done") done = event.arguments;
  }
  assert.equal(streamed, call.arguments);
  assert.equal(done, streamed);

  const input = [{ type: "function_call_output", call_id: call.call_id, output: "sunny" }];
  const after = await client.responses.create({ ...request, input, previous_response_id: response.id });
  assert.ok(after.output_text);
});

test("errors have the client's types", async () => {
  const ask = (changes) => client.responses.create({ ...request, ...changes });
  await assert.rejects(ask({ model: "no-such-model" }), OpenAI.NotFoundError);
  await assert.rejects(ask({ previous_response_id: "resp-none" }), OpenAI.NotFoundError);
  await assert.rejects(ask({ background: true }), OpenAI.BadRequestError);
});
