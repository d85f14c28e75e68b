// A stand-in for `yantra serve`: the built page and the API it uses, with answers made up on the spot. For developing the
// page and for its browser test; it splits its streams at awkward places on purpose.
//
//   node mock/server.mjs [--port 8088]
//
// Words in the last message steer it: "slow", "error", "overloaded", "think", "long", "parameters?".

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2",
};

const MODELS = [
  { id: "smollm2-135m", yantra: { family: "llama", parameters: 134_515_008, quantisation: "Q4_1", context_length: 8192, size_bytes: 98_566_144, kind: "generate" } },
  { id: "qwen2.5-coder-1.5b", yantra: { family: "qwen2", parameters: 1_543_714_304, quantisation: "Q4_K_M", context_length: 32_768, size_bytes: 1_117_320_736, kind: "generate" } },
  { id: "minilm-l6", yantra: { family: "bert", parameters: 22_713_216, quantisation: "F32", context_length: 512, size_bytes: 90_868_376, kind: "embed" } },
];

const ANSWER = `A **lexer** turns text into tokens; a *parser* turns tokens into a tree. Here is the smallest useful lexer:

\`\`\`rust
/// Splits a line into words and numbers.
fn lex(line: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::with_capacity(16);
    for word in line.split_whitespace() {
        tokens.push(match word.parse::<i64>() {
            Ok(number) => Token::Number(number),
            Err(_) => Token::Word(word), // not a number after all
        });
    }
    tokens
}
\`\`\`

What it costs, for a line of *n* characters:

| Step | Time | Memory |
|:-----|:----:|-------:|
| splitting | O(n) | 0 |
| parsing numbers | O(n) | 0 |
| tokens | O(n) | 24 bytes each |

Three things to keep in mind:

1. Tokens **borrow** from the line, so nothing is copied.
2. \`split_whitespace\` understands Unicode.
3. A real lexer also remembers *where* each token began:
   - for error messages,
   - for editors.

> Simplicity is prerequisite for reliability.

More in the [Rust book](https://doc.rust-lang.org/book/). <img src=x onerror=alert(1)>`;

const state = { started: Date.now(), running: 0, prompt: 4000, output: 21_000, steps: 9000, hits: 1200, queries: 4000, pages: 90 };

function pieces(text) {
  return text.match(/\s*\S{1,6}|\s+$/g) ?? [];
}

async function chat(request, response) {
  let body = "";
  for await (const chunk of request) body += chunk;
  const { model, messages, max_tokens: limit = 4096, logprobs, stop } = JSON.parse(body);
  const last = messages.at(-1)?.content ?? "";
  if (last.includes("overloaded")) return fail(response, 429, "The queue is full: 64 requests are waiting.", "overloaded_error", { "retry-after": "3" });
  if (last.includes("error")) return fail(response, 400, "`temperature` is 9, expected 0 to 2", "invalid_request_error");

  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  const promptTokens = Math.ceil(JSON.stringify(messages).length / 4);
  let answer = /parameters\?/.test(last) ? "```json\n" + JSON.stringify({ ...JSON.parse(body), messages: undefined }, null, 2) + "\n```" : ANSWER;
  if (last.includes("think")) answer = `<think>The user wants a lexer. I should show a short one.</think>\n\n${answer}`;
  if (last.includes("long")) answer = Array(6).fill(answer).join("\n\n");
  if (stop?.length) answer = answer.split(stop[0])[0];
  const parts = pieces(answer).slice(0, limit);
  state.running += 1;
  state.prompt += promptTokens;
  state.queries += promptTokens;
  state.hits += Math.floor(promptTokens * 0.6);
  let closed = false;
  response.on("close", () => (closed = true));
  await wait(120);
  let sent = 0;
  for (const text of parts) {
    if (closed) break;
    const choice = { index: 0, delta: { content: text }, finish_reason: null };
    if (logprobs) choice.logprobs = { content: [logprob(text)] };
    write(response, { object: "chat.completion.chunk", model, choices: [choice] });
    sent += 1;
    state.output += 1;
    state.steps += 1;
    await wait(last.includes("slow") ? 60 : 8);
  }
  state.running -= 1;
  if (closed) return undefined;
  write(response, { choices: [{ index: 0, delta: {}, finish_reason: sent === limit ? "length" : "stop" }] });
  const cached = Math.floor(promptTokens * 0.6);
  write(response, { choices: [], usage: { prompt_tokens: promptTokens, completion_tokens: sent, total_tokens: promptTokens + sent, prompt_tokens_details: { cached_tokens: cached } } });
  return response.end("data: [DONE]\n\n");
}

