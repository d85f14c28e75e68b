/**
 * A conversation is a tree. Editing a question or asking for another answer adds a sibling, so nothing said is ever
 * overwritten; the path shown is the one that follows each node's selected child. All functions are pure: they return
 * a new conversation and share what did not change, which is what lets the page redraw only what did.
 */

import { parseParams, type Params } from "./params";
import type { Usage, WireMessage } from "./api";
import { splitThinking } from "./thinking";

export type Role = "user" | "assistant";

export interface AnswerStats {
  timeToFirstTokenMs?: number;
  totalMs?: number;
  tokensPerSecond?: number;
  usage?: Usage;
}

export interface Turn {
  id: string;
  parent: string;
  role: Role;
  content: string;
  /** Reasoning the server sent apart from the content. */
  reasoning?: string;
  createdAt: number;
  model?: string;
  finishReason?: string;
  error?: string;
  stats?: AnswerStats;
}

export interface Conversation {
  id: string;
  title: string;
  createdAt: number;
  updatedAt: number;
  model: string;
  system: string;
  params: Params;
  turns: Readonly<Record<string, Turn>>;
  /** Children of each turn in the order they were made; `ROOT` holds the first turns. */
  children: Readonly<Record<string, readonly string[]>>;
  /** Which child the shown path follows. */
  selected: Readonly<Record<string, string>>;
}

export const ROOT = "root";
const TITLE_LENGTH = 56;

export function newId(): string {
  // `randomUUID` exists only in secure contexts, and a page served over plain HTTP on a LAN is not one.
  const random = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(model: string, params: Params, now = Date.now()): Conversation {
  return {
    id: newId(), title: "", createdAt: now, updatedAt: now, model, system: "", params,
    turns: {}, children: {}, selected: {},
  };
}

/** The turns shown, first to last. */
export function path(conversation: Conversation): Turn[] {
  const turns: Turn[] = [];
  let at = conversation.selected[ROOT];
  while (at !== undefined) {
    const turn = conversation.turns[at];
    if (!turn) break;
    turns.push(turn);
    at = conversation.selected[at];
  }
  return turns;
}

/** The turns from the first one down to `id`, whether or not they are shown. */
export function ancestry(conversation: Conversation, id: string): Turn[] {
  const turns: Turn[] = [];
  for (let turn = conversation.turns[id]; turn; turn = conversation.turns[turn.parent]) turns.unshift(turn);
  return turns;
}

export function siblings(conversation: Conversation, id: string): readonly string[] {
  const turn = conversation.turns[id];
  return (turn && conversation.children[turn.parent]) ?? [];
}

/** Adds a turn under its parent and shows it. A conversation without a title takes it from its first question. */
export function append(conversation: Conversation, turn: Turn): Conversation {
  const { parent } = turn;
  return {
    ...conversation,
    title: conversation.title || (turn.role === "user" ? titleFrom(turn.content) : ""),
    updatedAt: turn.createdAt,
    turns: { ...conversation.turns, [turn.id]: turn },
    children: { ...conversation.children, [parent]: [...(conversation.children[parent] ?? []), turn.id] },
    selected: { ...conversation.selected, [parent]: turn.id },
  };
}

export function patch(conversation: Conversation, id: string, fields: Partial<Turn>): Conversation {
  const turn = conversation.turns[id];
  if (!turn) return conversation;
  return { ...conversation, turns: { ...conversation.turns, [id]: { ...turn, ...fields } } };
}

export function select(conversation: Conversation, id: string): Conversation {
  const turn = conversation.turns[id];
  if (!turn) return conversation;
  return { ...conversation, selected: { ...conversation.selected, [turn.parent]: id } };
}

/** Removes a turn with everything below it; the path moves to the nearest sibling. */
export function remove(conversation: Conversation, id: string): Conversation {
  const turn = conversation.turns[id];
  if (!turn) return conversation;
  const turns = { ...conversation.turns };
  const children: Record<string, readonly string[]> = { ...conversation.children };
  const selected: Record<string, string> = { ...conversation.selected };
  const doomed = [id];
  for (let at = doomed.pop(); at !== undefined; at = doomed.pop()) {
    doomed.push(...(children[at] ?? []));
    delete turns[at];
    delete children[at];
    delete selected[at];
  }
  const before = conversation.children[turn.parent] ?? [];
  const after = before.filter((child) => child !== id);
  children[turn.parent] = after;
  if (selected[turn.parent] === id) {
    const next = after[Math.min(before.indexOf(id), after.length - 1)];
    if (next === undefined) delete selected[turn.parent];
    else selected[turn.parent] = next;
  }
  return { ...conversation, turns, children, selected };
}

/** What is sent for an answer to the turn `id`: the system prompt and the path to it, without earlier reasoning. */
export function wireMessages(conversation: Conversation, id: string): WireMessage[] {
  const messages: WireMessage[] = [];
  if (conversation.system.trim()) messages.push({ role: "system", content: conversation.system });
  for (const { role, content } of ancestry(conversation, id)) {
    const sent = role === "assistant" ? splitThinking(content).answer : content;
    if (sent !== "" || role === "user") messages.push({ role, content: sent });
  }
  return messages;
}

export function titleFrom(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= TITLE_LENGTH) return line;
  const cut = line.slice(0, TITLE_LENGTH);
  const space = cut.lastIndexOf(" ");
  return `${space > TITLE_LENGTH / 2 ? cut.slice(0, space) : cut}…`;
}

