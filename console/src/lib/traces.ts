/** What the server kept of requests and answers, and what of it is shown: who said what. */

import { fields, list, number, text } from "./fields";

export interface TraceSummary {
  id: string;
  requestId: string;
  endpoint: string;
  model: string;
  tenant: string | undefined;
  state: string;
  error: string | undefined;
  /** Milliseconds since 1970. */
  created: number | null;
  firstTokenMs: number | null;
  totalMs: number | null;
  promptTokens: number | null;
  cachedTokens: number | null;
  completionTokens: number | null;
  finishReasons: string[];
  snippet: string;
}

export interface TraceRecord extends TraceSummary {
  input: unknown;
  output: unknown;
  /** Whether the server still has the request's timeline. */
  timeline: boolean;
}

export interface TracePage {
  traces: TraceSummary[];
  /** Where the next page begins, if there is one. */
  after: string | undefined;
}

export function parseTrace(value: unknown): TraceSummary | undefined {
  const from = fields(value);
  const id = text(from["id"]);
  if (id === undefined) return undefined;
  const usage = fields(from["usage"]);
  const created = number(from["created"]);
  return {
    id,
    requestId: text(from["request_id"]) ?? id,
    endpoint: text(from["endpoint"]) ?? "",
    model: text(from["model"]) ?? "",
    tenant: text(from["tenant"]),
    state: text(from["state"]) ?? "",
    error: text(from["error"]),
    created: created === null ? null : created * 1000,
    firstTokenMs: number(from["time_to_first_token_ms"]),
    totalMs: number(from["total_ms"]),
    promptTokens: number(usage["prompt_tokens"]),
    cachedTokens: number(fields(usage["prompt_tokens_details"])["cached_tokens"]),
    completionTokens: number(usage["completion_tokens"]),
    finishReasons: list(from["finish_reasons"]).filter((reason) => typeof reason === "string"),
    snippet: text(from["snippet"]) ?? "",
  };
}

export function parseTraces(value: unknown): TracePage {
  const from = fields(value);
  const traces = list(from["data"]).map(parseTrace).filter((entry) => entry !== undefined);
  return { traces, after: from["has_more"] === true ? traces.at(-1)?.id : undefined };
}

export function parseTraceRecord(value: unknown): TraceRecord | undefined {
  const summary = parseTrace(value);
  const from = fields(value);
  return summary && { ...summary, input: from["input"], output: from["output"] ?? null, timeline: from["timeline"] === true };
}

/** A text, and whose it is. */
export interface Said {
  who: string;
  text: string;
}

/** What a request says, whatever its endpoint; what has no text is shown as JSON. */
export function asked(input: unknown): Said[] {
  const from = fields(input);
  const said: Said[] = [];
  const add = (who: string, value: unknown) => {
    const found = plain(value);
    if (found !== "") said.push({ who, text: found });
  };
  add("system", from["system"] ?? from["instructions"]);
  for (const entry of list(from["messages"])) message(entry, add);
  const prompt = from["input"];
  if (list(prompt).some((entry) => fields(entry)["role"] !== undefined || fields(entry)["type"] !== undefined)) {
    for (const entry of list(prompt)) message(entry, add);
  } else for (const entry of each(prompt)) add("user", entry);
  for (const entry of each(from["prompt"])) add("user", entry);
  add("query", from["query"]);
  for (const entry of list(from["documents"])) add("document", entry);
  for (const entry of each(from["text_1"])) add("text 1", entry);
  for (const entry of each(from["text_2"])) add("text 2", entry);
  return said;
}

/** What an answer says. */
export function answered(output: unknown): Said[] {
  const from = fields(output);
  const said: Said[] = [];
  const add = (who: string, value: unknown) => {
    const found = plain(value);
    if (found !== "") said.push({ who, text: found });
  };
  for (const choice of list(from["choices"])) {
    add("assistant", fields(choice)["text"]);
    message({ role: "assistant", ...fields(fields(choice)["message"]) }, add);
  }
  if (from["content"] !== undefined) message({ role: "assistant", content: from["content"] }, add);
  for (const item of list(from["output"])) message({ role: "assistant", ...fields(item) }, add);
  add("error", fields(from["error"])["message"]);
  return said;
}

function message(value: unknown, add: (who: string, value: unknown) => void): void {
  const from = fields(value);
  const who = text(from["role"]) ?? text(from["type"]) ?? "user";
  const kind = text(from["type"]);
  add("reasoning", from["reasoning_content"]);
  if (kind === "function_call") add("call", call(from));
  else if (kind === "function_call_output") add("tool", from["output"]);
  else if (kind === "reasoning") add("reasoning", from["content"]);
  else {
    const content = from["content"];
    const parts = list(content).map(fields);
    add("reasoning", parts.filter((part) => part["type"] === "thinking").map((part) => part["thinking"]));
    add(who, Array.isArray(content) ? parts.filter((part) => part["type"] !== "thinking" && part["type"] !== "tool_use") : content);
    for (const part of parts) if (part["type"] === "tool_use") add("call", call(part));
  }
  for (const each of list(from["tool_calls"])) add("call", call(fields(fields(each)["function"])));
}

function call(from: Record<string, unknown>): string {
  const given = from["arguments"] ?? from["input"];
  return `${text(from["name"]) ?? "?"}(${typeof given === "string" ? given : JSON.stringify(given ?? {})})`;
}

/** A prompt of several is a list of texts; one of tokens is one. */
function each(value: unknown): unknown[] {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) && value.some((entry) => typeof entry !== "number") ? value : [value];
}

function plain(value: unknown): string {
  if (typeof value === "string") return value;
  if (value === undefined || value === null || (Array.isArray(value) && value.length === 0)) return "";
  if (Array.isArray(value) && !value.every((entry) => typeof entry === "number")) return value.map(plain).filter(Boolean).join("\n");
  const from = fields(value);
  for (const name of ["text", "content", "output"]) if (typeof from[name] === "string") return from[name];
  return JSON.stringify(value);
}
