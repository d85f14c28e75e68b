/** The drawing of a chart: axes, lines with gaps where nothing is known, the pointer's cross-hair. */

import { HISTORY_MS, type Sample } from "./engine";

export interface ChartScale {
  /** Fixed top of the axis; otherwise it follows the data. */
  max?: number;
  /** The axis shows at least this much, so that noise around zero does not look like mountains. */
  atLeast?: number;
  /** The values are counts: the middle of the axis must be one, too. */
  whole?: boolean;
}

export interface Plot {
  samples: readonly Sample[];
  now: number;
  lines: readonly { value: (sample: Sample) => number | null; colour: string }[];
  format: (value: number | null | undefined) => string;
  scale: ChartScale;
  area: boolean;
  /** The time of the sample being pointed at. */
  pointedAt: number | undefined;
}

/** Room around the plot for the axis labels, in CSS pixels. */
export const PLOT = { left: 4, right: 44, top: 8, bottom: 20 } as const;

const MINUTE = 60_000;

/** How much of the past is drawn: one minute at first, growing with what is known to the whole history. */
export function windowMs(samples: readonly Sample[], now: number): number {
  const minutes = Math.ceil((now - (samples[0]?.time ?? now)) / MINUTE);
  return Math.min(HISTORY_MS, Math.max(1, minutes) * MINUTE);
}

/** Samples further apart than this are not joined: the server was silent in between. */
const GAP_MS = 5000;

/** The next round number, one of 1, 2, 2.5, 5 times a power of ten, that is no less than `value`. */
export function niceMax(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 2.5, 5, 10].find((candidate) => candidate * power >= value * (1 - 1e-9)) ?? 10;
  return step * power;
}

function topOf(plot: Plot): number {
  if (plot.scale.max !== undefined) return plot.scale.max;
  let top = plot.scale.atLeast ?? 0;
  for (const sample of plot.samples) {
    for (const { value } of plot.lines) top = Math.max(top, value(sample) ?? 0);
  }
  return plot.scale.whole ? 2 * Math.ceil(niceMax(top) / 2) : niceMax(top);
}

export function drawChart(canvas: HTMLCanvasElement, plot: Plot): void {
  const context = canvas.getContext("2d");
  const { clientWidth, clientHeight } = canvas;
  if (!context || clientWidth === 0 || clientHeight === 0) return;
  const ratio = devicePixelRatio || 1;
  const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, clientWidth, clientHeight);

  const top = topOf(plot);
  const right = clientWidth - PLOT.right;
  const bottom = clientHeight - PLOT.bottom;
  const past = windowMs(plot.samples, plot.now);
  const x = (time: number) => right - ((plot.now - time) / past) * (right - PLOT.left);
  const y = (value: number) => bottom - (Math.min(value, top) / top) * (bottom - PLOT.top);
  drawAxes(context, canvas, plot, { top, right, bottom, past, x, y });

  context.save();
  context.beginPath();
  context.rect(PLOT.left, 0, right - PLOT.left + 3, clientHeight);
  context.clip();
  plot.lines.forEach((line, index) => {
    const runs = split(plot.samples, line.value);
    if (plot.area && index === 0) fill(context, runs, line.colour, { x, y, bottom, height: clientHeight });
    stroke(context, runs, line.colour, x, y);
  });
  context.restore();
  if (plot.pointedAt !== undefined) drawPointer(context, plot, { x, y, bottom });
}

interface Frame {
  top: number;
  right: number;
  bottom: number;
  /** Milliseconds from the left edge to now. */
  past: number;
  x: (time: number) => number;
  y: (value: number) => number;
}

