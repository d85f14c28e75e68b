/** The way around: pages, conversations, theme, and a pulse of the engine. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { newId, parseConversation, type Conversation } from "../lib/conversation";
import { ago, figure } from "../lib/format";
import { engineHistory, engineState, snapshot, tick } from "../live-engine";
import { current, deleteConversation, live, startNew } from "../session";
import { apiKey, drawerOpen, go, keyWanted, lastChat, route, store, theme, type Theme } from "../state";
import { IconButton } from "./controls";
import { Icon, Mark, type IconName } from "./icons";

export function Sidebar() {
  const [query, setQuery] = useState("");
  const found = store.search(query);
  const at = route.value;
  const openId = at.page === "chat" ? current.value.id : undefined;
  return (
    <nav class={`sidebar ${drawerOpen.value ? "open" : ""}`} aria-label="Main">
      <div class="brand">
        <Mark />
        <span>Yantra</span>
        <span class="spacer" />
        <IconButton icon="close" label="Close menu" class="only-narrow" onClick={() => (drawerOpen.value = false)} />
      </div>
      <ul class="pages">
        <PageLink page="chat" icon="chat" label="Chat" href="#/chat" current={at.page === "chat"} />
        <PageLink page="models" icon="models" label="Models" href="#/models" current={at.page === "models"} />
        <PageLink page="engine" icon="engine" label="Engine" href="#/engine" current={at.page === "engine"}><Pulse /></PageLink>
        <PageLink page="requests" icon="requests" label="Requests" href="#/requests" current={at.page === "requests"} />
        <PageLink page="traces" icon="traces" label="Traces" href="#/traces" current={at.page === "traces"} />
      </ul>
      <div class="conversations-head">
        <label class="search">
          <Icon name="search" />
          <span class="offscreen">Search conversations</span>
          <input type="search" placeholder="Search" value={query} onInput={(event) => setQuery(event.currentTarget.value)} />
        </label>
        <IconButton icon="plus" label="New conversation" onClick={() => (startNew(), (drawerOpen.value = false))} />
      </div>
      <ul class="conversations" aria-label="Conversations">
        {found.map((conversation) => <Entry key={conversation.id} conversation={conversation} open={conversation.id === openId} />)}
        {found.length === 0 && <li class="hint">{query ? "Nothing found" : "Conversations are kept in this browser"}</li>}
      </ul>
      <div class="sidebar-foot">
        <ThemeSwitch />
        <span class="spacer" />
        <ImportButton />
        <IconButton icon="key" label={apiKey.value ? "Change API key" : "Set API key"} onClick={() => (keyWanted.value = "chosen")} />
      </div>
    </nav>
  );
}

function PageLink(props: { page: string; icon: IconName; label: string; href: string; current: boolean; children?: ComponentChildren }) {
  return (
    <li>
      <a
        href={props.href}
        aria-current={props.current ? "page" : undefined}
        onClick={(event) => {
          event.preventDefault();
          drawerOpen.value = false;
          go(props.page === "chat" && !props.current ? lastChat : props.href);
        }}
      >
        <Icon name={props.icon} />
        {props.label}
        {props.children}
      </a>
    </li>
  );
}

/** What the engine is doing right now, in one figure. */
function Pulse() {
  void tick.value;
  if (engineState.value !== "live" && engineState.value !== "polling") return null;
  const rates = (snapshot.value?.models ?? []).map((model) => engineHistory.samples(model.id).at(-1)?.outputPerSecond ?? 0);
  const total = rates.reduce((sum, rate) => sum + rate, 0);
  return total > 0 ? <span class="pulse"><i />{figure(total)} tok/s</span> : <span class="pulse idle">idle</span>;
}

function Entry({ conversation, open }: { conversation: Conversation; open: boolean }) {
  const [renaming, setRenaming] = useState(false);
  const title = conversation.title || "Untitled";
  const rename = (value: string) => {
    setRenaming(false);
    const next = value.trim();
    if (next) store.update(conversation.id, (stored) => ({ ...stored, title: next }));
  };
  if (renaming) {
    return (
      <li class="entry">
        <input
          class="rename"
          aria-label="New title"
          defaultValue={title}
          ref={(element) => element?.focus()}
          onBlur={(event) => rename(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter") rename(event.currentTarget.value);
            if (event.key === "Escape") setRenaming(false);
          }}
        />
      </li>
    );
  }
  return (
    <li class={`entry ${open ? "open" : ""}`}>
      <a
        href={`#/chat/${conversation.id}`}
        aria-current={open ? "true" : undefined}
        title={title}
        onClick={() => (drawerOpen.value = false)}
        onDblClick={() => setRenaming(true)}
      >
        <span class="title">{title}</span>
        {live.value.has(conversation.id) ? <i class="dot" aria-label="answering" /> : <time>{ago(conversation.updatedAt)}</time>}
      </a>
      <span class="entry-actions">
        <IconButton icon="edit" label={`Rename ${title}`} onClick={() => setRenaming(true)} />
        <DeleteButton title={title} onDelete={() => deleteConversation(conversation.id)} />
      </span>
    </li>
  );
}

/** Deleting takes a second press: there is no undo. */
function DeleteButton({ title, onDelete }: { title: string; onDelete: () => void }) {
  const [armed, setArmed] = useState(false);
  return (
    <span onPointerLeave={() => setArmed(false)} onFocusOut={() => setArmed(false)}>
      <IconButton
        icon={armed ? "check" : "trash"}
        class={armed ? "armed" : ""}
        label={armed ? `Really delete ${title}` : `Delete ${title}`}
        onClick={() => (armed ? onDelete() : setArmed(true))}
      />
    </span>
  );
}

const THEMES: { value: Theme; icon: IconName; label: string }[] = [
  { value: "system", icon: "system", label: "Theme of the system" },
  { value: "light", icon: "sun", label: "Light theme" },
  { value: "dark", icon: "moon", label: "Dark theme" },
];

function ThemeSwitch() {
  return (
    <div class="segments" role="group" aria-label="Theme">
      {THEMES.map(({ value, icon, label }) => (
        <IconButton key={value} icon={icon} label={label} pressed={theme.value === value} onClick={() => (theme.value = value)} />
      ))}
    </div>
  );
}

const MAX_IMPORT_BYTES = 20 * 1024 * 1024;

function ImportButton() {
  const [failed, setFailed] = useState(false);
  const read = async (file: File | undefined) => {
    if (!file) return;
    let conversation: Conversation | undefined;
    if (file.size <= MAX_IMPORT_BYTES) {
      try {
        conversation = parseConversation(JSON.parse(await file.text()));
      } catch {
        // not JSON: reported below
      }
    }
    setFailed(conversation === undefined);
    if (!conversation) return;
    // A conversation that is already here is kept: what comes in is a copy.
    const copy = store.get(conversation.id) ? { ...conversation, id: newId() } : conversation;
    store.put(copy);
    go(`#/chat/${copy.id}`);
  };
  const label = failed ? "That file is not an exported conversation. Choose another" : "Import a conversation (JSON)";
  return (
    <label class={`icon-button ${failed ? "armed" : ""}`} title={label}>
      <Icon name="upload" />
      <input class="offscreen" type="file" accept="application/json,.json" aria-label={label} onChange={(event) => void read(event.currentTarget.files?.[0])} />
    </label>
  );
}
