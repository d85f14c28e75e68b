import { describe, expect, it } from "vitest";
import {
  append, matches, newConversation, parseConversation, patch, path, remove, ROOT, select, siblings, titleFrom, toMarkdown, wireMessages,
  type Conversation, type Role,
} from "../src/lib/conversation";

function say(conversation: Conversation, id: string, parent: string, role: Role, content = id): Conversation {
  return append(conversation, { id, parent, role, content, createdAt: 1 });
}

/** q1 → a1, a2 (two answers); a2 → q2 → a3; q1b is an edit of q1. */
function tree(): Conversation {
  let conversation = newConversation("m", {}, 0);
  conversation = say(conversation, "q1", ROOT, "user");
  conversation = say(conversation, "a1", "q1", "assistant");
  conversation = say(conversation, "a2", "q1", "assistant");
  conversation = say(conversation, "q2", "a2", "user");
  conversation = say(conversation, "a3", "q2", "assistant");
  return say(conversation, "q1b", ROOT, "user");
}

const shown = (conversation: Conversation) => path(conversation).map((turn) => turn.id).join(" ");

describe("the conversation tree", () => {
  it("shows the newest fork, and every older one on request", () => {
    const conversation = tree();
    expect(shown(conversation)).toBe("q1b");
    expect(shown(select(conversation, "q1"))).toBe("q1 a2 q2 a3");
    expect(shown(select(select(conversation, "q1"), "a1"))).toBe("q1 a1");
    expect(siblings(conversation, "a1")).toEqual(["a1", "a2"]);
  });

  it("removes a turn with all below it and shows a neighbour", () => {
    const without = remove(select(tree(), "q1"), "a2");
    expect(shown(without)).toBe("q1 a1");
    expect(Object.keys(without.turns).sort()).toEqual(["a1", "q1", "q1b"]);
    expect(shown(remove(tree(), "q1b"))).toBe("q1 a2 q2 a3");
    expect(shown(remove(remove(tree(), "q1"), "q1b"))).toBe("");
  });

  it("leaves the original and unknown turns alone", () => {
    const before = tree();
    const copy = structuredClone(before);
    remove(before, "q1");
    patch(before, "a1", { content: "new" });
    expect(before).toEqual(copy);
    expect(patch(before, "nosuch", { content: "x" })).toBe(before);
    expect(remove(before, "nosuch")).toBe(before);
  });

  it("sends the path without earlier reasoning, and the system prompt first", () => {
    let conversation: Conversation = { ...tree(), system: "Be brief." };
    conversation = patch(conversation, "a2", { content: "<think>hm</think>\n\nanswer" });
    expect(wireMessages(conversation, "q2")).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "q1" },
      { role: "assistant", content: "answer" },
      { role: "user", content: "q2" },
    ]);
  });

  it("takes its title from the first question", () => {
    expect(tree().title).toBe("q1");
    expect(titleFrom("  one\n two ")).toBe("one two");
    expect(titleFrom("word ".repeat(30))).toBe(`${"word ".repeat(11).trim()}…`);
    expect(titleFrom("x".repeat(90))).toHaveLength(57);
  });

  it("is found by its words, wherever they were said", () => {
    expect(matches(tree(), "A3 q1")).toBe(true);
    expect(matches(tree(), "a3 nothing")).toBe(false);
    expect(matches(tree(), " ")).toBe(true);
  });

  it("survives being stored, and being damaged", () => {
    const conversation = { ...tree(), params: { temperature: 0.5, stop: ["\n"] } };
    expect(parseConversation(JSON.parse(JSON.stringify(conversation)))).toEqual(conversation);
    expect(parseConversation({ id: 1 })).toBeUndefined();
    expect(parseConversation(null)).toBeUndefined();
    const damaged = parseConversation({ id: "c", turns: { a: { role: "user", content: "x", parent: ROOT }, b: 4, c: { role: "root", content: "", parent: ROOT } }, children: { root: ["a", "b", "gone"], gone: ["a"] }, selected: { root: "gone" }, params: { temperature: 99, top_k: "many" } });
    expect(damaged && shown(damaged)).toBe("a");
    expect(damaged?.params).toEqual({ temperature: 2 });
  });

  it("exports what is shown", () => {
    expect(toMarkdown(select(select(tree(), "q1"), "a1"))).toBe("# q1\n\n## You\n\nq1\n\n## Assistant\n\na1\n");
  });
});