/** Whether every word of the query occurs in the title or in anything said. */
export function matches(conversation: Conversation, query: string): boolean {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const haystack = [conversation.title, ...Object.values(conversation.turns).map((turn) => turn.content)].join("\n").toLowerCase();
  return words.every((word) => haystack.includes(word));
}

/** Reads a stored or imported conversation; `undefined` when it is not one. Dangling links are dropped. */
export function parseConversation(value: unknown): Conversation | undefined {
  if (!isRecord(value) || typeof value["id"] !== "string" || !isRecord(value["turns"])) return undefined;
  const turns: Record<string, Turn> = {};
  for (const [id, raw] of Object.entries(value["turns"])) {
    if (!isRecord(raw) || typeof raw["content"] !== "string" || typeof raw["parent"] !== "string") continue;
    if (raw["role"] !== "user" && raw["role"] !== "assistant") continue;
    turns[id] = { ...(raw as unknown as Turn), id, createdAt: numberOr(raw["createdAt"], 0) };
  }
  const children: Record<string, string[]> = {};
  const listed = isRecord(value["children"]) ? value["children"] : {};
  for (const [parent, ids] of Object.entries(listed)) {
    if ((parent !== ROOT && !turns[parent]) || !Array.isArray(ids)) continue;
    children[parent] = [...new Set(ids)].filter((id): id is string => typeof id === "string" && turns[id]?.parent === parent);
  }
  const selected: Record<string, string> = {};
  const chosen = isRecord(value["selected"]) ? value["selected"] : {};
  for (const [parent, ids] of Object.entries(children)) {
    const choice = chosen[parent];
    const shown = ids.find((id) => id === choice) ?? ids.at(-1);
    if (shown !== undefined) selected[parent] = shown;
  }
  return {
    id: value["id"],
    title: stringOr(value["title"], "Untitled"),
    createdAt: numberOr(value["createdAt"], 0),
    updatedAt: numberOr(value["updatedAt"], 0),
    model: stringOr(value["model"], ""),
    system: stringOr(value["system"], ""),
    params: parseParams(value["params"]),
    turns, children, selected,
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function stringOr(value: unknown, otherwise: string): string {
  return typeof value === "string" ? value : otherwise;
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === "number" && Number.isFinite(value) ? value : otherwise;
}

/** The shown path as Markdown, for reading elsewhere. */
export function toMarkdown(conversation: Conversation): string {
  const parts = [`# ${conversation.title || "Conversation"}`];
  if (conversation.system.trim()) parts.push(`> **System:** ${conversation.system.trim().replaceAll("\n", "\n> ")}`);
  for (const turn of path(conversation)) {
    const who = turn.role === "user" ? "You" : turn.model || "Assistant";
    const said = turn.role === "assistant" ? splitThinking(turn.content).answer : turn.content;
    parts.push(`## ${who}\n\n${said.trim()}`);
  }
  return `${parts.join("\n\n")}\n`;
}
