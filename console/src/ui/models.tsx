/** What is served, with what is known of it. */

import { useEffect } from "preact/hooks";
import type { Model } from "../lib/api";
import { bytes, compact, integer } from "../lib/format";
import { startNew } from "../session";
import { loadModels, models, modelsState, useModel } from "../state";
import { CopyButton } from "./controls";
import { PageBar } from "./page-bar";

const KNOWN = new Set(["family", "parameters", "quantisation", "context_length", "size_bytes", "kind"]);

export function ModelsPage() {
  useEffect(() => {
    document.title = "Models · Yantra";
    void loadModels();
  }, []);
  const state = modelsState.value;
  return (
    <section class="page" aria-label="Models">
      <PageBar title="Models" note={models.value.length > 0 ? `${models.value.length} served` : ""}>
        <button type="button" class="button quiet" onClick={() => void loadModels()}>Refresh</button>
      </PageBar>
      <div class="page-body">
        {typeof state === "object" && <p class="error-note" role="alert">{state.error}</p>}
        {state === "ready" && models.value.length === 0 && <p class="hint">The server has no model loaded.</p>}
        <ul class="model-list">{models.value.map((model) => <ModelCard key={model.id} model={model} />)}</ul>
      </div>
    </section>
  );
}

function ModelCard({ model }: { model: Model }) {
  const details = model.yantra ?? {};
  const purpose = details.kind === "embed" ? "embeddings" : details.kind === "score" ? "reranking" : "chat";
  const chats = purpose === "chat";
  const facts: [string, string][] = [];
  if (details.family) facts.push(["Family", details.family]);
  if (details.parameters !== undefined) facts.push(["Parameters", typeof details.parameters === "number" ? compact(details.parameters) : details.parameters]);
  if (details.quantisation) facts.push(["Quantisation", details.quantisation]);
  if (details.context_length !== undefined) facts.push(["Context", `${integer(details.context_length)} tokens`]);
  if (details.size_bytes !== undefined) facts.push(["Size", bytes(details.size_bytes)]);
  for (const [name, value] of Object.entries(details)) {
    if (!KNOWN.has(name) && (typeof value === "string" || typeof value === "number")) facts.push([label(name), String(value)]);
  }
  return (
    <li class="model-card">
      <header>
        <h2>{model.id}</h2>
        <span class={`tag ${chats ? "" : "embed"}`}>{purpose}</span>
        <span class="spacer" />
        <CopyButton text={() => model.id} label="Copy model name" />
        {chats && (
          <button type="button" class="button" onClick={() => (useModel(model.id), startNew())}>New chat</button>
        )}
      </header>
      <dl>
        {facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
        {facts.length === 0 && <div><dt>Owner</dt><dd>{model.owned_by ?? "–"}</dd></div>}
      </dl>
    </li>
  );
}

function label(name: string): string {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
