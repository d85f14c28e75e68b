/** An answer token by token, coloured by how sure the model was; pointing at one shows what else it considered. */

import { useState } from "preact/hooks";
import type { TokenLogprob } from "../lib/api";
import { percent } from "../lib/format";

const shown = (token: string) => token.replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";

function sureness(logprob: number): string {
  const probability = Math.exp(logprob);
  return probability >= 0.9 ? "sure" : probability >= 0.5 ? "likely" : probability >= 0.2 ? "unsure" : "rare";
}

export function TokenView({ tokens }: { tokens: readonly TokenLogprob[] }) {
  const [at, setAt] = useState<number | undefined>(undefined);
  const token = at === undefined ? undefined : tokens[at];
  return (
    <div class="token-view">
      <p class="token-text">
        {tokens.map((entry, index) => (
          <span
            key={index}
            tabIndex={0}
            class={`token ${sureness(entry.logprob)} ${index === at ? "on" : ""}`}
            aria-label={`${shown(entry.token)}, ${percent(Math.exp(entry.logprob))}`}
            onPointerEnter={() => setAt(index)}
            onFocus={() => setAt(index)}
          >
            {entry.token}
          </span>
        ))}
      </p>
      <div class="alternatives" aria-live="polite">
        {token ? <Alternatives token={token} /> : <p class="hint">Point at a token, or move to it with Tab, to see what else the model considered.</p>}
      </div>
    </div>
  );
}

function Alternatives({ token }: { token: TokenLogprob }) {
  const others = token.top_logprobs ?? [];
  const rows = others.some((other) => other.token === token.token) ? others : [token, ...others];
  return (
    <table>
      <tbody>
        {rows.map((row, index) => (
          <tr key={index} class={row.token === token.token ? "chosen" : ""}>
            <th scope="row"><code>{shown(row.token)}</code></th>
            <td class="gauge-cell"><span class="track"><i style={{ width: `${Math.exp(row.logprob) * 100}%` }} /></span></td>
            <td class="number">{percent(Math.exp(row.logprob))}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
