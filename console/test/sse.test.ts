import { describe, expect, it } from "vitest";
import { readEvents, SseParser, type ServerEvent } from "../src/lib/sse";

function parse(...pieces: string[]): ServerEvent[] {
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

const data = (...pieces: string[]) => parse(...pieces).map((event) => event.data);

describe("SseParser", () => {
  it("reads the examples of the specification", () => {
    expect(data("data: YHOO\ndata: +2\ndata: 10\n\n")).toEqual(["YHOO\n+2\n10"]);
    expect(parse(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n")).toEqual([
      { event: "message", data: "first event", id: "1" },
      { event: "message", data: "second event", id: "" },
      { event: "message", data: " third event", id: "" },
    ]);
    expect(data("data\n\ndata\ndata\n\ndata:")).toEqual(["", "\n"]);
  });

  it("takes every line end, also one cut in two", () => {
    expect(data("data: a\r\n\r\ndata: b\r\rdata: c\n\n")).toEqual(["a", "b", "c"]);
    expect(data("data: a\r", "\n\r", "\ndata: b\r", "\n\r\n")).toEqual(["a", "b"]);
  });

  it("gives the same events wherever the stream is cut", () => {
    const stream = "event: token\r\nid: 7\r\ndata: {\"text\":\"नमस्ते 👋\"}\r\n\r\n: ping\n\ndata: x\ndata:y\r\rretry: 250\ndata: [DONE]\n\n";
    const whole = parse(stream);
    expect(whole).toHaveLength(3);
    expect(parse(...stream)).toEqual(whole);
    for (let cut = 0; cut <= stream.length; cut++) expect(parse(stream.slice(0, cut), stream.slice(cut))).toEqual(whole);
  });

  it("skips a byte order mark, comments and unknown fields, and keeps the reconnection time", () => {
    const parser = new SseParser();
    expect(parser.push("\ufeffdata: a\nfoo: bar\nretry: 1500\nretry: soon\n\n")).toEqual([{ event: "message", data: "a", id: "" }]);
    expect(parser.retryMs).toBe(1500);
  });

  it("does not carry an event's name over to the next", () => {
    expect(parse("event: error\ndata: 1\n\ndata: 2\n\n").map((event) => event.event)).toEqual(["error", "message"]);
    expect(parse("event: lost\n\ndata: 2\n\n").map((event) => event.event)).toEqual(["message"]);
  });

  it("refuses a line without end", () => {
    const parser = new SseParser();
    const megabyte = "x".repeat(1024 * 1024);
    expect(() => {
      for (let i = 0; i < 10; i++) parser.push(megabyte);
    }).toThrow(/longer than/);
  });
});

describe("readEvents", () => {
  function body(bytes: Uint8Array, size: number, onCancel = () => {}): ReadableStream<Uint8Array> {
    let at = 0;
    return new ReadableStream({
      pull(controller) {
        if (at >= bytes.length) return controller.close();
        controller.enqueue(bytes.subarray(at, (at += size)));
      },
      cancel: onCancel,
    });
  }

  it("joins characters cut between bytes", async () => {
    const bytes = new TextEncoder().encode("data: किताब 📚\n\ndata: end\n\n");
    for (const size of [1, 2, 3, 5, 1000]) {
      const seen: string[] = [];
      for await (const event of readEvents(body(bytes, size))) seen.push(event.data);
      expect(seen).toEqual(["किताब 📚", "end"]);
    }
  });

  it("closes the connection when the reader leaves", async () => {
    let cancelled = false;
    const bytes = new TextEncoder().encode("data: a\n\ndata: b\n\n");
    for await (const event of readEvents(body(bytes, 9, () => (cancelled = true)))) {
      expect(event.data).toBe("a");
      break;
    }
    expect(cancelled).toBe(true);
  });
});
