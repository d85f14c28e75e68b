/** The conversation: its bar, its turns, the composer. */

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { path, toMarkdown, type Conversation, type Turn } from "../lib/conversation";
import { compact } from "../lib/format";
import { countChanged } from "../lib/params";
import { change, current, currentModel, deleteConversation, isStored, live, send, stop, type LiveAnswer } from "../session";
import { chatModels, drawerOpen, keyWanted, loadModels, modelsState, panelOpen, useModel } from "../state";
import { download, IconButton, Menu } from "./controls";
import { Figure, Icon } from "./icons";
import { Answer, Question } from "./message";
import { ParamsPanel } from "./params-panel";

export function ChatPage() {
  const conversation = current.value;
  const running = live.value.get(conversation.id);
  const turns = path(conversation);
  useEffect(() => {
    document.title = conversation.title ? `${conversation.title} · Yantra` : "Yantra";
  }, [conversation.title]);
  useEscapeToStop(conversation.id);
  return (
    <div class="chat-page">
      <section class="chat" aria-label="Conversation">
        <ChatBar conversation={conversation} />
        {turns.length === 0 ? <Welcome /> : <Transcript conversation={conversation} turns={turns} running={running} />}
        <Composer key={conversation.id} conversation={conversation} running={running} />
      </section>
      {panelOpen.value && <ParamsPanel conversation={conversation} />}
    </div>
  );
}

function useEscapeToStop(id: string): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !event.defaultPrevented) stop(id);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [id]);
}

