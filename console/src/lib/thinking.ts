/**
 * Reasoning models write `<think>…</think>` before they answer. Only a block that opens the answer counts: the same
 * tag later on is something the model is talking about.
 */

export interface Thinking {
  thinking: string;
  answer: string;
  /** The block has not ended yet: the model is still thinking. */
  open: boolean;
}

const OPEN = "<think>";
const CLOSE = "</think>";

export function splitThinking(content: string): Thinking {
  const start = content.trimStart();
  if (start.startsWith(OPEN)) {
    const body = start.slice(OPEN.length);
    const end = body.indexOf(CLOSE);
    if (end < 0) return { thinking: withoutPartial(body, CLOSE).trim(), answer: "", open: true };
    return { thinking: body.slice(0, end).trim(), answer: body.slice(end + CLOSE.length).trimStart(), open: false };
  }
  // While the opening tag itself is arriving, show neither it nor its pieces.
  if (start !== "" && OPEN.startsWith(start)) return { thinking: "", answer: "", open: true };
  // Some chat templates open the block in the prompt, so the answer holds only its end.
  const end = content.indexOf(CLOSE);
  if (end >= 0 && !content.slice(0, end).includes("`")) {
    return { thinking: content.slice(0, end).trim(), answer: content.slice(end + CLOSE.length).trimStart(), open: false };
  }
  return { thinking: "", answer: content, open: false };
}

function withoutPartial(text: string, tag: string): string {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(tag.slice(0, length))) return text.slice(0, -length);
  }
  return text;
}
