/** Follows the engine: its event stream while there is one, else its statistics once a second. */

import { effect, signal } from "@preact/signals";
import { ApiError } from "./lib/api";
import { EngineHistory, parseSnapshot, type Snapshot } from "./lib/engine";
import { api, apiKey } from "./state";

export type EngineState = "connecting" | "live" | "polling" | "lost" | "absent";

export const engineHistory = new EngineHistory();
export const snapshot = signal<Snapshot | undefined>(undefined);
/** Grows with every snapshot: what draws the history depends on it. */
export const tick = signal(0);
export const engineState = signal<EngineState>("connecting");

const POLL_MS = 1000;
const MAX_WAIT_MS = 10_000;
/** A stream silent for this long is taken for dead: it promises one event a second. */
const SILENCE_MS = 8000;

function accept(value: unknown, state: EngineState): void {
  const parsed = parseSnapshot(value);
  if (!parsed) return;
  engineHistory.push(parsed, Date.now());
  snapshot.value = parsed;
  engineState.value = state;
  tick.value += 1;
}

async function stream(signal: AbortSignal): Promise<void> {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    for await (const value of api.engineEvents(AbortSignal.any([signal, silence.signal]))) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      accept(value, "live");
    }
  } finally {
    clearTimeout(timer);
  }
}

async function poll(signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    accept(await api.engineStats(signal), "polling");
    await pause(POLL_MS, signal);
  }
}

async function follow(signal: AbortSignal): Promise<void> {
  let wait = 500;
  let source: typeof stream = stream;
  while (!signal.aborted) {
    const before = tick.peek();
    try {
      await source(signal);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && (error.status === 404 || error.status === 405 || error.status === 501)) {
        if (source === poll) {
          engineState.value = "absent";
          return;
        }
        source = poll;
        continue;
      }
    }
    if (signal.aborted) return;
    if (tick.peek() > before) wait = 500;
    engineState.value = "lost";
    await pause(wait, signal);
    wait = Math.min(MAX_WAIT_MS, wait * 2);
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Follows while the page is visible: a browser allows few connections per host, and hidden tabs should hold none. */
export function watchEngine(): void {
  const visible = signal(!document.hidden);
  document.addEventListener("visibilitychange", () => (visible.value = !document.hidden));
  effect(() => {
    void apiKey.value; // a new key is worth a new try
    if (!visible.value) return undefined;
    const abort = new AbortController();
    void follow(abort.signal);
    return () => abort.abort();
  });
}
