import { describe, expect, it } from "vitest";
import { EngineHistory, HISTORY_MS, parseSnapshot, type Snapshot } from "../src/lib/engine";
import { niceMax, split, windowMs } from "../src/lib/plot";

function snapshot(uptime: number | null, fields: Record<string, unknown>): Snapshot {
  const parsed = parseSnapshot({ uptime_seconds: uptime ?? undefined, models: [{ id: "m", ...fields }] });
  if (!parsed) throw new Error("not a snapshot");
  return parsed;
}

describe("parseSnapshot", () => {
  it("tolerates whatever is missing or odd", () => {
    expect(parseSnapshot(undefined)).toBeUndefined();
    expect(parseSnapshot({ models: "none" })).toBeUndefined();
    expect(parseSnapshot({ models: [null, { running: 1 }, { id: "m", running: "1", inter_token_ms: { p50: 3 } }] })?.models).toMatchObject([
      { id: "m", running: null, interTokenMs: { p50: 3, p95: null, p99: null } },
    ]);
  });
});

describe("EngineHistory", () => {
  it("turns counters into rates by the server's clock", () => {
    const history = new EngineHistory();
    history.push(snapshot(10, { output_tokens_total: 100, prompt_tokens_total: 0 }), 0);
    history.push(snapshot(12, { output_tokens_total: 180, prompt_tokens_total: 10 }), 5000); // came late
    expect(history.samples("m").map((sample) => [sample.outputPerSecond, sample.promptPerSecond])).toEqual([[null, null], [40, 5]]);
  });

  it("uses its own clock when the server sends none", () => {
    const history = new EngineHistory();
    history.push(snapshot(null, { output_tokens_total: 0 }), 1000);
    history.push(snapshot(null, { output_tokens_total: 30 }), 3000);
    expect(history.samples("m").at(-1)?.outputPerSecond).toBe(15);
  });

  it("starts over when the server did", () => {
    const history = new EngineHistory();
    history.push(snapshot(500, { output_tokens_total: 9000 }), 0);
    history.push(snapshot(1, { output_tokens_total: 5 }), 1000);
    expect(history.samples("m").at(-1)?.outputPerSecond).toBeNull();
    history.push(snapshot(2, { output_tokens_total: 25 }), 2000);
    expect(history.samples("m").at(-1)?.outputPerSecond).toBe(20);
  });

  it("measures cache hits over the last minute, unknown when nothing was asked", () => {
    const history = new EngineHistory();
    history.push(snapshot(0, { prefix_hit_tokens: 0, prefix_query_tokens: 1000 }), 0);
    history.push(snapshot(1, { prefix_hit_tokens: 0, prefix_query_tokens: 1000 }), 1000);
    expect(history.samples("m").at(-1)?.prefixHitRate).toBeNull();
    history.push(snapshot(2, { prefix_hit_tokens: 75, prefix_query_tokens: 1100 }), 2000);
    expect(history.samples("m").at(-1)?.prefixHitRate).toBe(0.75);
  });

  it("knows the share of pages in use, and forgets after five minutes", () => {
    const history = new EngineHistory();
    for (let second = 0; second < 400; second++) history.push(snapshot(second, { kv_pages_used: 1, kv_pages_total: 4 }), second * 1000);
    const samples = history.samples("m");
    expect(samples.at(-1)?.kvUse).toBe(0.25);
    expect((samples.at(-1)?.time ?? 0) - (samples[0]?.time ?? 0)).toBeLessThanOrEqual(HISTORY_MS + 2000);
    expect(samples.length).toBeGreaterThan(299);
    expect(history.samples("nosuch")).toEqual([]);
  });
});

describe("plot", () => {
  it.each([[0, 1], [0.3, 0.5], [1, 1], [2.1, 2.5], [7, 10], [97, 100], [101, 200], [2500, 2500]])("the axis for %d ends at %d", (value, top) => {
    expect(niceMax(value)).toBeCloseTo(top, 10);
  });

  it("shows more of the past as there is more", () => {
    const history = new EngineHistory();
    history.push(snapshot(0, {}), 0);
    const samples = history.samples("m");
    expect([0, 59_000, 61_000, 170_000, 900_000].map((now) => windowMs(samples, now) / 60_000)).toEqual([1, 1, 2, 3, 5]);
    expect(windowMs([], 5)).toBe(60_000);
  });

  it("cuts lines where nothing is known", () => {
    const history = new EngineHistory();
    for (const [time, running] of [[0, 1], [1000, 2], [2000, null], [3000, 3], [20_000, 4]] as const) history.push(snapshot(time, { running }), time);
    expect(split(history.samples("m"), (sample) => sample.running).map((run) => run.length)).toEqual([2, 1, 1]);
  });
});
