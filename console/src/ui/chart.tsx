/** A line chart over up to five minutes, drawn on a canvas. One pointer position is shared by all charts. */

import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Sample } from "../lib/engine";
import { drawChart, PLOT, windowMs, type ChartScale } from "../lib/plot";
import { tick } from "../live-engine";
import { isDark } from "../state";

export interface Series {
  label: string;
  /** Suffix of the class `swatch-N` that gives the line its colour. */
  colour: string;
  value: (sample: Sample) => number | null;
}

export interface ChartProps {
  title: string;
  samples: readonly Sample[];
  series: readonly Series[];
  format: (value: number | null | undefined) => string;
  scale?: ChartScale;
  /** Fill under the first line. */
  area?: boolean;
}

/** Milliseconds before now under the pointer, for every chart at once; `undefined` when it is elsewhere. */
const pointed = signal<number | undefined>(undefined);

export function Chart(props: ChartProps) {
  void tick.value;
  const { title, samples, series, format } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const legend = useRef<HTMLUListElement>(null);
  const now = Date.now();
  const at = pointed.value === undefined ? samples.at(-1) : nearest(samples, now - pointed.value);

  const draw = () => {
    if (!canvas.current || !legend.current) return;
    const swatches = [...legend.current.querySelectorAll("i")].map((swatch) => getComputedStyle(swatch).color);
    drawChart(canvas.current, {
      samples, now: Date.now(), format,
      lines: series.map(({ value }, index) => ({ value, colour: swatches[index] ?? "gray" })),
      scale: props.scale ?? {},
      area: props.area ?? false,
      pointedAt: pointed.peek() === undefined ? undefined : at?.time,
    });
  };
  useLayoutEffect(draw);
  useEffect(() => {
    if (!canvas.current) return undefined;
    const observer = new ResizeObserver(draw);
    observer.observe(canvas.current);
    return () => observer.disconnect();
  }, [samples]);
  void isDark.value; // another theme has other colours

  const onMove = (event: PointerEvent) => {
    const box = canvas.current?.getBoundingClientRect();
    if (!box) return;
    const width = box.width - PLOT.left - PLOT.right;
    const share = Math.min(1, Math.max(0, (event.clientX - box.left - PLOT.left) / width));
    pointed.value = (1 - share) * windowMs(samples, Date.now());
  };
  const summary = series.map(({ label, value }) => `${label} ${at ? format(value(at)) : "unknown"}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        <h3>{title}</h3>
        <ul ref={legend}>
          {series.map(({ label, colour, value }) => (
            <li key={label}>
              <i class={`swatch${colour}`} />
              {series.length > 1 && <span>{label}</span>}
              <b>{format(at ? value(at) : null)}</b>
            </li>
          ))}
        </ul>
      </figcaption>
      <canvas ref={canvas} role="img" aria-label={`${title}, the last minutes; now ${summary}`} onPointerMove={onMove} onPointerLeave={() => (pointed.value = undefined)} />
    </figure>
  );
}

function nearest(samples: readonly Sample[], time: number): Sample | undefined {
  let best: Sample | undefined;
  for (const sample of samples) {
    if (!best || Math.abs(sample.time - time) < Math.abs(best.time - time)) best = sample;
  }
  // Far from any sample there is nothing to read off.
  return best && Math.abs(best.time - time) < 5000 ? best : undefined;
}
