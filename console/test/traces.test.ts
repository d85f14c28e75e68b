import { describe, expect, it } from "vitest";
import { answered, asked, parseTraceRecord, parseTraces } from "../src/lib/traces";

describe("parseTraces", () => {
  it("tolerates whatever is missing or odd", () => {
    expect(parseTraces(null)).toEqual({ traces: [], after: undefined });
    const page = parseTraces({ data: [7, { id: "trace-1", usage: 3 }, { id: "trace-2", created: 2, request_id: "r" }], has_more: true });
    expect(page.traces).toMatchObject([{ id: "trace-1", requestId: "trace-1", promptTokens: null }, { requestId: "r", created: 2000 }]);
    expect(page.after).toBe("trace-2");
    expect(parseTraceRecord({})).toBeUndefined();
    expect(parseTraceRecord({ id: "trace-1", input: { a: 1 } })).toMatchObject({ input: { a: 1 }, output: null, timeline: false });
  });
});

const call = { name: "f", arguments: '{"a":1}' };

describe("what was said", () => {
  it("is found in chats", () => {
    expect(asked({ messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "Hello" }, { type: "text", text: "there" }] },
      { role: "assistant", content: null, tool_calls: [{ function: call }] },
      { role: "tool", content: "7" },
    ] })).toEqual([
      { who: "system", text: "Be brief." }, { who: "user", text: "Hello\nthere" }, { who: "call", text: 'f({"a":1})' }, { who: "tool", text: "7" },
    ]);
    expect(answered({ choices: [{ message: { role: "assistant", content: "Hi", reasoning_content: "Hm" } }] })).toEqual([
      { who: "reasoning", text: "Hm" }, { who: "assistant", text: "Hi" },
    ]);
  });

  it("is found in Anthropic's messages and in responses", () => {
    expect(asked({ system: "Be brief.", messages: [{ role: "user", content: "Hello" }] })).toEqual([
      { who: "system", text: "Be brief." }, { who: "user", text: "Hello" },
    ]);
    expect(answered({ content: [{ type: "thinking", thinking: "Hm" }, { type: "text", text: "Hi" }, { type: "tool_use", name: "f", input: { a: 1 } }] })).toEqual([
      { who: "reasoning", text: "Hm" }, { who: "assistant", text: "Hi" }, { who: "call", text: 'f({"a":1})' },
    ]);
    expect(asked({ instructions: "Be brief.", input: [{ type: "message", role: "user", content: "Hello" }, { type: "function_call", ...call }, { type: "function_call_output", output: "7" }] })).toEqual([
      { who: "system", text: "Be brief." }, { who: "user", text: "Hello" }, { who: "call", text: 'f({"a":1})' }, { who: "tool", text: "7" },
    ]);
    expect(answered({ output: [{ type: "message", role: "assistant", content: [{ type: "output_text", text: "Hi" }] }, { type: "function_call", ...call }] })).toEqual([
      { who: "assistant", text: "Hi" }, { who: "call", text: 'f({"a":1})' },
    ]);
  });

  it("is found in completions, embeddings and ranks, and errors are told", () => {
    expect(asked({ prompt: ["Once", "Twice"] })).toEqual([{ who: "user", text: "Once" }, { who: "user", text: "Twice" }]);
    expect(asked({ input: [1, 2] })).toEqual([{ who: "user", text: "[1,2]" }]);
    expect(asked({ input: "x" })).toEqual([{ who: "user", text: "x" }]);
    expect(asked({ query: "q", documents: ["a", { text: "b" }] })).toEqual([
      { who: "query", text: "q" }, { who: "document", text: "a" }, { who: "document", text: "b" },
    ]);
    expect(answered({ choices: [{ text: "upon a time" }] })).toEqual([{ who: "assistant", text: "upon a time" }]);
    expect(answered({ error: { message: "no" } })).toEqual([{ who: "error", text: "no" }]);
    expect([...asked(null), ...answered("odd"), ...asked({ messages: [null, 3] })]).toEqual([]);
  });
});
