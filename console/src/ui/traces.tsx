/** What was asked and answered, where the server keeps it: searched, listed, one of them whole. */

import { useEffect, useState } from "preact/hooks";
import { ApiError } from "../lib/api";
import { ago, duration, integer } from "../lib/format";
import { answered, asked, type Said, type TracePage, type TraceRecord, type TraceSummary } from "../lib/traces";
import { api, go, noteUnauthorised } from "../state";
import { CopyButton } from "./controls";
import { Icon } from "./icons";
import { PageBar } from "./page-bar";

/** How long typing pauses before a question is asked. */
const PAUSE_MS = 250;

type Problem = { message: string; isOff: boolean };

function problemOf(error: unknown): Problem {
  noteUnauthorised(error);
  return { message: error instanceof Error ? error.message : String(error), isOff: error instanceof ApiError && error.status === 501 };
}

export function TracesPage({ id }: { id: string | undefined }) {
  useEffect(() => {
    document.title = "Traces · Yantra";
  }, []);
  return (
    <section class="page" aria-label="Traces">
      <PageBar title="Traces">{id !== undefined && <button type="button" class="button quiet" onClick={() => go("#/traces")}>All traces</button>}</PageBar>
      <div class="page-body">{id === undefined ? <Found /> : <One id={id} />}</div>
    </section>
  );
}

/** How to have traces, for those who have none. */
function SwitchOn() {
  return (
    <div class="switch-on">
      <p>This server keeps no traces. To keep what is asked and answered, to search it and to learn from it, start it with</p>
      <pre><code>yantra serve MODEL --state-dir ./state --traces full</code></pre>
      <p>or, to keep a part of it for a while and without what is nobody's business, write into its configuration file</p>
      <pre><code>{`[server]
state_dir = "./state"

[server.traces]
mode = "sampled"
sample_rate = 0.1
retention_days = 30
redact = ["email", "phone", "credit_card", "ip", "api_key"]`}</code></pre>
    </div>
  );
}

function Found() {
  const [query, setQuery] = useState("");
  const [page, setPage] = useState<TracePage | undefined>();
  const [problem, setProblem] = useState<Problem | undefined>();
  useEffect(() => {
    const abort = new AbortController();
    const look = () => api.traces(query, undefined, abort.signal).then(
      (found) => (setPage(found), setProblem(undefined)),
      (error: unknown) => abort.signal.aborted || setProblem(problemOf(error)),
    );
    const timer = setTimeout(() => void look(), page === undefined ? 0 : PAUSE_MS);
    return () => (abort.abort(), clearTimeout(timer));
  }, [query]);
  const more = () => api.traces(query, page?.after, new AbortController().signal).then(
    (next) => setPage((before) => ({ traces: [...(before?.traces ?? []), ...next.traces], after: next.after })),
    (error: unknown) => setProblem(problemOf(error)),
  );
  if (problem?.isOff) return <SwitchOn />;
  return (
    <>
      <label class="search trace-search">
        <Icon name="search" />
        <span class="offscreen">Search traces</span>
        <input type="search" placeholder={'Words, "several in order", begin*'} value={query} maxLength={500} onInput={(event) => setQuery(event.currentTarget.value)} />
      </label>
      {problem && <p class="error-note" role="alert">{problem.message}</p>}
      {page?.traces.length === 0 && <p class="hint">{query.trim() ? "Nothing found." : "Nothing has been asked yet."}</p>}
      {page && page.traces.length > 0 && (
        <div class="table-frame">
          <table class="requests traces">
            <thead><tr><th>When</th><th>What</th><th>Endpoint</th><th>Model</th><th>State</th><th class="right">In</th><th class="right">Out</th><th class="right">Whole</th></tr></thead>
            <tbody>{page.traces.map((trace) => <Row key={trace.id} trace={trace} />)}</tbody>
          </table>
        </div>
      )}
      {page?.after !== undefined && <p class="more"><button type="button" class="button" onClick={() => void more()}>More</button></p>}
    </>
  );
}

function Row({ trace }: { trace: TraceSummary }) {
  const href = `#/traces/${encodeURIComponent(trace.id)}`;
  return (
    <tr onClick={() => go(href)}>
      <td><a href={href}>{trace.created === null ? "–" : ago(trace.created)}</a></td>
      <td class="snippet">{trace.snippet}</td>
      <td>{trace.endpoint.replace(/^\/v1\//, "")}</td>
      <td>{trace.model}</td>
      <td class={`state ${trace.state}`}>{trace.error ?? trace.state}</td>
      <td class="right">{integer(trace.promptTokens)}</td>
      <td class="right">{integer(trace.completionTokens)}</td>
      <td class="right">{duration(trace.totalMs)}</td>
    </tr>
  );
}

function One({ id }: { id: string }) {
  const [trace, setTrace] = useState<TraceRecord | undefined>();
  const [problem, setProblem] = useState<Problem | undefined>();
  useEffect(() => {
    const abort = new AbortController();
    setTrace(undefined);
    api.trace(id, abort.signal).then(setTrace, (error: unknown) => abort.signal.aborted || setProblem(problemOf(error)));
    return () => abort.abort();
  }, [id]);
  if (problem?.isOff) return <SwitchOn />;
  if (!trace) return <p class={problem ? "error-note" : "hint"}>{problem?.message ?? "Looking…"}</p>;
  const facts: [string, string][] = [
    ["Model", trace.model || "–"],
    ["Endpoint", trace.endpoint],
    ["State", [trace.error ?? trace.state, ...new Set(trace.finishReasons)].join(", ")],
    ["Prompt", `${integer(trace.promptTokens)} tokens, ${integer(trace.cachedTokens)} cached`],
    ["Answer", `${integer(trace.completionTokens)} tokens`],
    ["First token", duration(trace.firstTokenMs)],
    ["Whole", duration(trace.totalMs)],
  ];
  if (trace.tenant) facts.push(["Key", trace.tenant]);
  return (
    <article class="model-card trace">
      <header>
        <h2>{trace.requestId}</h2>
        <span class="spacer" />
        {trace.timeline && <a class="button" href={`#/requests/${encodeURIComponent(trace.requestId)}`}>Timeline</a>}
        <CopyButton text={() => JSON.stringify({ input: trace.input, output: trace.output }, null, 2)} label="Copy request and answer as JSON" />
      </header>
      <dl>{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
      <Side title="Asked" said={asked(trace.input)} whole={trace.input} />
      <Side title="Answered" said={answered(trace.output)} whole={trace.output} />
    </article>
  );
}

function Side({ title, said, whole }: { title: string; said: Said[]; whole: unknown }) {
  return (
    <section class="side">
      <h3>{title}</h3>
      {said.map(({ who, text }, index) => <div key={index} class={`said ${who}`}><b>{who}</b><p>{text}</p></div>)}
      {said.length === 0 && <p class="hint">{whole === null ? "Nothing is kept of it." : "No text."}</p>}
      {whole !== null && <details><summary>JSON</summary><pre>{JSON.stringify(whole, null, 2)}</pre></details>}
    </section>
  );
}
