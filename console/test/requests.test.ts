import { describe, expect, it } from "vitest";
import { columns, parseList, parseRecord, pieces, type RequestRecord } from "../src/lib/requests";

function record(fields: Record<string, unknown>): RequestRecord {
  const parsed = parseRecord({ id: "r", ...fields });
  if (!parsed) throw new Error("not a request");
  return parsed;
}

const SLOW = record({
  prepare_ms: 100, total_ms: 1000, why: ["because", 7],
  timelines: [{
    admitted_ms: 200, first_token_ms: 400, ended_ms: 800,
    chunks: [{ at_ms: 200, took_ms: 200, tokens: 5 }, { at_ms: 650, took_ms: 50, tokens: 5, tokens_again: 4 }],
    gaps: [[100_000, 2, 0], [200_000, 2, 64], [100_000, 2, 0]],
    preemptions: [{ at_ms: 550, took_ms: 100 }],
  }],
});

describe("parseRecord", () => {
  it("tolerates whatever is missing or odd", () => {
    expect(parseRecord({ why: [] })).toBeUndefined();
    expect(parseList({ data: [null, { id: 3 }, { id: "a", usage: 4 }] })).toMatchObject([{ id: "a", promptTokens: null }]);
    expect(record({ timelines: [null, { gaps: ["x", [1000]] }] }).timelines[1]?.gaps).toMatchObject([{ tookMs: 0 }, { tookMs: 1 }]);
    expect(SLOW.why).toEqual(["because"]);
    expect([SLOW.traced, record({ traced: true }).traced]).toEqual([false, true]);
  });
});

describe("the picture", () => {
  const [timeline] = SLOW.timelines;
  if (!timeline) throw new Error("no timeline");

  it("lays the parts along the line", () => {
    expect(pieces(SLOW, timeline).map(({ kind, from, to }) => [kind, Number(from.toFixed(3)), Number(to.toFixed(3))])).toEqual([
      ["prepare", 0, 0.1], ["queue", 0.1, 0.3], ["decode", 0.5, 0.9], ["lost", 0.65, 0.75],
      ["prefill", 0.3, 0.5], ["again", 0.75, 0.8], ["send", 0.9, 1],
    ]);
  });

  it("shows the longest gap of each column", () => {
    const whole = { ...timeline, preemptions: [] };
    expect(columns(SLOW, whole, 10)).toEqual([
      { at: 0.5, tookMs: 100, shared: false }, { at: 0.7, tookMs: 200, shared: true }, { at: 0.8, tookMs: 100, shared: false },
    ]);
    expect(columns(SLOW, whole, 1)).toEqual([{ at: 0, tookMs: 200, shared: true }]);
    expect(columns(SLOW, timeline, 1)).toEqual([{ at: 0, tookMs: 100, shared: false }]); // without the one of the preemption
  });
});
