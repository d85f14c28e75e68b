/**
 * From engine snapshots to lines on a chart. The server sends counters and gauges once a second; rates are computed
 * here from the differences, against the server's own clock, so that a late or missing snapshot bends nothing.
 */

export interface Percentiles {
  p50: number | null;
  p95: number | null;
  p99: number | null;
}

export interface ModelSnapshot {
  id: string;
  /** False while forward passes keep failing. */
  healthy: boolean;
  running: number | null;
  waiting: number | null;
  kvPagesUsed: number | null;
  kvPagesTotal: number | null;
  /** Pages kept for later prompts; they are given up when needed. */
  kvPagesCached: number | null;
  prefixHitTokens: number | null;
  prefixQueryTokens: number | null;
  promptTokens: number | null;
  outputTokens: number | null;
  preemptions: number | null;
  steps: number | null;
  timeToFirstTokenMs: Percentiles;
  interTokenMs: Percentiles;
  endToEndMs: Percentiles;
}

export interface Snapshot {
  models: ModelSnapshot[];
  uptimeSeconds: number | null;
}

/** One second of one model; `null` is "not known", drawn as a gap. */
export interface Sample {
  /** Milliseconds since the epoch, this browser's clock. */
  time: number;
  outputPerSecond: number | null;
  promptPerSecond: number | null;
  stepsPerSecond: number | null;
  running: number | null;
  waiting: number | null;
  kvUse: number | null;
  kvCached: number | null;
  /** Of the prompt tokens looked up over the last minute, the share found in the cache. */
  prefixHitRate: number | null;
  timeToFirstTokenMs: Percentiles;
  interTokenMs: Percentiles;
  endToEndMs: Percentiles;
}

export const HISTORY_MS = 5 * 60_000;
const HIT_WINDOW_MS = 60_000;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function numeric(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function percentiles(value: unknown): Percentiles {
  const raw = isRecord(value) ? value : {};
  return { p50: numeric(raw["p50"]), p95: numeric(raw["p95"]), p99: numeric(raw["p99"]) };
}

/** Reads a snapshot with whatever fields it has; `undefined` when it is not one at all. */
export function parseSnapshot(value: unknown): Snapshot | undefined {
  if (!isRecord(value) || !Array.isArray(value["models"])) return undefined;
  const models = value["models"].filter(isRecord).filter((model) => typeof model["id"] === "string");
  return {
    uptimeSeconds: numeric(value["uptime_seconds"]),
    models: models.map((model) => ({
      id: String(model["id"]),
      running: numeric(model["running"]),
      waiting: numeric(model["waiting"]),
      kvPagesUsed: numeric(model["kv_pages_used"]),
      kvPagesTotal: numeric(model["kv_pages_total"]),
      kvPagesCached: numeric(model["kv_pages_cached"]),
      healthy: model["healthy"] !== false,
      prefixHitTokens: numeric(model["prefix_hit_tokens"]),
      prefixQueryTokens: numeric(model["prefix_query_tokens"]),
      promptTokens: numeric(model["prompt_tokens_total"]),
      outputTokens: numeric(model["output_tokens_total"]),
      preemptions: numeric(model["preemptions_total"]),
      steps: numeric(model["steps_total"]),
      timeToFirstTokenMs: percentiles(model["time_to_first_token_ms"]),
      interTokenMs: percentiles(model["inter_token_ms"]),
      endToEndMs: percentiles(model["end_to_end_ms"]),
    })),
  };
}

interface Observation {
  time: number;
  clock: number;
  model: ModelSnapshot;
}

/** Five minutes of samples for every model seen. */
export class EngineHistory {
  private readonly observed = new Map<string, Observation[]>();
  private readonly sampled = new Map<string, Sample[]>();

  push(snapshot: Snapshot, now: number): void {
    for (const model of snapshot.models) {
      const clock = snapshot.uptimeSeconds ?? now / 1000;
      const observations = this.observed.get(model.id) ?? [];
      const before = observations.at(-1);
      // The server restarted: its counters began again, and differences across that mean nothing.
      if (before && (clock < before.clock || restarted(before.model, model))) observations.length = 0;
      observations.push({ time: now, clock, model });
      drop(observations, now - HIT_WINDOW_MS);
      this.observed.set(model.id, observations);

      const samples = this.sampled.get(model.id) ?? [];
      samples.push(sample(observations));
      drop(samples, now - HISTORY_MS - 2000);
      this.sampled.set(model.id, samples);
    }
  }

  samples(model: string): readonly Sample[] {
    return this.sampled.get(model) ?? [];
  }
}

function drop(entries: { time: number }[], before: number): void {
  const keep = entries.findIndex((entry) => entry.time >= before);
  if (keep > 0) entries.splice(0, keep);
}

function restarted(before: ModelSnapshot, after: ModelSnapshot): boolean {
  const gained = [difference(before.outputTokens, after.outputTokens), difference(before.steps, after.steps)];
  return gained.some((count) => count !== null && count < 0);
}

function difference(before: number | null, after: number | null): number | null {
  return before === null || after === null ? null : after - before;
}

function sample(observations: readonly Observation[]): Sample {
  const last = observations.at(-1);
  if (!last) throw new RangeError("a sample needs at least one observation");
  const before = observations.at(-2);
  const first = observations[0] ?? last;
  const { model } = last;
  const seconds = before ? last.clock - before.clock : 0;
  const rate = (counter: (of: ModelSnapshot) => number | null): number | null => {
    if (!before || seconds <= 0) return null;
    const gained = difference(counter(before.model), counter(model));
    return gained === null || gained < 0 ? null : gained / seconds;
  };
  const queried = difference(first.model.prefixQueryTokens, model.prefixQueryTokens);
  const hit = difference(first.model.prefixHitTokens, model.prefixHitTokens);
  return {
    time: last.time,
    outputPerSecond: rate((of) => of.outputTokens),
    promptPerSecond: rate((of) => of.promptTokens),
    stepsPerSecond: rate((of) => of.steps),
    running: model.running,
    waiting: model.waiting,
    kvUse: model.kvPagesTotal ? (model.kvPagesUsed ?? 0) / model.kvPagesTotal : null,
    kvCached: model.kvPagesTotal && model.kvPagesCached !== null ? model.kvPagesCached / model.kvPagesTotal : null,
    prefixHitRate: queried !== null && hit !== null && queried > 0 ? Math.min(1, hit / queried) : null,
    timeToFirstTokenMs: model.timeToFirstTokenMs,
    interTokenMs: model.interTokenMs,
    endToEndMs: model.endToEndMs,
  };
}
