/** The latest requests as the server tells them, and one as a picture: what lies where on a line from its coming to its end. */

import { fields, list, number, text } from "./fields";

export interface RequestSummary {
  id: string;
  endpoint: string;
  model: string;
  tenant: string | undefined;
  state: string;
  status: number | null;
  error: string | undefined;
  /** Milliseconds since 1970. */
  created: number | null;
  prepareMs: number;
  queueMs: number | null;
  firstTokenMs: number | null;
  totalMs: number;
  promptTokens: number | null;
  cachedTokens: number | null;
  completionTokens: number | null;
  finishReasons: string[];
}

export interface Chunk {
  atMs: number;
  tookMs: number;
  tokens: number;
  again: number;
}

export interface Interruption {
  atMs: number;
  tookMs: number;
}

/** A time between two tokens. */
export interface Gap {
  atMs: number;
  tookMs: number;
  sequences: number;
  promptTokens: number;
}

export interface Timeline {
  prompt: number;
  admittedMs: number | null;
  firstTokenMs: number | null;
  endedMs: number;
  chunks: Chunk[];
  gaps: Gap[];
  preemptions: Interruption[];
  restores: Interruption[];
}

export interface RequestRecord extends RequestSummary {
  /** Whether what it said is kept. */
  traced: boolean;
  why: string[];
  timelines: Timeline[];
}

export function parseSummary(value: unknown): RequestSummary | undefined {
  const from = fields(value);
  const id = text(from["id"]);
  if (id === undefined) return undefined;
  const usage = fields(from["usage"]);
  const created = number(from["created"]);
  return {
    id,
    endpoint: text(from["endpoint"]) ?? "",
    model: text(from["model"]) ?? "",
    tenant: text(from["tenant"]),
    state: text(from["state"]) ?? "",
    status: number(from["status"]),
    error: text(from["error"]),
    created: created === null ? null : created * 1000,
    prepareMs: number(from["prepare_ms"]) ?? 0,
    queueMs: number(from["queue_ms"]),
    firstTokenMs: number(from["time_to_first_token_ms"]),
    totalMs: number(from["total_ms"]) ?? 0,
    promptTokens: number(usage["prompt_tokens"]),
    cachedTokens: number(fields(usage["prompt_tokens_details"])["cached_tokens"]),
    completionTokens: number(usage["completion_tokens"]),
    finishReasons: list(from["finish_reasons"]).filter((reason) => typeof reason === "string"),
  };
}

export function parseList(value: unknown): RequestSummary[] {
  return list(fields(value)["data"]).map(parseSummary).filter((entry) => entry !== undefined);
}

export function parseRecord(value: unknown): RequestRecord | undefined {
  const summary = parseSummary(value);
  if (!summary) return undefined;
  const from = fields(value);
  const why = list(from["why"]).filter((line) => typeof line === "string");
  return { ...summary, traced: from["traced"] === true, why, timelines: list(from["timelines"]).map(parseTimeline) };
}

function parseTimeline(value: unknown): Timeline {
  const from = fields(value);
  const firstTokenMs = number(from["first_token_ms"]);
  const interruption = (entry: unknown): Interruption => ({
    atMs: number(fields(entry)["at_ms"]) ?? 0,
    tookMs: number(fields(entry)["took_ms"]) ?? 0,
  });
  let at = firstTokenMs ?? 0;
  const gap = (entry: unknown, atMs: number): Gap => {
    const [us, sequences, promptTokens] = list(entry).map(number);
    return { atMs, tookMs: (us ?? 0) / 1000, sequences: sequences ?? 0, promptTokens: promptTokens ?? 0 };
  };
  const gaps = list(from["gaps"]).map((entry) => {
    const placed = gap(entry, at);
    at += placed.tookMs;
    return placed;
  });
  const later = list(from["long_gaps"]).map((entry) => gap(fields(entry)["gap"], number(fields(entry)["at_ms"]) ?? 0));
  return {
    prompt: number(from["prompt"]) ?? 0,
    admittedMs: number(from["admitted_ms"]),
    firstTokenMs,
    endedMs: number(from["ended_ms"]) ?? 0,
    chunks: list(from["chunks"]).map((entry) => ({
      ...interruption(entry),
      tokens: number(fields(entry)["tokens"]) ?? 0,
      again: number(fields(entry)["tokens_again"]) ?? 0,
    })),
    gaps: [...gaps, ...later],
    preemptions: list(from["preemptions"]).map(interruption),
    restores: list(from["restores"]).map(interruption),
  };
}

export type PieceKind = "prepare" | "queue" | "disk" | "prefill" | "again" | "decode" | "lost" | "send";

/** A stretch of the line, in shares of its length. */
export interface Piece {
  kind: PieceKind;
  from: number;
  to: number;
}

/** The stretches of a prompt's line, those drawn later over those before. */
export function pieces(record: RequestSummary, timeline: Timeline): Piece[] {
  const total = Math.max(record.totalMs, record.prepareMs + timeline.endedMs, 0.001);
  const found: Piece[] = [];
  const add = (kind: PieceKind, from: number, took: number) => {
    if (took > 0) found.push({ kind, from: from / total, to: Math.min(1, (from + took) / total) });
  };
  const submitted = record.prepareMs;
  const ended = submitted + timeline.endedMs;
  add("prepare", 0, submitted);
  add("queue", submitted, timeline.admittedMs ?? timeline.endedMs);
  for (const { atMs, tookMs } of timeline.restores) add("disk", submitted + atMs, tookMs);
  if (timeline.firstTokenMs !== null) add("decode", submitted + timeline.firstTokenMs, timeline.endedMs - timeline.firstTokenMs);
  for (const { atMs, tookMs } of timeline.preemptions) add("lost", submitted + atMs, tookMs);
  for (const { atMs, tookMs, again } of timeline.chunks) add(again > 0 ? "again" : "prefill", submitted + atMs, tookMs);
  add("send", ended, record.totalMs - ended);
  return found;
}

/** The longest gap in a stretch of the line. */
export interface Column {
  at: number;
  tookMs: number;
  /** Whether its step computed prompts of others too. */
  shared: boolean;
}

/** Gaps as at most `count` columns over the line, each as high as its longest. Preemptions are seen on the line itself. */
export function columns(record: RequestSummary, timeline: Timeline, count: number): Column[] {
  const total = Math.max(record.totalMs, record.prepareMs + timeline.endedMs, 0.001);
  const found = new Map<number, Column>();
  const isLost = (gap: Gap) => timeline.preemptions.some(({ atMs, tookMs }) => atMs < gap.atMs + gap.tookMs && gap.atMs < atMs + tookMs);
  for (const gap of timeline.gaps) {
    if (isLost(gap)) continue;
    const place = Math.min(count - 1, Math.floor(((record.prepareMs + gap.atMs + gap.tookMs / 2) / total) * count));
    const before = found.get(place);
    if (!before || before.tookMs < gap.tookMs) found.set(place, { at: place / count, tookMs: gap.tookMs, shared: gap.promptTokens > 0 });
  }
  return [...found.values()];
}
