/**
 * Conversations and settings, kept in the browser's local storage: one key per conversation, so that saving one never
 * rewrites the others. Storage that is full, refused or damaged costs persistence, never the page.
 */

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { matches, parseConversation, type Conversation } from "./conversation";
import { DEFAULTS, parseParams, type Params } from "./params";

export interface KeyValueStorage {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

const CHAT = "yantra.chat.";
const PARAMS = "yantra.params";

export class ConversationStore {
  private readonly map: Signal<ReadonlyMap<string, Conversation>> = signal(new Map());
  private readonly dirty = new Set<string>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** Newest first. */
  readonly list: ReadonlySignal<Conversation[]> = computed(() =>
    [...this.map.value.values()].sort((a, b) => b.updatedAt - a.updatedAt),
  );
  /** What went wrong with saving, in words for the user. */
  readonly problem = signal("");

  constructor(
    private readonly storage: KeyValueStorage | undefined,
    private readonly saveDelayMs = 300,
  ) {
    this.load();
  }

  get(id: string): Conversation | undefined {
    return this.map.value.get(id);
  }

  search(query: string): Conversation[] {
    return this.list.value.filter((conversation) => matches(conversation, query));
  }

  put(conversation: Conversation): void {
    const map = new Map(this.map.value);
    map.set(conversation.id, conversation);
    this.map.value = map;
    this.dirty.add(conversation.id);
    this.timer ??= setTimeout(() => this.flush(), this.saveDelayMs);
  }

  /** Applies a change to a conversation that may have been deleted meanwhile: then nothing happens. */
  update(id: string, change: (conversation: Conversation) => Conversation): void {
    const conversation = this.get(id);
    if (conversation) this.put(change(conversation));
  }

  delete(id: string): void {
    const map = new Map(this.map.value);
    if (!map.delete(id)) return;
    this.map.value = map;
    this.dirty.delete(id);
    this.guard(() => this.storage?.removeItem(CHAT + id));
  }

  /** Writes what is waiting to be written; called on a timer and before the page goes away. */
  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    for (const id of this.dirty) {
      const conversation = this.get(id);
      if (!conversation) continue;
      const saved = this.guard(() => this.storage?.setItem(CHAT + id, JSON.stringify(conversation)));
      if (saved) this.problem.value = "";
    }
    this.dirty.clear();
  }

  /** Another tab changed a key (the `storage` event). */
  changedElsewhere(key: string | null, value: string | null): void {
    if (!key?.startsWith(CHAT)) return;
    const map = new Map(this.map.value);
    const conversation = value === null ? undefined : parse(value);
    if (conversation) map.set(conversation.id, conversation);
    else map.delete(key.slice(CHAT.length));
    this.map.value = map;
  }

  loadParams(): Params {
    let text: string | null = null;
    this.guard(() => {
      text = this.storage?.getItem(PARAMS) ?? null;
    });
    return text === null ? { ...DEFAULTS } : parseParams(parseJson(text));
  }

  saveParams(params: Params): void {
    this.guard(() => this.storage?.setItem(PARAMS, JSON.stringify(params)));
  }

  private load(): void {
    this.guard(() => {
      const map = new Map<string, Conversation>();
      for (let index = 0; index < (this.storage?.length ?? 0); index++) {
        const key = this.storage?.key(index);
        if (!key?.startsWith(CHAT)) continue;
        const conversation = parse(this.storage?.getItem(key) ?? "");
        if (conversation) map.set(conversation.id, conversation);
      }
      this.map.value = map;
    });
  }

  private guard(action: () => void): boolean {
    try {
      action();
      return true;
    } catch (error) {
      const full = error instanceof Error && error.name === "QuotaExceededError";
      this.problem.value = full
        ? "The browser's storage is full: new messages are not being saved. Delete or export some conversations."
        : "The browser refuses to store conversations: they last until this page is closed.";
      return false;
    }
  }
}

function parse(text: string): Conversation | undefined {
  return parseConversation(parseJson(text));
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
