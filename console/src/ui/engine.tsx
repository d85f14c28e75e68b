/** The engine, live: what it does this second and what it did over the last five minutes. */

import { useEffect, useState } from "preact/hooks";
import type { Percentiles, Sample } from "../lib/engine";
import { compact, duration, figure, integer, percent, span } from "../lib/format";
import { engineHistory, engineState, snapshot, tick, type EngineState } from "../live-engine";
import { Chart, type Series } from "./chart";
import { Icon } from "./icons";
import { PageBar } from "./page-bar";

const STATES: Readonly<Record<EngineState, string>> = {
  connecting: "connecting", live: "live", polling: "live, polled", lost: "connection lost, trying again", absent: "not offered by this server",
};

function percentileSeries(of: (sample: Sample) => Percentiles): Series[] {
  return [
    { label: "p50", colour: "-1", value: (sample) => of(sample).p50 },
    { label: "p95", colour: "-2", value: (sample) => of(sample).p95 },
    { label: "p99", colour: "-3", value: (sample) => of(sample).p99 },
  ];
}

const TIME_TO_FIRST_TOKEN = percentileSeries((sample) => sample.timeToFirstTokenMs);
const INTER_TOKEN = percentileSeries((sample) => sample.interTokenMs);
const END_TO_END = percentileSeries((sample) => sample.endToEndMs);
const OUTPUT: Series[] = [{ label: "output", colour: "-1", value: (sample) => sample.outputPerSecond }];
const PROMPT: Series[] = [{ label: "prompt", colour: "-2", value: (sample) => sample.promptPerSecond }];
const REQUESTS: Series[] = [
  { label: "running", colour: "-1", value: (sample) => sample.running },
  { label: "queued", colour: "-2", value: (sample) => sample.waiting },
];
const KV: Series[] = [
  { label: "in use", colour: "-4", value: (sample) => sample.kvUse },
  { label: "cached", colour: "-2", value: (sample) => sample.kvCached },
];
const HITS: Series[] = [{ label: "hit", colour: "-4", value: (sample) => sample.prefixHitRate }];

export function EnginePage() {
  void tick.value;
  const [chosen, setChosen] = useState("");
  useEffect(() => {
    document.title = "Engine · Yantra";
  }, []);
  const seen = snapshot.value?.models ?? [];
  const model = seen.find((entry) => entry.id === chosen) ?? seen[0];
  const state = engineState.value;
  const samples = model ? engineHistory.samples(model.id) : [];
  const latest = samples.at(-1);
  const hitShare = model?.prefixQueryTokens ? (model.prefixHitTokens ?? 0) / model.prefixQueryTokens : null;
  return (
    <section class="page" aria-label="Engine">
      <PageBar title="Engine" note={<span class={`status ${state}`}><i />{STATES[state]}</span>}>
        {snapshot.value?.uptimeSeconds != null && <span class="note only-wide">up {span(snapshot.value.uptimeSeconds)}</span>}
        {seen.length > 1 && (
          <label class="model-picker">
            <span class="offscreen">Model</span>
            <select value={model?.id} onChange={(event) => setChosen(event.currentTarget.value)}>
              {seen.map((entry) => <option key={entry.id} value={entry.id}>{entry.id}</option>)}
            </select>
            <Icon name="down" />
          </label>
        )}
        {seen.length === 1 && <span class="note strong">{model?.id}</span>}
      </PageBar>
      <div class="page-body">
        {!model && <p class="hint">{state === "absent" ? "This server does not report what its engine does." : "Waiting for the first report of the engine…"}</p>}
        {model && (
          <>
            {!model.healthy && <p class="error-note" role="alert">Forward passes of this model keep failing: see the server's log.</p>}
            <dl class="gauges">
              <Gauge name="Output" value={figure(latest?.outputPerSecond)} unit="tok/s" big />
              <Gauge name="Running" value={integer(model.running)} unit={`${integer(model.waiting)} queued`} />
              <Gauge name="KV pages" value={integer(model.kvPagesUsed)} unit={`of ${compact(model.kvPagesTotal)}`} />
              <Gauge name="Prefix hits" value={percent(hitShare)} unit="since start" />
              <Gauge name="Tokens out" value={compact(model.outputTokens)} unit={`${compact(model.promptTokens)} in`} />
              <Gauge name="Steps" value={figure(latest?.stepsPerSecond)} unit={`per s, ${integer(model.preemptions)} preempted`} />
            </dl>
            <h2 class="section">Throughput</h2>
            <div class="charts wide">
              <Chart title="Output tokens per second" samples={samples} series={OUTPUT} format={compact} scale={{ atLeast: 10 }} area />
              <Chart title="Prompt tokens per second" samples={samples} series={PROMPT} format={compact} scale={{ atLeast: 10 }} area />
            </div>
            <h2 class="section">Load</h2>
            <div class="charts">
              <Chart title="Requests" samples={samples} series={REQUESTS} format={figure} scale={{ atLeast: 2, whole: true }} area />
              <Chart title="KV cache" samples={samples} series={KV} format={percent} scale={{ max: 1 }} area />
              <Chart title="Prefix cache hit rate, last minute" samples={samples} series={HITS} format={percent} scale={{ max: 1 }} />
            </div>
            <h2 class="section">Latency</h2>
            <div class="charts">
              <Chart title="Time to first token" samples={samples} series={TIME_TO_FIRST_TOKEN} format={duration} />
              <Chart title="Between tokens" samples={samples} series={INTER_TOKEN} format={duration} />
              <Chart title="Whole request" samples={samples} series={END_TO_END} format={duration} />
            </div>
          </>
        )}
      </div>
    </section>
  );
}

function Gauge({ name, value, unit, big = false }: { name: string; value: string; unit: string; big?: boolean }) {
  return (
    <div class={big ? "gauge big" : "gauge"}>
      <dt>{name}</dt>
      <dd><b>{value}</b><span>{unit}</span></dd>
    </div>
  );
}
