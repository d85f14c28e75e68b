/**
 * The parts of Markdown rendering that decide what is safe and what is steady, apart from drawing it.
 *
 * `marked` only splits the text into tokens; the page builds elements from them, so HTML in an answer is shown as the
 * text it is and there is no string of markup to sanitise. Links keep a short list of schemes. Images become links:
 * fetching one would tell whoever the model names that the answer was read.
 */

import { Lexer, type Token } from "marked";

export type { Token, Tokens } from "marked";

const SCHEMES = new Set(["http:", "https:", "mailto:"]);

export function parseMarkdown(text: string): Token[] {
  return new Lexer({ gfm: true, breaks: false }).lex(text);
}

/** The address when following it is harmless, else `undefined`. Relative ones have no meaning in an answer. */
export function safeUrl(address: string): string | undefined {
  try {
    const url = new URL(address.trim());
    return SCHEMES.has(url.protocol) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

const ENTITIES: Readonly<Record<string, string>> = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™", hellip: "…",
  mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", times: "×", deg: "°", rarr: "→", larr: "←",
  le: "≤", ge: "≥", ne: "≠", middot: "·", bull: "•", euro: "€", pound: "£",
};

/** Character references as Markdown means them. The result is set as text, never as markup. */
export function decodeEntities(text: string): string {
  return text.replace(/&(#x[0-9a-f]{1,6}|#\d{1,7}|[a-z]{2,8});/gi, (whole, name: string) => {
    if (!name.startsWith("#")) return ENTITIES[name] ?? whole;
    const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? String.fromCodePoint(code) : "\ufffd";
  });
}

/**
 * Ends what the unfinished last line of a stream has begun, so that `**bol` is already bold instead of showing its
 * stars until the closing pair arrives. Inside a code fence nothing is touched.
 */
export function closeOpenMarkup(text: string): string {
  const fences = text.match(/^ {0,3}(?:```|~~~)/gm)?.length ?? 0;
  if (fences % 2 === 1) return text;
  const cut = text.lastIndexOf("\n") + 1;
  return text.slice(0, cut) + closeLine(text.slice(cut));
}

function closeLine(line: string): string {
  // A marker at the very end may be half of a pair, or open nothing yet: hold it back until its next character.
  let tail = line.replace(/(^|\s)(?:\*{1,3}|_{1,2}|`{1,2}|~{1,2}|!?\[)$/, "$1");
  const ticks = tail.match(/`/g)?.length ?? 0;
  if (ticks % 2 === 1) return `${tail}\``;
  // Markers inside finished code spans are text.
  const outside = tail.replace(/`[^`]*`/g, (span) => " ".repeat(span.length));
  const link = /!?\[([^\]\n]*)(?:\](?:\([^)\s]*)?)?$/.exec(outside);
  if (link && !/^\s*(?:[-*+]|\d+\.)\s+\[[ x]?\]?$/i.test(tail)) {
    tail = tail.slice(0, link.index) + tail.slice(link.index).replace(/^!?\[/, "").replace(/\](?:\([^)\s]*)?$/, "");
  }
  const visible = outside.slice(0, tail.length).replace(/^\s*[*+-]\s/, "");
  const strong = (visible.match(/\*\*(?!\*)/g)?.length ?? 0) % 2 === 1;
  const emphasis = (visible.replace(/\*\*/g, "").match(/(?<=^|[\s(])\*(?=\S)|(?<=\S)\*(?=[\s).,;:!?]|$)/g)?.length ?? 0) % 2 === 1;
  const struck = (visible.match(/~~/g)?.length ?? 0) % 2 === 1;
  if (/\s$/.test(tail) && (strong || emphasis || struck)) tail = tail.trimEnd();
  if (strong && tail.endsWith("*") && !tail.endsWith("**")) tail = tail.slice(0, -1);
  return tail + (struck ? "~~" : "") + (emphasis && !strong ? "*" : "") + (strong ? "**" : "");
}
