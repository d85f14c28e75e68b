// Tool calls and structured output through OpenAI's own Node client.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { apiKey, capitalSchema, messages, model, url, weather, weatherSchema } from "./target.js";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 120_000 });

const tool = { type: "function", function: { ...weather, parameters: weatherSchema } };
const other = { type: "function", function: { ...weather, name: "forecast", parameters: weatherSchema } };
const request = { model, messages, temperature: 0, tools: [tool, other], parallel_tool_calls: false, max_tokens: 300 };

function argumentsOf(call, names = ["weather", "forecast"]) {
  assert.ok(call.id && call.type === "function" && names.includes(call.function.name), JSON.stringify(call));
  const given = JSON.parse(call.function.arguments);
  assert.ok(["Rome", "Oslo"].includes(given.city) && given.days >= 1 && given.days <= 9, call.function.arguments);
  return given;
}

test("required: a call, whole and streamed, says the same", async () => {
  for (const tool_format of ["auto", "json", "react"]) {
    const settings = { ...request, tool_choice: "required", tool_format };
    const [choice] = (await client.chat.completions.create(settings)).choices;
    assert.equal(choice.finish_reason, "tool_calls", tool_format);
    const [call] = choice.message.tool_calls;
    const expected = argumentsOf(call);

    const [streamed] = (await client.chat.completions.stream(settings).finalChatCompletion()).choices;
    assert.equal(streamed.finish_reason, "tool_calls", tool_format);
    assert.deepEqual(argumentsOf(streamed.message.tool_calls[0]), expected, tool_format);
    assert.equal(streamed.message.tool_calls[0].function.name, call.function.name, tool_format);
  }
});

test("named: the tool that is named is called", async () => {
  for (const name of ["weather", "forecast"]) {
    const tool_choice = { type: "function", function: { name } };
    const [choice] = (await client.chat.completions.create({ ...request, tool_choice })).choices;
    argumentsOf(choice.message.tool_calls[0], [name]);
  }
});

test("auto and none: text, or calls that are well formed", async () => {
  const [auto] = (await client.chat.completions.create({ ...request, tool_choice: "auto", max_tokens: 64 })).choices;
  for (const call of auto.message.tool_calls ?? []) assert.ok(call.function.name);
  assert.ok(auto.message.content || auto.message.tool_calls.length);
  const [none] = (await client.chat.completions.create({ ...request, tool_choice: "none", max_tokens: 16 })).choices;
  assert.ok(none.message.content && !none.message.tool_calls?.length);
});

test("streamed pieces of a call have an index, the first an id and a name", async () => {
  const stream = await client.chat.completions.create({ ...request, tool_choice: "required", stream: true });
  const pieces = [];
  for await (const chunk of stream) pieces.push(...(chunk.choices[0]?.delta?.tool_calls ?? []));
  assert.ok(pieces.length > 2, "the arguments come as they are generated");
  assert.ok(pieces.every((piece) => piece.index === 0));
  assert.ok(pieces[0].id && pieces[0].function.name);
  assert.ok(pieces.slice(1).every((piece) => !piece.id));
  const text = pieces.map((piece) => piece.function.arguments ?? "").join("");
  argumentsOf({ id: pieces[0].id, type: "function", function: { name: pieces[0].function.name, arguments: text } });
});

test("a conversation with a tool goes on", async () => {
  const first = await client.chat.completions.create({ ...request, tool_choice: "required" });
  const { message } = first.choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny" };
  const after = [...messages, message, result];
  const second = await client.chat.completions.create({ ...request, messages: after, tool_choice: "none", max_tokens: 16 });
  assert.ok(second.choices[0].message.content);
});

test("runTools calls functions and gives their results back", async () => {
  const called = [];
  const run = (given) => {
    called.push(given);
    return "sunny";
  };
  const runnable = { type: "function", function: { ...weather, parameters: weatherSchema, parse: JSON.parse, function: run } };
  // With a tool that is named the runner stops after its call.
  const tool_choice = { type: "function", function: { name: "weather" } };
  const settings = { model, messages, temperature: 0, max_tokens: 300, parallel_tool_calls: false, tool_choice };
  await client.chat.completions.runTools({ ...settings, tools: [runnable] }).done();
  assert.equal(called.length, 1);
  assert.ok(["Rome", "Oslo"].includes(called[0].city));
});

const response_format = { type: "json_schema", json_schema: { name: "capital", schema: capitalSchema, strict: true } };
const structured = { model, messages, response_format, temperature: 1, seed: 7, max_tokens: 120 };

function checkCapital(given) {
  assert.deepEqual(Object.keys(given).sort(), ["city", "inhabitants", "is_coastal"]);
  assert.ok(typeof given.city === "string" && given.city.length <= 24);
  assert.ok(Number.isInteger(given.inhabitants) && given.inhabitants >= 0 && given.inhabitants <= 50000000);
  assert.equal(typeof given.is_coastal, "boolean");
}

test("structured output, whole and streamed, says the same", async () => {
  const whole = await client.chat.completions.parse(structured);
  assert.equal(whole.choices[0].finish_reason, "stop");
  checkCapital(whole.choices[0].message.parsed);

  let text = "";
  const stream = await client.chat.completions.create({ ...structured, stream: true });
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  assert.deepEqual(JSON.parse(text), whole.choices[0].message.parsed);
});

test("a JSON object, and a schema that can not be followed", async () => {
  const ask = (response_format) => client.chat.completions.create({ ...structured, response_format });
  const [choice] = (await ask({ type: "json_object" })).choices;
  if (choice.finish_reason === "stop") assert.equal(typeof JSON.parse(choice.message.content), "object");
  const schema = { type: "object", properties: { a: { type: "array", uniqueItems: true } } };
  await assert.rejects(ask({ type: "json_schema", json_schema: { name: "a", schema } }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError && /uniqueItems/.test(error.message), error.message);
    return true;
  });
});