/** Writes an event in two halves, cut at a random byte: also inside a character. */
function write(response, value) {
  const bytes = Buffer.from(`data: ${JSON.stringify(value)}\n\n`);
  const cut = Math.floor(Math.random() * bytes.length);
  response.write(bytes.subarray(0, cut));
  response.write(bytes.subarray(cut));
}

function logprob(token) {
  const sure = 0.35 + 0.65 * Math.random() ** 0.4;
  const top = [{ token, logprob: Math.log(sure) }];
  for (let rest = 1 - sure, i = 0; i < 4; i++) {
    rest *= 0.55;
    top.push({ token: [" the", " a", " one", "\n"][i], logprob: Math.log(Math.max(rest * 0.7, 1e-6)) });
  }
  return { token, logprob: Math.log(sure), top_logprobs: top };
}

function snapshot() {
  const t = (Date.now() - state.started) / 1000;
  const wave = 1 + Math.sin(t / 9) * 0.5 + Math.random() * 0.2;
  const load = Math.max(0, Math.round(3 * wave));
  state.output += Math.round(62 * wave);
  state.prompt += Math.round(140 * wave * Math.random());
  state.queries += 120;
  state.hits += Math.round(120 * (0.55 + 0.25 * Math.sin(t / 20)));
  state.steps += 40;
  state.pages = Math.max(20, Math.min(960, state.pages + Math.round((Math.random() - 0.47) * 24)));
  const percentiles = (base) => ({ p50: base * wave, p95: base * 2.1 * wave, p99: base * 3.2 * wave });
  return {
    uptime_seconds: t,
    models: [
      {
        id: "smollm2-135m", running: load + state.running, waiting: load > 4 ? load - 4 : 0, kv_pages_used: state.pages, kv_pages_total: 1024, kv_pages_cached: Math.round(state.pages * 0.6), healthy: true,
        prefix_hit_tokens: state.hits, prefix_query_tokens: state.queries, prompt_tokens_total: state.prompt, output_tokens_total: state.output,
        preemptions_total: 3, steps_total: state.steps, time_to_first_token_ms: percentiles(85), inter_token_ms: percentiles(9.5), end_to_end_ms: percentiles(1300),
      },
      { id: "qwen2.5-coder-1.5b", running: 0, waiting: 0, kv_pages_used: 0, kv_pages_total: 512, output_tokens_total: 0, steps_total: 0 },
    ],
  };
}

function events(response) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  const send = () => write(response, snapshot());
  send();
  const timer = setInterval(send, 1000);
  response.on("close", () => clearInterval(timer));
}

function json(response, status, value, headers = {}) {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(value));
}

function fail(response, status, message, type, headers = {}) {
  json(response, status, { error: { message, type, param: null, code: null } }, headers);
}