function ChatBar({ conversation }: { conversation: Conversation }) {
  const count = countChanged(conversation.params) + (conversation.system.trim() ? 1 : 0);
  const name = (conversation.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  return (
    <header class="bar">
      <IconButton icon="menu" label="Menu" class="only-narrow" onClick={() => (drawerOpen.value = true)} />
      <ModelPicker />
      <span class="spacer" />
      <button
        type="button"
        class={`button quiet ${panelOpen.value ? "on" : ""}`}
        aria-expanded={panelOpen.value}
        aria-label={count > 0 ? `Parameters, ${count} changed` : "Parameters"}
        onClick={() => (panelOpen.value = !panelOpen.value)}
      >
        <Icon name="sliders" />
        <span class="only-wide">Parameters</span>
        {count > 0 && <span class="count">{count}</span>}
      </button>
      {isStored(conversation) && (
        <Menu
          label="Conversation menu"
          icon="more"
          items={[
            { label: "Export Markdown", icon: "download", run: () => download(`${name}.md`, "text/markdown", toMarkdown(conversation)) },
            { label: "Export JSON", icon: "download", run: () => download(`${name}.json`, "application/json", JSON.stringify(conversation, null, 2)) },
            { label: "Delete", icon: "trash", danger: true, run: () => deleteConversation(conversation.id) },
          ]}
        />
      )}
    </header>
  );
}

function ModelPicker() {
  const state = modelsState.value;
  const models = chatModels.value;
  if (models.length === 0) {
    if (typeof state === "object" && state.unauthorised) {
      return <button type="button" class="button quiet" onClick={() => (keyWanted.value = "refused")}><Icon name="key" />API key needed</button>;
    }
    if (state === "loading") return <span class="model-picker hint">Looking for models…</span>;
    return (
      <button type="button" class="button quiet" onClick={() => void loadModels()}>
        {state === "ready" ? "No chat model is served" : "No connection"} · Retry
      </button>
    );
  }
  const details = models.find((model) => model.id === currentModel.value)?.yantra;
  const facts = [details?.quantisation, details?.context_length && `${compact(details.context_length)} context`].filter(Boolean).join(" · ");
  return (
    <label class="model-picker">
      <span class="offscreen">Model</span>
      <select
        value={currentModel.value}
        onChange={(event) => {
          useModel(event.currentTarget.value);
          change({ model: event.currentTarget.value });
        }}
      >
        {models.map((model) => <option key={model.id} value={model.id}>{model.id}</option>)}
      </select>
      <Icon name="down" />
      {facts && <span class="facts only-wide">{facts}</span>}
    </label>
  );
}

const STARTERS = [
  "Explain how a transformer predicts the next token, to a curious twelve-year-old.",
  "Write a Rust function that merges two sorted slices, with tests.",
  "Compare three ways to cut the latency of a web service, in a table.",
  "Draft a short, warm note to a colleague who has just shipped something hard.",
];

function Welcome() {
  return (
    <div class="welcome">
      <Figure />
      <h1>What shall we work on?</h1>
      <ul class="starters">
        {STARTERS.map((text) => <li key={text}><button type="button" onClick={() => send(text)} disabled={currentModel.value === ""}>{text}</button></li>)}
      </ul>
    </div>
  );
}

/** How close to the end still counts as reading along. */
const FOLLOW_PX = 80;

function Transcript({ conversation, turns, running }: { conversation: Conversation; turns: Turn[]; running: LiveAnswer | undefined }) {
  const scroller = useRef<HTMLDivElement>(null);
  const inner = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const [away, setAway] = useState(false);

  const toEnd = () => {
    const element = scroller.current;
    if (element) element.scrollTop = element.scrollHeight;
  };
  useLayoutEffect(() => {
    following.current = true;
    toEnd();
  }, [conversation.id, running?.turn]);
  useEffect(() => {
    if (!inner.current) return undefined;
    const observer = new ResizeObserver(() => following.current && toEnd());
    observer.observe(inner.current);
    return () => observer.disconnect();
  }, []);
  const onScroll = () => {
    const element = scroller.current;
    if (!element) return;
    following.current = element.scrollHeight - element.scrollTop - element.clientHeight < FOLLOW_PX;
    setAway(!following.current);
  };
  return (
    <div class="transcript-frame">
      <div class="transcript" ref={scroller} onScroll={onScroll} tabIndex={-1}>
        <div class="column" ref={inner} role="log" aria-label="Messages">
          {turns.map((turn) => (
            <TurnView key={turn.id} conversation={conversation} turn={turn} running={running?.turn === turn.id ? running : undefined} />
          ))}
        </div>
      </div>
      {away && <IconButton icon="down" label="To the end" class="to-end" onClick={toEnd} />}
    </div>
  );
}

function TurnView({ conversation, turn, running }: { conversation: Conversation; turn: Turn; running: LiveAnswer | undefined }) {
  return useMemo(
    () => turn.role === "user"
      ? <Question conversation={conversation} turn={turn} />
      : <Answer conversation={conversation} turn={turn} live={running} />,
    [conversation, turn, running],
  );
}

function Composer({ conversation, running }: { conversation: Conversation; running: LiveAnswer | undefined }) {
  const [text, setText] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight, innerHeight * 0.4)}px`;
  }, [text]);
  useEffect(() => {
    if (matchMedia("(hover: hover)").matches) area.current?.focus();
  }, []);
  const ready = currentModel.value !== "" && !running;
  const submit = () => {
    if (!ready || text.trim() === "") return;
    send(text);
    setText("");
  };
  return (
    <form class="composer" onSubmit={(event) => (event.preventDefault(), submit())}>
      <div class="composer-box">
        <textarea
          ref={area}
          rows={1}
          value={text}
          aria-label="Message"
          placeholder={currentModel.value ? `Message ${currentModel.value}` : "No model to talk to yet"}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            submit();
          }}
        />
        {running ? (
          <button type="button" class="round stop" aria-label="Stop" title="Stop (Esc)" onClick={() => stop(conversation.id)}><Icon name="stop" /></button>
        ) : (
          <button type="submit" class="round" aria-label="Send" title="Send (Enter)" disabled={!ready || text.trim() === ""}><Icon name="send" /></button>
        )}
      </div>
      <p class="keys only-wide"><kbd>Enter</kbd> send <kbd>Shift Enter</kbd> new line <kbd>Esc</kbd> stop</p>
    </form>
  );
}