function drawAxes(context: CanvasRenderingContext2D, canvas: HTMLCanvasElement, plot: Plot, frame: Frame): void {
  const style = getComputedStyle(canvas);
  context.font = `10.5px ${style.fontFamily}`;
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (const share of [0, 0.5, 1]) {
    const at = Math.round(frame.y(frame.top * share)) + 0.5;
    context.strokeStyle = style.borderTopColor;
    context.beginPath();
    context.moveTo(PLOT.left, at);
    context.lineTo(frame.right, at);
    context.stroke();
    context.fillStyle = style.color;
    if (share > 0) context.fillText(plot.format(frame.top * share), frame.right + 6, at);
  }
  context.textBaseline = "alphabetic";
  const [unit, name] = frame.past <= MINUTE ? [1000, "s"] : [MINUTE, "min"];
  const step = frame.past <= MINUTE ? 15_000 : frame.past > 3 * MINUTE && frame.right < 360 ? 2 * MINUTE : MINUTE;
  for (let back = step; back <= frame.past; back += step) {
    context.textAlign = back === frame.past ? "left" : "center";
    context.fillText(`−${back / unit} ${name}`, frame.x(plot.now - back), frame.bottom + 14);
  }
  context.textAlign = "right";
  context.fillText("now", frame.right, frame.bottom + 14);
}

type Run = { time: number; value: number }[];

/** Cuts a line where a value is not known or the time jumps. */
export function split(samples: readonly Sample[], value: (sample: Sample) => number | null): Run[] {
  const runs: Run[] = [];
  let run: Run = [];
  for (const sample of samples) {
    const number = value(sample);
    const last = run.at(-1);
    if (number === null || (last && sample.time - last.time > GAP_MS)) {
      if (run.length > 0) runs.push(run);
      run = [];
    }
    if (number !== null) run.push({ time: sample.time, value: number });
  }
  if (run.length > 0) runs.push(run);
  return runs;
}

function trace(context: CanvasRenderingContext2D, run: Run, x: Frame["x"], y: Frame["y"]): void {
  run.forEach((point, index) => {
    if (index === 0) context.moveTo(x(point.time), y(point.value));
    else context.lineTo(x(point.time), y(point.value));
  });
}

function stroke(context: CanvasRenderingContext2D, runs: Run[], colour: string, x: Frame["x"], y: Frame["y"]): void {
  context.strokeStyle = colour;
  context.fillStyle = colour;
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  for (const run of runs) trace(context, run, x, y);
  context.stroke();
  const last = runs.at(-1)?.at(-1);
  if (!last) return;
  context.beginPath();
  context.arc(x(last.time), y(last.value), 2.2, 0, 2 * Math.PI);
  context.fill();
}

function fill(context: CanvasRenderingContext2D, runs: Run[], colour: string, frame: Pick<Frame, "x" | "y" | "bottom"> & { height: number }): void {
  const gradient = context.createLinearGradient(0, 0, 0, frame.height);
  gradient.addColorStop(0, colour);
  // The same colour without opacity: "transparent" is black, and would grey the fade.
  gradient.addColorStop(1, colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0)"));
  context.globalAlpha = 0.22;
  context.fillStyle = gradient;
  for (const run of runs) {
    const [first, last] = [run[0], run.at(-1)];
    if (!first || !last) continue;
    context.beginPath();
    trace(context, run, frame.x, frame.y);
    context.lineTo(frame.x(last.time), frame.bottom);
    context.lineTo(frame.x(first.time), frame.bottom);
    context.fill();
  }
  context.globalAlpha = 1;
}

function drawPointer(context: CanvasRenderingContext2D, plot: Plot, frame: Pick<Frame, "x" | "y" | "bottom">): void {
  const sample = plot.samples.find((candidate) => candidate.time === plot.pointedAt);
  if (!sample) return;
  const at = Math.round(frame.x(sample.time)) + 0.5;
  context.strokeStyle = getComputedStyle(context.canvas).color;
  context.globalAlpha = 0.5;
  context.beginPath();
  context.moveTo(at, PLOT.top);
  context.lineTo(at, frame.bottom);
  context.stroke();
  context.globalAlpha = 1;
  for (const { value, colour } of plot.lines) {
    const number = value(sample);
    if (number === null) continue;
    context.fillStyle = colour;
    context.beginPath();
    context.arc(at, frame.y(number), 3.2, 0, 2 * Math.PI);
    context.fill();
  }
}
