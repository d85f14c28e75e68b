/** Asking and answering: the one place that starts, follows and stops streamed answers. */

import { computed, signal, type Signal } from "@preact/signals";
import { ApiError, type ChatPiece, type TokenLogprob, type Usage } from "./lib/api";
import {
  append, newConversation, newId, patch, remove, ROOT, wireMessages, type AnswerStats, type Conversation, type Turn,
} from "./lib/conversation";
import { toRequest, type Params } from "./lib/params";
import { api, chatModels, defaultModel, go, noteUnauthorised, route, store } from "./state";

/** An answer while it is being written. Its text lives here, so that a token redraws one message and nothing else. */
export interface LiveAnswer {
  readonly turn: string;
  readonly content: Signal<string>;
  readonly reasoning: Signal<string>;
  readonly tokensPerSecond: Signal<number | undefined>;
  readonly abort: AbortController;
}

/** Conversation → its running answer. Several conversations may be answering at once. */
export const live = signal<ReadonlyMap<string, LiveAnswer>>(new Map());

/** Token probabilities by turn: too large to store, so they last as long as the page. */
export const logprobs = signal<ReadonlyMap<string, readonly TokenLogprob[]>>(new Map());

/** Settings for a conversation that does not exist yet: the empty page has a model and parameters, too. */
export const draft = signal<Conversation>(newConversation("", store.loadParams()));

export const current = computed<Conversation>(() => {
  const at = route.value;
  const id = at.page === "chat" ? at.id : undefined;
  const found = id === undefined ? undefined : store.list.value.find((conversation) => conversation.id === id);
  return found ?? draft.value;
});

export const currentModel = computed(() => {
  const wanted = current.value.model;
  return chatModels.value.some((model) => model.id === wanted) ? wanted : defaultModel.value;
});

export const isStored = (conversation: Conversation): boolean => conversation.id !== draft.value.id;

/** Changes the current conversation, stored or not. */
export function change(fields: Partial<Pick<Conversation, "model" | "system" | "params" | "title">>): void {
  const conversation = current.value;
  if (isStored(conversation)) store.update(conversation.id, (stored) => ({ ...stored, ...fields }));
  else draft.value = { ...conversation, ...fields };
}

export function startNew(): void {
  draft.value = newConversation(defaultModel.value, store.loadParams());
  go("#/chat");
}

export function keepAsDefault(params: Params): void {
  store.saveParams(params);
}

export function send(text: string): void {
  const conversation = current.value;
  if (text.trim() === "" || live.value.has(conversation.id)) return;
  ask(conversation, lastShown(conversation), text);
  if (!isStored(conversation)) {
    draft.value = newConversation(defaultModel.value, store.loadParams());
    go(`#/chat/${conversation.id}`);
  }
}

function lastShown(conversation: Conversation): string {
  let at = ROOT;
  for (let next = conversation.selected[at]; next !== undefined; next = conversation.selected[at]) at = next;
  return at;
}

/** Asks another question in the place of `turn`; the old one stays as its sibling. */
export function edit(conversation: Conversation, turn: Turn, text: string): void {
  if (text.trim() === "") return;
  stop(conversation.id);
  ask(conversation, turn.parent, text);
}

/** Answers again; the old answer stays as a sibling. */
export function regenerate(conversation: Conversation, answer: Turn): void {
  stop(conversation.id);
  begin(conversation, answer.parent);
}

export function removeTurn(conversation: Conversation, turn: Turn): void {
  stop(conversation.id);
  store.update(conversation.id, (stored) => remove(stored, turn.id));
}

export function stop(conversation: string): void {
  live.value.get(conversation)?.abort.abort();
}

export function deleteConversation(id: string): void {
  stop(id);
  store.delete(id);
  const at = route.value;
  if (at.page === "chat" && at.id === id) startNew();
}

/** A page that closes in the middle of an answer keeps what has come so far. */
addEventListener("pagehide", () => {
  for (const [id, { turn, content, reasoning }] of live.value) {
    store.update(id, (stored) => patch(stored, turn, { content: content.value, reasoning: reasoning.value, finishReason: "stopped" }));
  }
  store.flush();
});

function ask(conversation: Conversation, parent: string, text: string): void {
  const question: Turn = { id: newId(), parent, role: "user", content: text, createdAt: Date.now() };
  begin(append(store.get(conversation.id) ?? conversation, question), question.id);
}

