import { describe, expect, it } from "vitest";
import { append, newConversation, ROOT, type Conversation } from "../src/lib/conversation";
import { DEFAULTS } from "../src/lib/params";
import { ConversationStore, type KeyValueStorage } from "../src/lib/store";

class MemoryStorage implements KeyValueStorage {
  readonly map = new Map<string, string>();
  full = false;
  get length() {
    return this.map.size;
  }
  key(index: number) {
    return [...this.map.keys()][index] ?? null;
  }
  getItem(key: string) {
    return this.map.get(key) ?? null;
  }
  setItem(key: string, value: string) {
    if (this.full) throw new DOMException("no room", "QuotaExceededError");
    this.map.set(key, value);
  }
  removeItem(key: string) {
    this.map.delete(key);
  }
}

function conversation(text: string, at: number): Conversation {
  return append(newConversation("m", {}, at), { id: `q${at}`, parent: ROOT, role: "user", content: text, createdAt: at });
}

describe("ConversationStore", () => {
  it("keeps conversations across a restart, newest first", () => {
    const storage = new MemoryStorage();
    const first = new ConversationStore(storage);
    first.put(conversation("older", 1));
    first.put(conversation("newer", 2));
    expect(storage.map.size).toBe(0); // written later, all at once
    first.flush();
    const second = new ConversationStore(storage);
    expect(second.list.value.map((entry) => entry.title)).toEqual(["newer", "older"]);
    expect(second.search("OLD").map((entry) => entry.title)).toEqual(["older"]);
  });

  it("writes by itself after a moment", async () => {
    const storage = new MemoryStorage();
    new ConversationStore(storage, 1).put(conversation("x", 1));
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(storage.map.size).toBe(1);
  });

  it("deletes for good, even what an answer still updates", () => {
    const storage = new MemoryStorage();
    const store = new ConversationStore(storage);
    const entry = conversation("x", 1);
    store.put(entry);
    store.flush();
    store.delete(entry.id);
    store.update(entry.id, (stored) => ({ ...stored, title: "back from the dead" }));
    store.flush();
    expect(store.list.value).toEqual([]);
    expect(storage.map.size).toBe(0);
  });

  it("says when the storage is full, and works on", () => {
    const storage = new MemoryStorage();
    const store = new ConversationStore(storage);
    storage.full = true;
    store.put(conversation("x", 1));
    store.flush();
    expect(store.problem.value).toMatch(/full/);
    expect(store.list.value).toHaveLength(1);
    storage.full = false;
    store.put(conversation("y", 2));
    store.flush();
    expect(store.problem.value).toBe("");
  });

  it("works without any storage", () => {
    const store = new ConversationStore(undefined);
    store.put(conversation("x", 1));
    store.flush();
    expect(store.list.value).toHaveLength(1);
    expect(store.loadParams()).toEqual(DEFAULTS);
  });

  it("ignores damaged entries and other pages' keys", () => {
    const storage = new MemoryStorage();
    storage.map.set("yantra.chat.bad", "{");
    storage.map.set("yantra.chat.worse", "[]");
    storage.map.set("other", "{}");
    expect(new ConversationStore(storage).list.value).toEqual([]);
  });

  it("follows other tabs", () => {
    const store = new ConversationStore(new MemoryStorage());
    const entry = conversation("from elsewhere", 1);
    store.changedElsewhere(`yantra.chat.${entry.id}`, JSON.stringify(entry));
    expect(store.get(entry.id)?.title).toBe("from elsewhere");
    store.changedElsewhere(`yantra.chat.${entry.id}`, null);
    expect(store.list.value).toEqual([]);
    store.changedElsewhere("unrelated", "x");
  });

  it("keeps the parameters for new conversations", () => {
    const storage = new MemoryStorage();
    new ConversationStore(storage).saveParams({ temperature: 0.2, stop: ["END"], logprobs: true });
    expect(new ConversationStore(storage).loadParams()).toEqual({ temperature: 0.2, stop: ["END"], logprobs: true });
  });
});
