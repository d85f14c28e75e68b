/**
 * The API of the same origin: models, streamed chat completions, engine events. Wire types are the OpenAI ones with
 * every field optional that a server might leave out; nothing read from the network is trusted to be complete.
 */

import { parseList, parseRecord, type RequestRecord, type RequestSummary } from "./requests";
import { readEvents } from "./sse";
import { parseTraceRecord, parseTraces, type TracePage, type TraceRecord } from "./traces";

export interface ModelDetails {
  family?: string;
  parameters?: number | string;
  quantisation?: string;
  context_length?: number;
  size_bytes?: number;
  kind?: "generate" | "embed" | "score";
  [extra: string]: unknown;
}

export interface Model {
  id: string;
  created?: number;
  owned_by?: string;
  yantra?: ModelDetails;
}

export interface WireMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatRequest {
  model: string;
  messages: WireMessage[];
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  max_tokens?: number;
  seed?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  stop?: string[];
  logprobs?: boolean;
  top_logprobs?: number;
}

export interface TokenLogprob {
  token: string;
  logprob: number;
  top_logprobs?: { token: string; logprob: number }[];
}

export interface Usage {
  prompt_tokens?: number;
  completion_tokens?: number;
  total_tokens?: number;
  prompt_tokens_details?: { cached_tokens?: number } | null;
}

/** One piece of a streamed answer, flattened from the wire's choices and deltas. */
export interface ChatPiece {
  text?: string;
  reasoning?: string;
  logprobs?: TokenLogprob[];
  finishReason?: string;
  usage?: Usage;
}

/** An error the server reported, or the failure to reach it (`status` 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly kind?: string,
    readonly param?: string,
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** Reads OpenAI's `{"error": {message, type, param, code}}`, and whatever else a proxy may answer instead. */
export function errorFrom(status: number, body: string, retryAfter?: string | null): ApiError {
  const seconds = retryAfter && /^\d+$/.test(retryAfter.trim()) ? Number(retryAfter) : undefined;
  try {
    const parsed: unknown = JSON.parse(body);
    const error = isRecord(parsed) && "error" in parsed ? parsed["error"] : parsed;
    if (typeof error === "string") return new ApiError(status, error, undefined, undefined, seconds);
    if (isRecord(error) && typeof error["message"] === "string") {
      return new ApiError(status, error["message"], text(error["type"]), text(error["param"]), seconds);
    }
  } catch {
    // not JSON: fall through to the plain text
  }
  const plain = body.startsWith("<") ? "" : body.trim().slice(0, 500);
  return new ApiError(status, plain || `The server answered ${status}.`, undefined, undefined, seconds);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

export class Api {
  constructor(
    private readonly key: () => string,
    private readonly base = "",
  ) {}

  async models(signal?: AbortSignal): Promise<Model[]> {
    const response = await this.request("/v1/models", { ...(signal && { signal }) });
    const body: unknown = await response.json();
    const list = isRecord(body) && Array.isArray(body["data"]) ? body["data"] : [];
    return list.filter((entry): entry is Model => isRecord(entry) && typeof entry["id"] === "string");
  }

  /** Streams one answer. Ends when the server says `[DONE]` or closes; throws `ApiError`, or the abort's reason. */
  async *chat(request: ChatRequest, signal: AbortSignal): AsyncGenerator<ChatPiece> {
    const response = await this.request("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    if (!response.body) throw new ApiError(response.status, "The server answered without a body.");
    let finished = false;
    for await (const { event, data } of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const piece = parseChunk(data, event);
      if (piece.finishReason) finished = true;
      yield piece;
    }
    if (!finished) throw new ApiError(0, "The connection closed before the answer was complete.");
  }

  /** Engine snapshots as they come, one a second. */
  async *engineEvents(signal: AbortSignal): AsyncGenerator<unknown> {
    const response = await this.request("/v1/engine/events", { signal, headers: { accept: "text/event-stream" } });
    if (!response.body) throw new ApiError(response.status, "The server answered without a body.");
    for await (const { data } of readEvents(response.body)) {
      try {
        yield JSON.parse(data);
      } catch {
        // one unreadable snapshot is not worth the whole view
      }
    }
  }

  async engineStats(signal: AbortSignal): Promise<unknown> {
    return (await this.request("/v1/engine/stats", { signal })).json();
  }

  /** The latest requests, or the slowest of those that are kept. */
  async requests(order: "latest" | "slow", signal: AbortSignal): Promise<RequestSummary[]> {
    return parseList(await (await this.request(`/v1/requests?limit=200&order=${order}`, { signal })).json());
  }

  async requestRecord(id: string, signal: AbortSignal): Promise<RequestRecord> {
    const record = parseRecord(await (await this.request(`/v1/requests/${encodeURIComponent(id)}`, { signal })).json());
    if (!record) throw new ApiError(0, "The server answered something that is no request.");
    return record;
  }

  /** What was asked and answered, those that ended last first: all, or those that have all words of `query`. */
  async traces(query: string, after: string | undefined, signal: AbortSignal): Promise<TracePage> {
    const wanted = new URLSearchParams({ limit: "50", ...(query.trim() && { query }), ...(after && { after }) });
    return parseTraces(await (await this.request(`/v1/traces?${wanted}`, { signal })).json());
  }

  /** A trace by its own id, the answer's or the request's. */
  async trace(id: string, signal: AbortSignal): Promise<TraceRecord> {
    const record = parseTraceRecord(await (await this.request(`/v1/traces/${encodeURIComponent(id)}`, { signal })).json());
    if (!record) throw new ApiError(0, "The server answered something that is no trace.");
    return record;
  }

  private async request(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    const key = this.key();
    if (key) headers.set("authorization", `Bearer ${key}`);
    let response: Response;
    try {
      response = await fetch(this.base + path, { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new ApiError(0, "The server cannot be reached. Is it still running?");
    }
    if (!response.ok) {
      throw errorFrom(response.status, await response.text().catch(() => ""), response.headers.get("retry-after"));
    }
    return response;
  }
}

/** One `data:` payload of a chat stream. A payload holding an error, or an `error` event, throws it. */
export function parseChunk(data: string, event = "message"): ChatPiece {
  let chunk: unknown;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError(0, `The server sent a chunk that is not JSON: ${data.slice(0, 120)}`);
  }
  if (event === "error" || (isRecord(chunk) && isRecord(chunk["error"]))) throw errorFrom(0, data);
  const piece: ChatPiece = {};
  if (!isRecord(chunk)) return piece;
  if (isRecord(chunk["usage"])) piece.usage = chunk["usage"] as Usage;
  const choice: unknown = Array.isArray(chunk["choices"]) ? chunk["choices"][0] : undefined;
  if (!isRecord(choice)) return piece;
  const delta = isRecord(choice["delta"]) ? choice["delta"] : {};
  const content = text(delta["content"]);
  const reasoning = text(delta["reasoning_content"]) ?? text(delta["reasoning"]);
  const finishReason = text(choice["finish_reason"]);
  if (content) piece.text = content;
  if (reasoning) piece.reasoning = reasoning;
  if (finishReason) piece.finishReason = finishReason;
  const logprobs = isRecord(choice["logprobs"]) ? choice["logprobs"]["content"] : undefined;
  if (Array.isArray(logprobs)) {
    piece.logprobs = logprobs.filter(
      (entry): entry is TokenLogprob => isRecord(entry) && typeof entry["token"] === "string" && typeof entry["logprob"] === "number",
    );
  }
  return piece;
}
