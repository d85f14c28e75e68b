/** What the whole page shares: where it is, what is served, what is being answered. */

import { computed, effect, signal } from "@preact/signals";
import { Api, ApiError, type Model } from "./lib/api";
import { ConversationStore, type KeyValueStorage } from "./lib/store";

// --- storage -------------------------------------------------------------------------------------------------------

function storage(name: "localStorage" | "sessionStorage"): KeyValueStorage | undefined {
  try {
    return window[name];
  } catch {
    return undefined; // blocked by the browser's settings
  }
}

const local = storage("localStorage");
const session = storage("sessionStorage");

function remember(key: string, value: string, where = local): void {
  try {
    if (value) where?.setItem(key, value);
    else where?.removeItem(key);
  } catch {
    // a setting that cannot be kept still holds until the page closes
  }
}

export const store = new ConversationStore(local);
addEventListener("storage", (event) => store.changedElsewhere(event.key, event.newValue));
addEventListener("pagehide", () => store.flush());

// --- theme ---------------------------------------------------------------------------------------------------------

export type Theme = "system" | "light" | "dark";
const storedTheme = local?.getItem("yantra.theme");
export const theme = signal<Theme>(storedTheme === "light" || storedTheme === "dark" ? storedTheme : "system");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(systemDark.matches);
systemDark.addEventListener("change", (event) => (systemIsDark.value = event.matches));
export const isDark = computed(() => (theme.value === "system" ? systemIsDark.value : theme.value === "dark"));

effect(() => {
  const chosen = theme.value;
  if (chosen === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = chosen;
  remember("yantra.theme", chosen === "system" ? "" : chosen);
});

// --- where the page is ---------------------------------------------------------------------------------------------

export type Route = { page: "chat"; id: string | undefined } | { page: "models" } | { page: "engine" } | { page: "requests" | "traces"; id: string | undefined };

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function readRoute(): Route {
  const [, page, id] = location.hash.split("/");
  if (page === "models" || page === "engine") return { page };
  if (page === "requests" || page === "traces") return { page, id: id ? decoded(id) : undefined };
  return { page: "chat", id: id || undefined };
}

export const route = signal<Route>(readRoute());
addEventListener("hashchange", () => (route.value = readRoute()));

export function go(target: string): void {
  location.hash = target;
  route.value = readRoute();
}

/** Where the conversation was left, for the way back from another page. */
export let lastChat = "#/chat";
effect(() => {
  const at = route.value;
  if (at.page === "chat") lastChat = at.id === undefined ? "#/chat" : `#/chat/${at.id}`;
});

/** The navigation drawer and the parameters panel on narrow screens; the panel on wide ones too. */
export const drawerOpen = signal(false);
export const panelOpen = signal(false);

// --- key, models ---------------------------------------------------------------------------------------------------

const KEY = "yantra.api_key";
export const apiKey = signal(session?.getItem(KEY) ?? local?.getItem(KEY) ?? "");
/** Why the page asks for a key: the server answered 401, or the user wants to change it. */
export const keyWanted = signal<"refused" | "chosen" | undefined>(undefined);

export function saveKey(key: string, keep: boolean): void {
  apiKey.value = key.trim();
  remember(KEY, keep ? apiKey.value : "", local);
  remember(KEY, keep ? "" : apiKey.value, session);
  keyWanted.value = undefined;
  void loadModels();
}

export const api = new Api(() => apiKey.value);

export const models = signal<Model[]>([]);
export const modelsState = signal<"loading" | "ready" | { error: string; unauthorised: boolean }>("loading");
export const chatModels = computed(() => models.value.filter((model) => (model.yantra?.kind ?? "generate") === "generate"));

export async function loadModels(): Promise<void> {
  if (models.value.length === 0) modelsState.value = "loading";
  try {
    models.value = await api.models();
    modelsState.value = "ready";
  } catch (error) {
    noteUnauthorised(error);
    modelsState.value = {
      error: error instanceof Error ? error.message : String(error),
      unauthorised: error instanceof ApiError && error.status === 401,
    };
  }
}

export function noteUnauthorised(error: unknown): void {
  if (error instanceof ApiError && error.status === 401) keyWanted.value = "refused";
}

/** The model new conversations start with: the one used last, while it is still served. */
const MODEL = "yantra.model";
const lastModel = signal(local?.getItem(MODEL) ?? "");
export const defaultModel = computed(
  () => chatModels.value.find((model) => model.id === lastModel.value)?.id ?? chatModels.value[0]?.id ?? "",
);

export function useModel(id: string): void {
  lastModel.value = id;
  remember(MODEL, id);
}
