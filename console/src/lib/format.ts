/** Numbers and times as people read them. Every function takes what may be missing and then gives an en dash. */

const DASH = "–";

function known(value: number | null | undefined): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

/** 12 345 → "12.3k": three significant figures at most. */
export function compact(value: number | null | undefined): string {
  if (!known(value)) return DASH;
  const magnitude = Math.abs(value);
  for (const [limit, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]] as const) {
    if (magnitude >= limit) return figure(value / (unit === "k" ? 1e3 : limit)) + unit;
  }
  return figure(value);
}

/** Three significant figures, no exponent, no trailing zeros. */
export function figure(value: number | null | undefined): string {
  if (!known(value)) return DASH;
  const magnitude = Math.abs(value);
  const decimals = magnitude >= 100 || Number.isInteger(value) ? 0 : magnitude >= 10 ? 1 : 2;
  return String(Number(value.toFixed(decimals)));
}

export function integer(value: number | null | undefined): string {
  return known(value) ? Math.round(value).toLocaleString("en-GB").replaceAll(",", "\u202f") : DASH;
}

export function bytes(value: number | null | undefined): string {
  if (!known(value)) return DASH;
  let scaled = value;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(scaled) < 1024) return `${figure(scaled)} ${unit}`;
    scaled /= 1024;
  }
  return `${figure(scaled)} TiB`;
}

/** 0.4 ms, 85 ms, 1.24 s, 2 min 5 s. */
export function duration(milliseconds: number | null | undefined): string {
  if (!known(milliseconds)) return DASH;
  if (milliseconds < 1000) return `${figure(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${figure(milliseconds / 1000)} s`;
  return span(milliseconds / 1000);
}

/** Whole seconds as the two largest units: "3 d 4 h", "5 min 10 s". */
export function span(seconds: number | null | undefined): string {
  if (!known(seconds)) return DASH;
  const whole = Math.floor(seconds);
  const parts: [number, string][] = [
    [Math.floor(whole / 86_400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

export function percent(fraction: number | null | undefined): string {
  return known(fraction) ? `${figure(fraction * 100)}%` : DASH;
}

/** "now", "5 min", "3 h", "Tue", "4 Mar", "4 Mar 2024": how long ago, as short as it stays clear. */
export function ago(then: number, now = Date.now()): string {
  const seconds = (now - then) / 1000;
  if (seconds < 60) return "now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  const date = new Date(then);
  if (seconds < 6 * 86_400) return date.toLocaleDateString("en-GB", { weekday: "short" });
  const sameYear = date.getFullYear() === new Date(now).getFullYear();
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short", ...(sameYear ? {} : { year: "numeric" }) });
}
