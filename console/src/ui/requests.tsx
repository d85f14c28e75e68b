/** The latest requests, and one of them with where its time went. */

import { useEffect, useState } from "preact/hooks";
import { ago, duration, integer } from "../lib/format";
import { columns, pieces, type PieceKind, type RequestRecord, type RequestSummary, type Timeline } from "../lib/requests";
import { api, go, noteUnauthorised } from "../state";
import { CopyButton } from "./controls";
import { PageBar } from "./page-bar";

const REFRESH_MS = 2000;
const NAMES: Readonly<Record<PieceKind, string>> = {
  prepare: "prepared", queue: "queued", disk: "read from disk", prefill: "prompt", again: "computed again", decode: "answer", lost: "preempted", send: "sent",
};

type Order = "latest" | "slow";

/** What the server says now and every two seconds, until the page is left; `ask` is another one when `key` is. */
function usePolled<T>(key: string, ask: (signal: AbortSignal) => Promise<T>, isOver: (value: T) => boolean = () => false) {
  const [seen, setSeen] = useState<{ value?: T; problem?: string }>({});
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      try {
        const value = await ask(abort.signal);
        if (abort.signal.aborted) return;
        setSeen({ value });
        if (isOver(value)) return;
      } catch (error) {
        if (abort.signal.aborted) return;
        noteUnauthorised(error);
        setSeen((before) => ({ ...before, problem: error instanceof Error ? error.message : String(error) }));
      }
      timer = setTimeout(() => void look(), REFRESH_MS);
    };
    setSeen({});
    void look();
    return () => (abort.abort(), clearTimeout(timer));
  }, [key]);
  return seen;
}

export function RequestsPage({ id }: { id: string | undefined }) {
  const [order, setOrder] = useState<Order>("latest");
  useEffect(() => {
    document.title = "Requests · Yantra";
  }, []);
  return (
    <section class="page" aria-label="Requests">
      <PageBar title="Requests">
        {id === undefined ? (
          (["latest", "slow"] as const).map((each) => (
            <button key={each} type="button" class={`button quiet ${order === each ? "on" : ""}`} aria-pressed={order === each} onClick={() => setOrder(each)}>
              {each === "latest" ? "Latest" : "Slowest"}
            </button>
          ))
        ) : (
          <button type="button" class="button quiet" onClick={() => go("#/requests")}>All requests</button>
        )}
      </PageBar>
      <div class="page-body">{id === undefined ? <List order={order} /> : <One id={id} />}</div>
    </section>
  );
}

function List({ order }: { order: Order }) {
  const { value: requests, problem } = usePolled(order, (signal) => api.requests(order, signal));
  return (
    <>
      {problem && <p class="error-note" role="alert">{problem}</p>}
      {requests?.length === 0 && <p class="hint">No request has reached a model yet, or the server keeps none.</p>}
      {requests && requests.length > 0 && (
        <div class="table-frame">
          <table class="requests">
            <thead>
              <tr><th>When</th><th>Endpoint</th><th>Model</th><th>State</th><th class="right">In</th><th class="right">Out</th><th class="right">Queued</th><th class="right">First token</th><th class="right">Whole</th></tr>
            </thead>
            <tbody>{requests.map((request) => <Row key={request.id} request={request} />)}</tbody>
          </table>
        </div>
      )}
    </>
  );
}

