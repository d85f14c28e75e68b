/** System prompt and sampling parameters of one conversation. Unset is shown as "auto": the server's own default. */

import { useEffect, useState } from "preact/hooks";
import type { Conversation } from "../lib/conversation";
import { clamp, countChanged, DEFAULTS, MAX_STOPS, PARAMS, withParam, type Params, type ParamSpec } from "../lib/params";
import { change, keepAsDefault } from "../session";
import { panelOpen } from "../state";
import { IconButton } from "./controls";

export function ParamsPanel({ conversation }: { conversation: Conversation }) {
  const { params } = conversation;
  const [kept, setKept] = useState(false);
  useEffect(() => setKept(false), [params]);
  const set = (next: Params) => change({ params: next });
  return (
    <aside class="panel" aria-label="Parameters">
      <header class="bar">
        <h2>Parameters</h2>
        <span class="spacer" />
        <button type="button" class="button quiet" disabled={countChanged(params) === 0} onClick={() => set({ ...DEFAULTS })}>Reset</button>
        <IconButton icon="close" label="Close parameters" onClick={() => (panelOpen.value = false)} />
      </header>
      <div class="panel-body">
        <div class="field">
          <label for="system">System prompt</label>
          <textarea
            id="system"
            rows={5}
            value={conversation.system}
            placeholder="How the model should behave, for this conversation"
            onInput={(event) => change({ system: event.currentTarget.value })}
          />
        </div>
        {PARAMS.map((spec) => <NumberField key={spec.key} spec={spec} value={params[spec.key]} onChange={(value) => set(withParam(params, spec.key, value))} />)}
        <StopField key={conversation.id} stops={params.stop ?? []} onChange={(stops) => set(withParam(params, "stop", stops.length > 0 ? stops : undefined))} />
        <label class="switch">
          <input type="checkbox" role="switch" checked={params.logprobs ?? false} onChange={(event) => set(withParam(params, "logprobs", event.currentTarget.checked || undefined))} />
          <span>Token probabilities<small>Ask for the alternatives the model considered</small></span>
        </label>
        <button type="button" class="button wide" onClick={() => (keepAsDefault(params), setKept(true))} disabled={kept}>
          {kept ? "Kept for new conversations" : "Use for new conversations"}
        </button>
      </div>
    </aside>
  );
}

function NumberField({ spec, value, onChange }: { spec: ParamSpec; value: number | undefined; onChange: (value: number | undefined) => void }) {
  const id = `param-${spec.key}`;
  const [typed, setTyped] = useState<string | undefined>(undefined);
  const commit = (text: string) => {
    setTyped(undefined);
    const number = Number(text);
    if (text.trim() === "") onChange(undefined);
    else if (Number.isFinite(number)) onChange(clamp(spec, number));
  };
  return (
    <div class={`field number-field ${value === undefined ? "auto" : "set"}`}>
      <label for={id} title={spec.help}>{spec.label}</label>
      <input
        id={id}
        type="text"
        inputMode="decimal"
        autocomplete="off"
        placeholder="auto"
        value={typed ?? (value === undefined ? "" : String(value))}
        aria-describedby={`${id}-help`}
        onInput={(event) => setTyped(event.currentTarget.value)}
        onBlur={(event) => commit(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Enter" && commit(event.currentTarget.value)}
      />
      {!spec.typed && (
        <input
          type="range"
          aria-label={`${spec.label} slider`}
          min={spec.min}
          max={spec.max}
          step={spec.step}
          value={value ?? spec.typical}
          onInput={(event) => onChange(clamp(spec, event.currentTarget.valueAsNumber))}
        />
      )}
      <small id={`${id}-help`}>{spec.help}</small>
    </div>
  );
}

/** One stop sequence per line; `\n` and `\t` stand for what cannot be typed on a line. */
function StopField({ stops, onChange }: { stops: readonly string[]; onChange: (stops: string[]) => void }) {
  const [text, setText] = useState(() => stops.map((stop) => stop.replaceAll("\n", "\\n").replaceAll("\t", "\\t")).join("\n"));
  useEffect(() => {
    if (stops.length === 0 && text.trim() !== "" && document.activeElement?.id !== "param-stop") setText("");
  }, [stops]);
  return (
    <div class="field">
      <label for="param-stop">Stop sequences</label>
      <textarea
        id="param-stop"
        class="mono"
        rows={2}
        value={text}
        placeholder="One per line"
        onInput={(event) => {
          const value = event.currentTarget.value;
          setText(value);
          const lines = value.split("\n").filter((line) => line !== "");
          onChange(lines.slice(0, MAX_STOPS).map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t")));
        }}
      />
    </div>
  );
}
