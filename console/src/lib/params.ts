/**
 * The sampling parameters a conversation may set. One that is not set is not sent: the server's default applies.
 */

import type { ChatRequest } from "./api";

export type NumericParam =
  | "temperature" | "top_p" | "top_k" | "min_p" | "max_tokens" | "seed"
  | "repetition_penalty" | "presence_penalty" | "frequency_penalty";

export interface ParamSpec {
  key: NumericParam;
  label: string;
  help: string;
  min: number;
  max: number;
  step: number;
  /** Where the slider starts when the parameter is first touched: the value that changes nothing, or a common one. */
  typical: number;
  /** A number too wide for a slider. */
  typed?: boolean;
}

export const PARAMS: readonly ParamSpec[] = [
  { key: "temperature", label: "Temperature", help: "0 always takes the likeliest token; higher is more varied", min: 0, max: 2, step: 0.05, typical: 0.7 },
  { key: "top_p", label: "Top p", help: "Keeps the likeliest tokens whose probabilities add up to this", min: 0.01, max: 1, step: 0.01, typical: 1 },
  { key: "top_k", label: "Top k", help: "Keeps this many of the likeliest tokens; 0 keeps all", min: 0, max: 200, step: 1, typical: 40 },
  { key: "min_p", label: "Min p", help: "Drops tokens less likely than this share of the likeliest one", min: 0, max: 1, step: 0.01, typical: 0.05 },
  { key: "repetition_penalty", label: "Repetition penalty", help: "Above 1, tokens already seen become less likely", min: 0.5, max: 2, step: 0.01, typical: 1 },
  { key: "presence_penalty", label: "Presence penalty", help: "Lowers tokens that have appeared at all", min: -2, max: 2, step: 0.05, typical: 0 },
  { key: "frequency_penalty", label: "Frequency penalty", help: "Lowers tokens by how often they have appeared", min: -2, max: 2, step: 0.05, typical: 0 },
  { key: "max_tokens", label: "Max tokens", help: "Longest answer; unset runs to the model's context", min: 1, max: 1_048_576, step: 1, typical: 1024, typed: true },
  { key: "seed", label: "Seed", help: "The same seed and request give the same answer", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, typical: 0, typed: true },
];

export interface Params extends Partial<Record<NumericParam, number>> {
  stop?: string[];
  /** Ask for the probability of every token and its alternatives. */
  logprobs?: boolean;
}

/** What a new conversation starts with: a little calmer than the API's own defaults, which small models ramble under. */
export const DEFAULTS: Readonly<Params> = { temperature: 0.7, top_p: 0.95 };

export const MAX_STOPS = 16;
const TOP_LOGPROBS = 5;

/** Brings a number into the range of its parameter, whole where the parameter is whole. */
export function clamp(spec: ParamSpec, value: number): number {
  const whole = Number.isInteger(spec.step) ? Math.round(value) : value;
  return Math.min(spec.max, Math.max(spec.min, whole));
}

/** A copy with one parameter set, or unset by `undefined`. */
export function withParam<K extends keyof Params>(params: Params, key: K, value: Params[K] | undefined): Params {
  const next = { ...params };
  if (value === undefined) delete next[key];
  else next[key] = value;
  return next;
}

/** How many parameters are not what a new conversation starts with. */
export function countChanged(params: Params): number {
  const keys = new Set([...Object.keys(params), ...Object.keys(DEFAULTS)]) as Set<keyof Params>;
  return [...keys].filter((key) => params[key] !== DEFAULTS[key]).length;
}

export function toRequest(params: Params): Partial<ChatRequest> {
  const { stop, logprobs, ...numbers } = params;
  return {
    ...numbers,
    ...(stop && stop.length > 0 && { stop }),
    ...(logprobs && { logprobs: true, top_logprobs: TOP_LOGPROBS }),
  };
}

/** Reads parameters that were stored or imported; what does not fit is left out. */
export function parseParams(value: unknown): Params {
  if (typeof value !== "object" || value === null) return {};
  const raw = value as Record<string, unknown>;
  const params: Params = {};
  for (const spec of PARAMS) {
    const number = raw[spec.key];
    if (typeof number === "number" && Number.isFinite(number)) params[spec.key] = clamp(spec, number);
  }
  if (Array.isArray(raw["stop"])) {
    const stops = raw["stop"].filter((stop): stop is string => typeof stop === "string" && stop !== "").slice(0, MAX_STOPS);
    if (stops.length > 0) params.stop = stops;
  }
  if (raw["logprobs"] === true) params.logprobs = true;
  return params;
}
