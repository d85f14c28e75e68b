// Anthropic's own Node client against Yantra.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { apiKey, capitalSchema, messages, model, url, weather, weatherSchema } from "./target.js";

const client = new Anthropic({ baseURL: url, apiKey, maxRetries: 0, timeout: 120_000 });

const request = { model, messages, max_tokens: 32, temperature: 0 };
const tools = [{ ...weather, input_schema: weatherSchema }];
const mustCall = { tools, tool_choice: { type: "any", disable_parallel_tool_use: true }, max_tokens: 200 };

test("a message, whole and streamed, says the same", async () => {
  const message = await client.messages.create(request);
  assert.equal(message.content[0].type, "text");
  assert.match(message.content[0].text, /Rome/);
  assert.ok(["end_turn", "max_tokens"].includes(message.stop_reason) && message.usage.output_tokens > 0);

  const stream = client.messages.stream(request);
  let text = "";
  stream.on("text", (delta) => {
    text += delta;
  });
  const streamed = await stream.finalMessage();
  assert.equal(text, message.content[0].text);
  assert.equal(streamed.content[0].text, text);
  assert.equal(streamed.stop_reason, message.stop_reason);
  assert.equal(streamed.usage.output_tokens, message.usage.output_tokens);
});

test("events come in order", async () => {
  const kinds = [];
  for await (const event of await client.messages.create({ ...request, stream: true })) kinds.push(event.type);
  assert.deepEqual(kinds.filter((kind) => kind !== "content_block_delta" && kind !== "ping"), [
    "message_start",
    "content_block_start",
    "content_block_stop",
    "message_delta",
    "message_stop",
  ]);
});

test("a stop sequence ends the answer and is told", async () => {
  const message = await client.messages.create({ ...request, stop_sequences: ["Rome"] });
  assert.deepEqual([message.stop_reason, message.stop_sequence], ["stop_sequence", "Rome"]);
});

test("a tool is called, whole and streamed, and the conversation goes on", async () => {
  const message = await client.messages.create({ ...request, ...mustCall });
  assert.equal(message.stop_reason, "tool_use");
  const call = message.content.at(-1);
  assert.ok(call.name === "weather" && ["Rome", "Oslo"].includes(call.input.city), JSON.stringify(call));
  const streamed = await client.messages.stream({ ...request, ...mustCall }).finalMessage();
  assert.deepEqual(streamed.content.at(-1).input, call.input);

  const result = { type: "tool_result", tool_use_id: call.id, content: "sunny" };
  const after = [...messages, { role: "assistant", content: message.content }, { role: "user", content: [result] }];
  const next = await client.messages.create({ ...request, messages: after, tools, tool_choice: { type: "none" } });
  assert.ok(next.content[0].text);
});

test("the tool that is named is called", async () => {
  const tool_choice = { type: "tool", name: "weather", disable_parallel_tool_use: true };
  const message = await client.messages.create({ ...request, ...mustCall, tool_choice });
  assert.equal(message.content.at(-1).name, "weather");
});

test("structured output", async () => {
  const output_config = { format: { type: "json_schema", schema: capitalSchema } };
  const message = await client.messages.create({ ...request, output_config, max_tokens: 120 });
  const given = JSON.parse(message.content[0].text);
  assert.deepEqual(Object.keys(given).sort(), ["city", "inhabitants", "is_coastal"]);
});

test("tokens are counted as they are used", async () => {
  const count = await client.messages.countTokens({ model, messages });
  const { usage } = await client.messages.create(request);
  assert.equal(count.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
  const withTools = await client.messages.countTokens({ model, messages, tools });
  assert.ok(withTools.input_tokens > count.input_tokens);
});

test("errors have the client's types", async () => {
  await assert.rejects(client.messages.create({ ...request, model: "no-such-model" }), Anthropic.NotFoundError);
  await assert.rejects(client.messages.create({ ...request, messages: [] }), Anthropic.BadRequestError);
  const stranger = new Anthropic({ baseURL: url, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.messages.create(request), Anthropic.AuthenticationError);
});