function Row({ request }: { request: RequestSummary }) {
  const href = `#/requests/${encodeURIComponent(request.id)}`;
  return (
    <tr onClick={() => go(href)}>
      <td><a href={href}>{request.created === null ? "–" : ago(request.created)}</a></td>
      <td>{request.endpoint.replace(/^\/v1\//, "")}</td>
      <td>{request.model}</td>
      <td class={`state ${request.state}`}>{request.error ?? request.state}</td>
      <td class="right">{integer(request.promptTokens)}</td>
      <td class="right">{integer(request.completionTokens)}</td>
      <td class="right">{duration(request.queueMs)}</td>
      <td class="right">{duration(request.firstTokenMs)}</td>
      <td class="right">{duration(request.totalMs)}</td>
    </tr>
  );
}

function One({ id }: { id: string }) {
  const { value: record, problem } = usePolled(id, (signal) => api.requestRecord(id, signal), (seen) => seen !== undefined && seen.state !== "running");
  if (!record) return <p class={problem ? "error-note" : "hint"}>{problem ?? "Looking…"}</p>;
  const facts: [string, string][] = [
    ["Model", record.model],
    ["Endpoint", record.endpoint],
    ["State", [record.error ?? record.state, ...new Set(record.finishReasons)].join(", ")],
    ["Prompt", `${integer(record.promptTokens)} tokens, ${integer(record.cachedTokens)} cached`],
    ["Answer", `${integer(record.completionTokens)} tokens`],
    ["First token", duration(record.firstTokenMs)],
    ["Whole", duration(record.totalMs)],
  ];
  if (record.tenant) facts.push(["Key", record.tenant]);
  return (
    <article class="model-card request">
      <header><h2>{record.id}</h2><span class="spacer" />{record.traced && <a class="button" href={`#/traces/${encodeURIComponent(record.id)}`}>Trace</a>}<CopyButton text={() => record.id} label="Copy request id" /></header>
      <dl>{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
      {record.timelines.map((timeline) => <Picture key={timeline.prompt} record={record} timeline={timeline} />)}
      {record.why.length > 0 && (
        <div class="why">
          <h3>Where the time went</h3>
          <ol>{record.why.map((line) => <li key={line}>{line}</li>)}</ol>
        </div>
      )}
    </article>
  );
}

const WIDTH = 1000;
const COLUMNS = 250;
const BAR = { top: 46, height: 22 };

/** A line from a request's coming to its end; above it the time between tokens. */
function Picture({ record, timeline }: { record: RequestRecord; timeline: Timeline }) {
  const found = pieces(record, timeline);
  const gaps = columns(record, timeline, COLUMNS);
  const longest = Math.max(...gaps.map((gap) => gap.tookMs), 0.001);
  const kinds = [...new Set(found.map((piece) => piece.kind))];
  const label = found.map((piece) => `${NAMES[piece.kind]} from ${duration(piece.from * record.totalMs)} to ${duration(piece.to * record.totalMs)}`).slice(0, 40).join(", ");
  return (
    <figure class="timeline">
      <figcaption>
        <ul>{kinds.map((kind) => <li key={kind}><i class={`piece ${kind}`} />{NAMES[kind]}</li>)}</ul>
        {gaps.length > 0 && <span class="hint">longest gap {duration(longest)}</span>}
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${BAR.top + BAR.height}`} preserveAspectRatio="none" role="img" aria-label={label}>
        {gaps.map((gap) => {
          const height = Math.max(1, (gap.tookMs / longest) * (BAR.top - 4));
          return <rect key={gap.at} class={gap.shared ? "gap shared" : "gap"} x={gap.at * WIDTH} y={BAR.top - 2 - height} width={WIDTH / COLUMNS - 0.8} height={height}><title>{duration(gap.tookMs)}{gap.shared ? ", shared with prompts" : ""}</title></rect>;
        })}
        {found.map((piece, index) => (
          <rect key={index} class={`piece ${piece.kind}`} x={piece.from * WIDTH} y={BAR.top} width={Math.max(1, (piece.to - piece.from) * WIDTH - 0.6)} height={BAR.height}>
            <title>{`${NAMES[piece.kind]}: ${duration((piece.to - piece.from) * record.totalMs)}`}</title>
          </rect>
        ))}
      </svg>
      <p class="axis"><span>0</span><span>{duration(record.totalMs / 2)}</span><span>{duration(record.totalMs)}</span></p>
    </figure>
  );
}
