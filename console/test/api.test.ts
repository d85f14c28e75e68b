import { describe, expect, it } from "vitest";
import { ApiError, errorFrom, parseChunk } from "../src/lib/api";
import { clamp, countChanged, DEFAULTS, PARAMS, toRequest } from "../src/lib/params";
import { splitThinking } from "../src/lib/thinking";
import { ago, bytes, compact, duration, figure, percent, span } from "../src/lib/format";

describe("errors", () => {
  it("reads OpenAI's shape", () => {
    const error = errorFrom(429, '{"error":{"message":"busy","type":"overloaded","param":"n"}}', "7");
    expect(error).toMatchObject({ status: 429, message: "busy", kind: "overloaded", param: "n", retryAfterSeconds: 7 });
  });
  it.each([
    ['{"error":"plain"}', "plain"],
    ["upstream timed out", "upstream timed out"],
    ["<html>Bad gateway</html>", "The server answered 502."],
    ["", "The server answered 502."],
    ["null", "null"],
  ])("reads %j", (body, message) => {
    expect(errorFrom(502, body).message).toBe(message);
  });
});

describe("chunks", () => {
  it("flattens content, reasoning, probabilities, reason and usage", () => {
    expect(parseChunk('{"choices":[{"delta":{"content":"a","reasoning_content":"b"},"finish_reason":"stop","logprobs":{"content":[{"token":"a","logprob":-1},{"bad":1}]}}],"usage":{"prompt_tokens":3}}')).toEqual({
      text: "a", reasoning: "b", finishReason: "stop", logprobs: [{ token: "a", logprob: -1 }], usage: { prompt_tokens: 3 },
    });
  });
  it.each(['{"choices":[]}', '{"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}', "{}", "[]", '{"choices":[null]}'])("takes %j for nothing new", (chunk) => {
    expect(parseChunk(chunk)).toEqual({});
  });
  it("throws errors sent in the stream", () => {
    expect(() => parseChunk('{"error":{"message":"out of pages"}}')).toThrow(ApiError);
    expect(() => parseChunk('{"message":"x"}', "error")).toThrow("x");
    expect(() => parseChunk("{")).toThrow(/not JSON/);
  });
});

describe("thinking", () => {
  it.each([
    ["plain", "", "plain", false],
    ["<th", "", "", true],
    ["<think>a", "a", "", true],
    ["<think>a</thi", "a", "", true],
    ["<think>a</think>\n\nb", "a", "b", false],
    ["a\n</think>\nb", "a", "b", false],
    ["use `</think>` here", "", "use `</think>` here", false],
    ["b <think>c</think>", "b <think>c", "", false],
    ["< 3", "", "< 3", false],
  ])("%j", (content, thinking, answer, open) => {
    expect(splitThinking(content)).toEqual({ thinking, answer, open });
  });
});

describe("parameters", () => {
  it("sends what is set and nothing else", () => {
    expect(toRequest({})).toEqual({});
    expect(toRequest({ temperature: 0, stop: [], logprobs: true })).toEqual({ temperature: 0, logprobs: true, top_logprobs: 5 });
  });
  it("counts what differs from the defaults", () => {
    expect([countChanged({ ...DEFAULTS }), countChanged({}), countChanged({ ...DEFAULTS, temperature: 0, seed: 1 })]).toEqual([0, 2, 2]);
  });
  it("keeps values in range", () => {
    for (const spec of PARAMS) {
      expect(clamp(spec, -1e9)).toBe(spec.min);
      expect(clamp(spec, 1e30)).toBe(spec.max);
      expect(clamp(spec, spec.typical)).toBe(spec.typical);
    }
  });
});

describe("format", () => {
  it("reads well", () => {
    expect([compact(134_515_008), compact(9999), compact(12_345), compact(0)]).toEqual(["135M", "9999", "12.3k", "0"]);
    expect([figure(3.14159), figure(42.05), figure(1234.5), figure(null), figure(Number.NaN)]).toEqual(["3.14", "42", "1235", "–", "–"]);
    expect([bytes(98_566_144), bytes(512)]).toEqual(["94 MiB", "512 B"]);
    expect([duration(0.42), duration(85), duration(1240), duration(125_000)]).toEqual(["0.42 ms", "85 ms", "1.24 s", "2 min 5 s"]);
    expect([span(0), span(59), span(90_061)]).toEqual(["0 s", "59 s", "1 d 1 h"]);
    expect(percent(0.1234)).toBe("12.3%");
    expect([ago(0, 5000), ago(0, 120_000), ago(0, 7_200_000)]).toEqual(["now", "2 min", "2 h"]);
  });
});
