// OpenAI's own Node client against Yantra: what it sends is accepted, what it gets parses into its types.
// The server is given by the environment (see `cargo xtask test`).

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { apiKey, embeddingModel, messages, model, url } from "./target.js";

const baseURL = `${url}/v1`;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });

const question = {
  model,
  messages,
  temperature: 0,
  max_tokens: 16,
};

test("models", async () => {
  const names = [];
  for await (const entry of client.models.list()) names.push(entry.id);
  assert.ok(names.includes(model) && names.includes(embeddingModel), names.join(", "));
});

test("chat, whole and streamed, says the same", async () => {
  const reply = await client.chat.completions.create(question);
  const text = reply.choices[0].message.content;
  assert.match(text, /Rome/);
  assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);

  const stream = await client.chat.completions.create({
    ...question,
    stream: true,
    stream_options: { include_usage: true },
  });
  let streamed = "";
  let finish = null;
  let usage = null;
  for await (const chunk of stream) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(streamed, text);
  assert.equal(finish, reply.choices[0].finish_reason);
  assert.equal(usage.completion_tokens, reply.usage.completion_tokens);
});

test("the stream helper gathers a message", async () => {
  const runner = client.chat.completions.stream(question);
  const message = await runner.finalMessage();
  assert.match(message.content, /Rome/);
});

test("an aborted stream leaves the server well", async () => {
  const stream = await client.chat.completions.create({ ...question, max_tokens: 200, stream: true });
  for await (const _ of stream) {
    stream.controller.abort();
    break;
  }
  const after = await client.chat.completions.create({ ...question, max_tokens: 1 });
  assert.equal(after.usage.completion_tokens, 1);
});

test("logprobs", async () => {
  const reply = await client.chat.completions.create({ ...question, logprobs: true, top_logprobs: 2, max_tokens: 4 });
  const { content } = reply.choices[0].logprobs;
  assert.equal(content.length, 4);
  for (const token of content) {
    assert.ok(token.logprob <= 0);
    assert.equal(token.top_logprobs.length, 2);
  }
});

test("embeddings", async () => {
  const reply = await client.embeddings.create({ model: embeddingModel, input: ["one", "two"] });
  assert.deepEqual(reply.data.map((entry) => entry.index), [0, 1]);
  assert.equal(reply.data[0].embedding.length, 384);
  const norm = reply.data[0].embedding.reduce((sum, x) => sum + x * x, 0);
  assert.ok(Math.abs(norm - 1) < 1e-4, `norm ${norm}`);
});

test("errors have the client's types", async () => {
  const ask = (changes) => client.chat.completions.create({ ...question, ...changes });
  await assert.rejects(ask({ model: "no-such-model" }), OpenAI.NotFoundError);
  await assert.rejects(ask({ messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(ask({ temperature: -1 }), OpenAI.BadRequestError);
  const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});
