/**
 * Server-sent events over `fetch`, after the WHATWG specification (HTML, section 9.2.6).
 *
 * `EventSource` can neither POST nor carry an `Authorization` header, so the stream is parsed here. The parser is fed
 * arbitrary pieces of text: a piece may end inside a line, between the CR and LF of one line end, or hold many events.
 */

export interface ServerEvent {
  /** The `event:` field; "message" when absent. */
  event: string;
  /** All `data:` lines of the event, joined by line feeds. */
  data: string;
  /** The last `id:` seen on this stream. */
  id: string;
}

/** Longest line kept, in UTF-16 units: a server that never ends a line must not fill the tab's memory. */
const MAX_LINE = 8 * 1024 * 1024;

export class SseParser {
  private buffer = "";
  private started = false;
  private skipLineFeed = false;
  private data: string[] = [];
  private event = "";
  private id = "";
  /** Milliseconds to wait before reconnecting, when the server said so. */
  retryMs: number | undefined;

  /** Feeds one piece; returns the events it completed. */
  push(piece: string): ServerEvent[] {
    const events: ServerEvent[] = [];
    if (!this.started && piece.length > 0) {
      this.started = true;
      if (piece.charCodeAt(0) === 0xfeff) piece = piece.slice(1);
    }
    if (this.skipLineFeed && piece.length > 0) {
      this.skipLineFeed = false;
      if (piece.startsWith("\n")) piece = piece.slice(1);
    }
    // Only the new piece is searched for line ends; the held-back start of the line is known to have none.
    let start = 0;
    for (let i = 0; i < piece.length; i++) {
      const unit = piece.charCodeAt(i);
      if (unit !== 10 && unit !== 13) continue;
      this.line(this.buffer + piece.slice(start, i), events);
      this.buffer = "";
      if (unit === 13) {
        if (i + 1 === piece.length) this.skipLineFeed = true;
        else if (piece.charCodeAt(i + 1) === 10) i++;
      }
      start = i + 1;
    }
    this.buffer += piece.slice(start);
    if (this.buffer.length > MAX_LINE) throw new Error(`the server sent a line longer than ${MAX_LINE} characters`);
    return events;
  }

  private line(line: string, events: ServerEvent[]): void {
    if (line === "") {
      if (this.data.length > 0) {
        events.push({ event: this.event || "message", data: this.data.join("\n"), id: this.id });
      }
      this.data = [];
      this.event = "";
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment, used to keep the connection alive
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.data.push(value);
    else if (field === "event") this.event = value;
    else if (field === "id" && !value.includes("\0")) this.id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }
}

/**
 * Reads a response body as events until it ends. An event cut off by the end of the stream is dropped, as the
 * specification asks. Leaving the loop early cancels the body, which closes the connection.
 */
export async function* readEvents(body: ReadableStream<Uint8Array>, parser = new SseParser()): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let ended = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        ended = true;
        return;
      }
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    if (!ended) await reader.cancel().catch(() => undefined);
    reader.releaseLock();
  }
}
