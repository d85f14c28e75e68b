/** Line icons drawn for this page on a 20-unit grid, and the mark. All are decoration: their buttons carry the label. */

const PATHS = {
  plus: "M10 4v12M4 10h12",
  search: "M9 3.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11M13 13l4 4",
  chat: "M3.5 4.5h13v9.5H9.5L6 17v-3H3.5z",
  models: "M10 3 3.5 6.5 10 10l6.5-3.5zM3.5 10 10 13.5l6.5-3.5M3.5 13.5 10 17l6.5-3.5",
  engine: "M2.5 10.5h3.2l2-6 4 11.5 2.3-5.5h3.5",
  requests: "M3 5h6M6 10h8M11 15h6",
  traces: "M4.5 3.5h8l3 3v10h-11zM7 8h3M7 11h6M7 13.8h6",
  send: "M10 16V4.5M5 9.5l5-5 5 5",
  stop: "M6 6h8v8H6z",
  copy: "M7.5 7.5h8.5V16H7.5zM4 12.5V4h8.5",
  check: "m4 10.5 4 4 8-9",
  retry: "M15.5 7.5A6 6 0 1 0 16 11M16 3.5v4h-4",
  edit: "m4 16 .8-3.4L13 4.4a1.4 1.4 0 0 1 2 0l.6.6a1.4 1.4 0 0 1 0 2L7.4 15.2z",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.7 10h7.6l.7-10M8.5 9v4.5M11.5 9v4.5",
  sliders: "M3.5 6h6M13.5 6h3M3.5 14h3M10.5 14h6M11.5 4a2 2 0 1 0 0 4 2 2 0 0 0 0-4M8.5 12a2 2 0 1 0 0 4 2 2 0 0 0 0-4",
  left: "m12 5-5 5 5 5",
  right: "m8 5 5 5-5 5",
  down: "m5 8 5 5 5-5",
  close: "m5 5 10 10M15 5 5 15",
  menu: "M3.5 6h13M3.5 10h13M3.5 14h13",
  more: "M4 9.4v1.2M10 9.4v1.2M16 9.4v1.2M3.6 10h.8M9.6 10h.8M15.6 10h.8",
  download: "M10 3.5v9M6 9l4 4 4-4M4 16.5h12",
  upload: "M10 13V4M6 7.5l4-4 4 4M4 16.5h12",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M15.7 4.3l-1.1 1.1M5.4 14.6l-1.1 1.1",
  moon: "M16 12.2A6.8 6.8 0 0 1 7.8 4a6.5 6.5 0 1 0 8.2 8.2z",
  system: "M3 4.5h14v9H3zM7.5 16.5h5M10 13.5v3",
  tokens: "M3.5 6.5h5v7h-5zM11.5 6.5h5v7h-5z",
  key: "M6.5 9a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M9 10l7-6.5M13.5 6l2 2",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The mark: two triangles, a circle, the point. */
export function Mark({ busy = false }: { busy?: boolean }) {
  return (
    <svg class={busy ? "mark busy" : "mark"} viewBox="0 0 32 32" aria-hidden="true">
      <circle class="ring" cx="16" cy="16" r="14" />
      <path d="M16 4.5 26 22H6Z" />
      <path d="M16 27.5 6 10h20Z" />
      <circle class="point" cx="16" cy="16" r="1.9" />
    </svg>
  );
}

/**
 * The nine triangles of the Sri Yantra by the classical construction (Lakshmidhara on the Saundarya Lahari): the upright
 * diameter has 48 parts; nine chords cross it, shortened at both ends; five are bases of triangles that point down, four
 * of triangles that point up, each reaching to another chord or to the circle.
 */
function triangles(radius: number): string {
  const TOP = 0;
  const BOTTOM = 10;
  const levels = [0, 6, 12, 17, 20, 23, 27, 30, 36, 42, 48];
  const shortened = [0, 3, 5, 0, 16, 18, 16, 0, 4, 3, 0];
  const reach: [base: number, apex: number][] = [[1, 6], [2, 9], [3, BOTTOM], [4, 8], [5, 7], [6, 2], [7, TOP], [8, 1], [9, 3]];
  const height = (chord: number) => ((levels[chord] ?? 0) / 24 - 1) * radius;
  return reach
    .map(([base, apex]) => {
      const y = height(base);
      const half = Math.sqrt(radius ** 2 - y ** 2) * (1 - (shortened[base] ?? 0) / 24);
      return `M${half.toFixed(2)} ${y.toFixed(2)}H${(-half).toFixed(2)}L0 ${height(apex).toFixed(2)}Z`;
    })
    .join("");
}

/** The whole figure for the empty page: gates, petals, interlocked triangles, drawn in hairlines. */
export function Figure() {
  const petals = (count: number, inner: number, outer: number) =>
    Array.from({ length: count }, (_, index) => {
      const at = (angle: number, radius: number) => {
        const turn = (2 * Math.PI * angle) / count - Math.PI / 2;
        return `${(radius * Math.cos(turn)).toFixed(2)} ${(radius * Math.sin(turn)).toFixed(2)}`;
      };
      const middle = (inner + outer) / 2;
      return `M${at(index - 0.5, inner)}Q${at(index - 0.5, middle + 3)} ${at(index, outer)}Q${at(index + 0.5, middle + 3)} ${at(index + 0.5, inner)}`;
    }).join("");
  const gate = (size: number) => {
    const s = size, g = 13, d = 7;
    const side = `H${-g}v${-d}h${-d}v${-d}h${2 * (g + d)}v${d}h${-d}v${d}`;
    return [0, 90, 180, 270].map((angle) => <path key={angle} transform={`rotate(${angle})`} d={`M${-s} ${-s}${side}H${s}`} />);
  };
  return (
    <svg class="figure" viewBox="-130 -130 260 260" aria-hidden="true">
      <g class="gates">{gate(106)}</g>
      <circle r="98" />
      <path class="petals" d={petals(16, 82, 98)} />
      <circle r="82" />
      <path class="petals" d={petals(8, 66, 82)} />
      <circle r="66" />
      <path class="triangles" d={triangles(66)} />
      <circle class="point" cy="-1" r="2.2" />
    </svg>
  );
}