function begin(conversation: Conversation, question: string): void {
  const model = currentModel.value;
  const answer: Turn = { id: newId(), parent: question, role: "assistant", content: "", createdAt: Date.now(), model };
  const started = append({ ...conversation, model }, answer);
  store.put(started);
  void follow(started, answer);
}

async function follow(conversation: Conversation, answer: Turn): Promise<void> {
  const running: LiveAnswer = {
    turn: answer.id, content: signal(""), reasoning: signal(""), tokensPerSecond: signal(undefined), abort: new AbortController(),
  };
  live.value = new Map(live.value).set(conversation.id, running);
  const collector = new Collector(running);
  let error: string | undefined;
  try {
    const request = {
      model: answer.model ?? "",
      messages: wireMessages(conversation, answer.parent),
      ...toRequest(conversation.params),
    };
    for await (const piece of api.chat(request, running.abort.signal)) collector.take(piece);
  } catch (caught) {
    if (running.abort.signal.aborted) collector.finishReason = "stopped";
    else {
      noteUnauthorised(caught);
      error = describe(caught);
    }
  }
  collector.show();
  store.update(conversation.id, (stored) => patch(stored, answer.id, { ...collector.result(), ...(error && { error }) }));
  if (collector.tokens.length > 0) logprobs.value = new Map(logprobs.value).set(answer.id, collector.tokens);
  if (live.value.get(conversation.id) === running) {
    const rest = new Map(live.value);
    rest.delete(conversation.id);
    live.value = rest;
  }
}

function describe(error: unknown): string {
  if (!(error instanceof ApiError)) return error instanceof Error ? error.message : String(error);
  const field = error.param ? ` (${error.param})` : "";
  const retry = error.retryAfterSeconds === undefined ? "" : ` Try again in ${error.retryAfterSeconds} s.`;
  return `${error.message}${field}${retry}`;
}

/** Gathers pieces and shows them once per frame, however fast they come. */
class Collector {
  finishReason: string | undefined;
  readonly tokens: TokenLogprob[] = [];
  private content = "";
  private reasoning = "";
  private usage: Usage | undefined;
  private readonly startedAt = performance.now();
  private firstAt: number | undefined;
  private lastAt = 0;
  private pieces = 0;
  private waiting = false;

  constructor(private readonly answer: LiveAnswer) {}

  take(piece: ChatPiece): void {
    if (piece.usage) this.usage = piece.usage;
    if (piece.finishReason) this.finishReason = piece.finishReason;
    if (piece.logprobs) this.tokens.push(...piece.logprobs);
    if (!piece.text && !piece.reasoning) return;
    this.content += piece.text ?? "";
    this.reasoning += piece.reasoning ?? "";
    this.lastAt = performance.now();
    this.firstAt ??= this.lastAt;
    this.pieces += 1;
    if (this.waiting) return;
    this.waiting = true;
    // A hidden tab gets no animation frames, and its answer must not pile up unseen.
    if (document.hidden) setTimeout(() => this.show(), 200);
    else requestAnimationFrame(() => this.show());
  }

  show(): void {
    this.waiting = false;
    this.answer.content.value = this.content;
    this.answer.reasoning.value = this.reasoning;
    this.answer.tokensPerSecond.value = this.rate(this.pieces);
  }

  result(): Partial<Turn> {
    const stats: AnswerStats = { totalMs: performance.now() - this.startedAt };
    if (this.firstAt !== undefined) stats.timeToFirstTokenMs = this.firstAt - this.startedAt;
    const rate = this.rate(this.usage?.completion_tokens ?? this.pieces);
    if (rate !== undefined) stats.tokensPerSecond = rate;
    if (this.usage) stats.usage = this.usage;
    return {
      content: this.content,
      stats,
      ...(this.reasoning && { reasoning: this.reasoning }),
      ...(this.finishReason && { finishReason: this.finishReason }),
    };
  }

  /** The first token's wait is not generation speed, so it is counted out. */
  private rate(tokens: number): number | undefined {
    const seconds = this.firstAt === undefined ? 0 : (this.lastAt - this.firstAt) / 1000;
    return seconds > 0.02 && tokens > 1 ? (tokens - 1) / seconds : undefined;
  }
}