function wait(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

async function file(path, response) {
  const name = normalize(path === "/" ? "/index.html" : path);
  try {
    const content = await readFile(join(DIST, name));
    response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" });
    response.end(content);
  } catch {
    fail(response, 404, `No such path: ${path}`, "not_found_error");
  }
}

const SLOW = {
  id: "3c9f6a0e", object: "request", answer_id: "chatcmpl-1", endpoint: "/v1/chat/completions", model: "smollm2-135m", priority: 0,
  stream: true, state: "done", status: 200, created: Date.now() / 1000 - 90, prepare_ms: 40, queue_ms: 1800, time_to_first_token_ms: 2700, total_ms: 6900,
  usage: { prompt_tokens: 3100, completion_tokens: 121, total_tokens: 3221, prompt_tokens_details: { cached_tokens: 0 } }, finish_reasons: ["stop"],
};
const WHY = ["generating 121 tokens took 2.4 s, 20 ms per step of 8 sequences on average", "waited 1.8 s in the queue behind 63 running sequences", "computing 3,100 prompt tokens took 900 ms in 7 steps; 0 came from the cache"];

const TRACE = {
  id: "trace-1", object: "trace", request_id: SLOW.id, answer_id: "chatcmpl-1", endpoint: "/v1/chat/completions", model: "smollm2-135m", stream: true,
  state: "done", status: 200, finish_reasons: ["stop"], created: SLOW.created, queue_ms: 1800, time_to_first_token_ms: 2700, total_ms: 6900, usage: SLOW.usage,
  bytes: 5021, snippet: "My invoice from [redacted:email] is wrong: can I have a refund, and by when?",
};
const INPUT = { model: "smollm2-135m", messages: [{ role: "system", content: "You answer customers of a shop, briefly." }, { role: "user", content: TRACE.snippet }], stream: true };
const OUTPUT = { id: "chatcmpl-1", choices: [{ index: 0, message: { role: "assistant", content: "Yes. Send the invoice back within 30 days, and the refund is with you a week later.\n\n1. Open *Orders*.\n2. Choose *Return*." }, finish_reason: "stop" }] };

function traces(query) {
  const texts = [TRACE.snippet, "नमस्ते, क्या आप हिन्दी बोलते हैं?", "東京大学はどこですか", "Write a haiku about lexers"];
  const all = texts.map((snippet, index) => ({ ...TRACE, id: `trace-${index + 1}`, request_id: index === 0 ? SLOW.id : `r${index}`, created: SLOW.created - index * 600, snippet }));
  const data = all.filter(({ snippet }) => query.toLowerCase().split(" ").every((word) => snippet.toLowerCase().includes(word)));
  return { object: "list", data, first_id: data.at(0)?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: false };
}

/** The way of one request through the engine. */
function timeline() {
  const gaps = Array.from({ length: 120 }, (_, index) => (index === 60 ? [520_000, 8, 0] : index % 17 === 8 ? [80_000, 9, 512] : [20_000, 8, 0]));
  const took = gaps.reduce((sum, [us]) => sum + us / 1000, 0);
  const chunks = Array.from({ length: 7 }, (_, index) => ({ at_ms: 1800 + index * 128, took_ms: 124, choice: 0, from: index * 443, tokens: 443, other_tokens: 8, tokens_again: 0 }));
  chunks.push({ at_ms: 4555, took_ms: 110, choice: 0, from: 3072, tokens: 100, other_tokens: 8, tokens_again: 99 });
  return {
    prompt: 0, admitted_ms: 1800, first_token_ms: 2700, ended_ms: 2700 + took, chunks, gaps, long_gaps: [],
    preemptions: [{ at_ms: 4145, took_ms: 410, choice: 0, pages: 0 }], restores: [],
  };
}

/** Starts the server; with `key`, every API call must carry it. */
export function start({ port = 0, key = "" } = {}) {
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://mock");
    if (key && pathname.startsWith("/v1/") && request.headers.authorization !== `Bearer ${key}`) {
      return fail(response, 401, "This server wants an API key: send it as `Authorization: Bearer KEY`.", "authentication_error");
    }
    if (pathname === "/v1/models") return json(response, 200, { object: "list", data: MODELS.map((model) => ({ object: "model", owned_by: "yantra", ...model })) });
    if (pathname === "/v1/chat/completions") return void chat(request, response).catch((error) => fail(response, 500, String(error), "server_error"));
    if (pathname === "/v1/engine/events") return events(response);
    if (pathname === "/v1/engine/stats") return json(response, 200, snapshot());
    if (pathname === "/v1/requests") return json(response, 200, { object: "list", data: [SLOW, { ...SLOW, id: "running", state: "running" }] });
    if (pathname === `/v1/requests/${SLOW.id}`) return json(response, 200, { ...SLOW, traced: true, why: WHY, timelines: [timeline()] });
    if (pathname === "/v1/traces") return json(response, 200, traces(searchParams.get("query") ?? ""));
    if (pathname === "/v1/traces/trace-1" || pathname === `/v1/traces/${SLOW.id}`) return json(response, 200, { ...TRACE, input: INPUT, output: OUTPUT, timeline: true });
    return void file(pathname, response);
  });
  return new Promise((resolve) => {
    server.listen(port, "127.0.0.1", () => resolve({ server, url: `http://127.0.0.1:${server.address().port}` }));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf("--port");
  const { url } = await start({ port: at > 0 ? Number(process.argv[at + 1]) : 8088 });
  console.log(`mock server at ${url}`);
}
