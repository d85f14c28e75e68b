/** The frame around the pages. */

import { useState } from "preact/hooks";
import { apiKey, drawerOpen, keyWanted, route, saveKey, store } from "../state";
import { ChatPage } from "./chat";
import { Dialog } from "./controls";
import { EnginePage } from "./engine";
import { ModelsPage } from "./models";
import { RequestsPage } from "./requests";
import { Sidebar } from "./sidebar";
import { TracesPage } from "./traces";

export function App() {
  const at = route.value;
  const { page } = at;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.querySelector<HTMLElement>("main")?.focus())}>Skip to content</a>
      <Sidebar />
      {drawerOpen.value && <div class="scrim" onClick={() => (drawerOpen.value = false)} />}
      <main tabIndex={-1}>
        {store.problem.value && <p class="notice" role="status">{store.problem.value}</p>}
        {page === "chat" && <ChatPage />}
        {page === "models" && <ModelsPage />}
        {page === "engine" && <EnginePage />}
        {at.page === "requests" && <RequestsPage id={at.id} />}
        {at.page === "traces" && <TracesPage id={at.id} />}
      </main>
      {keyWanted.value && <KeyDialog />}
    </>
  );
}

function keyReason(): string {
  if (keyWanted.value === "chosen") return "The key this page sends with every request.";
  return apiKey.value ? "The server did not accept this key." : "This server asks for a key.";
}

function KeyDialog() {
  const [key, setKey] = useState(apiKey.value);
  const [keep, setKeep] = useState(false);
  return (
    <Dialog title="API key" onClose={() => (keyWanted.value = undefined)}>
      <form class="key-form" onSubmit={(event) => (event.preventDefault(), saveKey(key, keep))}>
        <p>{keyReason()} It is sent to this server and nowhere else.</p>
        <input type="password" autocomplete="off" aria-label="API key" value={key} onInput={(event) => setKey(event.currentTarget.value)} autofocus />
        <label class="check"><input type="checkbox" checked={keep} onChange={(event) => setKeep(event.currentTarget.checked)} />Keep it in this browser</label>
        <div class="row end">
          <button type="button" class="button" onClick={() => (keyWanted.value = undefined)}>Cancel</button>
          <button type="submit" class="button primary">Save</button>
        </div>
      </form>
    </Dialog>
  );
}
