/** One turn: a question that can be edited, or an answer with its figures. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { AnswerStats, Conversation, Turn } from "../lib/conversation";
import { select, siblings } from "../lib/conversation";
import { duration, figure, integer } from "../lib/format";
import { splitThinking } from "../lib/thinking";
import { edit, logprobs, regenerate, removeTurn, type LiveAnswer } from "../session";
import { store } from "../state";
import { CopyButton, IconButton } from "./controls";
import { Icon, Mark } from "./icons";
import { Markdown } from "./markdown";
import { TokenView } from "./tokens";

interface Props {
  conversation: Conversation;
  turn: Turn;
}

export function Question({ conversation, turn }: Props) {
  const [editing, setEditing] = useState(false);
  if (editing) {
    return (
      <article class="turn question" aria-label="Your message, being edited">
        <EditBox
          text={turn.content}
          onCancel={() => setEditing(false)}
          onSave={(text) => {
            setEditing(false);
            edit(conversation, turn, text);
          }}
        />
      </article>
    );
  }
  return (
    <article class="turn question" aria-label="Your message">
      <div class="bubble">{turn.content}</div>
      <div class="actions">
        <Versions conversation={conversation} turn={turn} />
        <CopyButton text={() => turn.content} />
        <IconButton icon="edit" label="Edit" onClick={() => setEditing(true)} />
        <IconButton icon="trash" label="Delete from here" onClick={() => removeTurn(conversation, turn)} />
      </div>
    </article>
  );
}

function EditBox({ text, onSave, onCancel }: { text: string; onSave: (text: string) => void; onCancel: () => void }) {
  const [value, setValue] = useState(text);
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  return (
    <form class="edit-box" onSubmit={(event) => (event.preventDefault(), onSave(value))}>
      <textarea
        ref={area}
        aria-label="Edit your message"
        value={value}
        rows={Math.min(12, value.split("\n").length + 1)}
        onInput={(event) => setValue(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") {
            event.stopPropagation();
            onCancel();
          } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            onSave(value);
          }
        }}
      />
      <div class="row end">
        <button type="button" class="button" onClick={onCancel}>Cancel</button>
        <button type="submit" class="button primary" disabled={value.trim() === ""}>Send</button>
      </div>
    </form>
  );
}

export function Answer({ conversation, turn, live }: Props & { live: LiveAnswer | undefined }) {
  const content = live ? live.content.value : turn.content;
  const reasoning = live ? live.reasoning.value : (turn.reasoning ?? "");
  const split = splitThinking(content);
  const thinking = [reasoning, split.thinking].filter(Boolean).join("\n\n");
  const thinkingNow = live !== undefined && split.answer === "" && (split.open || reasoning !== "");
  const tokens = logprobs.value.get(turn.id);
  const [showTokens, setShowTokens] = useState(false);
  const empty = !live && !turn.error && split.answer === "" && thinking === "";
  return (
    <article class="turn answer" aria-label={`Answer of ${turn.model ?? "the model"}`} aria-busy={live !== undefined}>
      <header>
        <Mark busy={live !== undefined} />
        <span class="who">{turn.model}</span>
      </header>
      {(thinking !== "" || thinkingNow) && <ThinkingBlock text={thinking} now={thinkingNow} />}
      {showTokens && tokens ? <TokenView tokens={tokens} /> : split.answer !== "" && <Markdown text={split.answer} streaming={live !== undefined} />}
      {live && split.answer === "" && !thinkingNow && <p class="waiting" role="status">Waiting for the first token</p>}
      {empty && <p class="hint">{turn.finishReason === "stopped" ? "Stopped before the first token." : "The model ended its answer without writing anything."}</p>}
      {turn.error && !live && <ErrorNote message={turn.error} onRetry={() => regenerate(conversation, turn)} />}
      {live ? <LiveFigures live={live} /> : (
        <footer>
          <div class="actions">
            <Versions conversation={conversation} turn={turn} />
            {split.answer !== "" && <CopyButton text={() => split.answer} />}
            <IconButton icon="retry" label="Regenerate" onClick={() => regenerate(conversation, turn)} />
            {tokens && <IconButton icon="tokens" label="Token probabilities" pressed={showTokens} onClick={() => setShowTokens(!showTokens)} />}
            <IconButton icon="trash" label="Delete answer" onClick={() => removeTurn(conversation, turn)} />
          </div>
          <Figures stats={turn.stats} finishReason={turn.finishReason} />
        </footer>
      )}
    </article>
  );
}

function ThinkingBlock({ text, now }: { text: string; now: boolean }) {
  return (
    <details class="thinking">
      <summary><Icon name="right" />{now ? <span class="shimmer">Thinking</span> : "Thought process"}</summary>
      <Markdown text={text} streaming={now} />
    </details>
  );
}

function ErrorNote({ message, onRetry }: { message: string; onRetry: () => void }) {
  return (
    <div class="error-note" role="alert">
      <p>{message.split(/`([^`\n]+)`/).map((part, index) => (index % 2 === 1 ? <code key={index}>{part}</code> : part))}</p>
      <div class="row">
        <button type="button" class="button" onClick={onRetry}>Try again</button>
      </div>
    </div>
  );
}

function Versions({ conversation, turn }: Props) {
  const all = siblings(conversation, turn.id);
  if (all.length < 2) return null;
  const at = all.indexOf(turn.id);
  const show = (index: number) => {
    const id = all[index];
    if (id !== undefined) store.update(conversation.id, (stored) => select(stored, id));
  };
  return (
    <span class="versions">
      <IconButton icon="left" label="Previous version" disabled={at === 0} onClick={() => show(at - 1)} />
      <span class="number">{at + 1}/{all.length}</span>
      <IconButton icon="right" label="Next version" disabled={at === all.length - 1} onClick={() => show(at + 1)} />
    </span>
  );
}

function LiveFigures({ live }: { live: LiveAnswer }) {
  const rate = live.tokensPerSecond.value;
  return <footer><p class="figures">{rate === undefined ? "\u00a0" : <><b>{figure(rate)}</b> tok/s</>}</p></footer>;
}

const REASONS: Readonly<Record<string, string>> = {
  length: "cut at the token limit", stopped: "stopped", content_filter: "filtered", tool_calls: "asked for a tool",
};

function Figures({ stats, finishReason }: { stats: AnswerStats | undefined; finishReason: string | undefined }) {
  const usage = stats?.usage;
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  const reason = finishReason === undefined ? undefined : REASONS[finishReason];
  return (
    <p class="figures">
      {stats?.tokensPerSecond !== undefined && <span><b>{figure(stats.tokensPerSecond)}</b> tok/s</span>}
      {stats?.timeToFirstTokenMs !== undefined && <span title="Time to first token, measured in this browser">first token <b>{duration(stats.timeToFirstTokenMs)}</b></span>}
      {usage && (
        <span title="Prompt tokens, then answer tokens">
          <b>{integer(usage.prompt_tokens)}</b>{cached ? ` (${integer(cached)} cached)` : ""} → <b>{integer(usage.completion_tokens)}</b> tokens
        </span>
      )}
      {reason && <span class="reason">{reason}</span>}
    </p>
  );
}
