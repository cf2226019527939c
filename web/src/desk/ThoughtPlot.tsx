/** The thought map as a plot: how far the thoughts have moved from the start, token by token. */
import { useRef } from "preact/hooks";
import type { OpenTranscript, TokenThought } from "../api/types";
import { useWidth } from "../view/width";

const HEIGHT = 150;
const LEFT = 34;
const FOOT = 18;
/** Distances are 1 - cosine: from 0 to at most 2. */
const LEAST_TOP = 0.5;

interface PlotProps {
  of: OpenTranscript;
  here: TokenThought | undefined;
  hits: Set<number>;
  move: (position: number) => void;
}

export function ThoughtPlot({ of, here, hits, move }: PlotProps) {
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  if (of.embedder === null) {
    return <p class="muted">Too few readings for a thought map.</p>;
  }
  const at = of.readings.findIndex((each) => each.position === here?.position);
  const step = (by: number) => {
    const next = of.readings[Math.max(0, Math.min(of.readings.length - 1, at + by))];
    if (next) move(next.position);
  };
  const scale = scaleOf(of, width);
  return (
    <figure class="desk-plot">
      <div ref={box} tabIndex={0} role="slider" aria-label={`Thought map of ${of.name}`}
        aria-valuemin={0} aria-valuemax={of.readings.length - 1} aria-valuenow={Math.max(0, at)}
        aria-valuetext={here ? `token ${here.position}, drift ${(here.drift ?? 0).toFixed(2)}` : "nothing"}
        onKeyDown={(event) => keyed(event, step)} onClick={(event) => clicked(event, of, scale, move)}>
        <svg width={width} height={HEIGHT} aria-hidden="true">
          <Axes scale={scale} width={width} />
          {of.readings.filter((each) => each.pivot).map((each) => (
            <line key={each.position} class="desk-pivot" x1={scale.x(each.position)} x2={scale.x(each.position)}
              y1={4} y2={HEIGHT - FOOT} />
          ))}
          <path class="desk-activation" d={path(of, scale, (each) => each.activation_drift)} />
          <path class="desk-drift" d={path(of, scale, (each) => each.drift)} />
          {of.readings.map((each) => (
            <Mark key={each.position} of={each} hit={hits.has(each.position)} scale={scale} />
          ))}
          {here && (
            <line class="desk-here" x1={scale.x(here.position)} x2={scale.x(here.position)} y1={4} y2={HEIGHT - FOOT} />
          )}
        </svg>
      </div>
      <figcaption class="muted">
        <span class="key-drift">explanations</span> and <span class="key-activation">activations</span>: distance
        from the start. Bars are turning points, triangles odd readings, squares a detector's hits.
      </figcaption>
    </figure>
  );
}

interface Scale {
  x: (position: number) => number;
  y: (distance: number) => number;
  top: number;
  last: number;
}

function scaleOf(of: OpenTranscript, width: number): Scale {
  const values = of.readings.flatMap((each) => [each.drift ?? 0, each.activation_drift ?? 0]);
  const top = Math.max(LEAST_TOP, ...values);
  const last = Math.max(1, of.num_tokens - 1);
  return {
    x: (position) => LEFT + (position / last) * Math.max(1, width - LEFT - 8),
    y: (distance) => HEIGHT - FOOT - (Math.max(0, distance) / top) * (HEIGHT - FOOT - 8),
    top,
    last,
  };
}

function Axes({ scale, width }: { scale: Scale; width: number }) {
  return (
    <g>
      {[0, scale.top / 2, scale.top].map((value) => (
        <g key={value}>
          <line class="plot-grid" x1={LEFT} x2={width} y1={scale.y(value)} y2={scale.y(value)} />
          <text class="plot-label" x={LEFT - 6} y={scale.y(value) + 4} text-anchor="end">{value.toFixed(1)}</text>
        </g>
      ))}
      <text class="plot-label" x={LEFT} y={HEIGHT - 4}>token 0</text>
      <text class="plot-label" x={width - 8} y={HEIGHT - 4} text-anchor="end">{scale.last}</text>
    </g>
  );
}

function path(of: OpenTranscript, scale: Scale, value: (of: TokenThought) => number | null): string {
  return of.readings.map((each, index) =>
    `${index === 0 ? "M" : "L"}${scale.x(each.position).toFixed(1)} ${scale.y(value(each) ?? 0).toFixed(1)}`).join("");
}

/** Told apart by shape: a square is a hit, a triangle odd, a dot neither. */
function Mark({ of, hit, scale }: { of: TokenThought; hit: boolean; scale: Scale }) {
  const [x, y] = [scale.x(of.position), scale.y(of.drift ?? 0)];
  if (hit) return <rect class="desk-hit" x={x - 4} y={y - 4} width={8} height={8} />;
  if (of.odd.length > 0) return <path class="desk-odd" d={`M${x - 5} ${y + 4}h10l-5 -9z`} />;
  return <circle class="desk-dot" cx={x} cy={y} r={2.4} />;
}

function keyed(event: KeyboardEvent, step: (by: number) => void): void {
  const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  step(by);
}

/** Goes to the reading that is nearest to the click. */
function clicked(event: MouseEvent, of: OpenTranscript, scale: Scale, move: (position: number) => void): void {
  if (!(event.currentTarget instanceof Element)) return;
  const x = event.clientX - event.currentTarget.getBoundingClientRect().left;
  const away = (each: TokenThought) => Math.abs(scale.x(each.position) - x);
  const nearest = of.readings.reduce((best, each) => (away(each) < away(best) ? each : best), of.readings[0]!);
  if (nearest) move(nearest.position);
}
