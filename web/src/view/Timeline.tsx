/** Fidelity over the text, and where chosen kinds of claims are made. */
import { useComputed } from "@preact/signals";
import { useRef } from "preact/hooks";
import type { Claim } from "../api/types";
import { focus, moveTo, revision, type Session } from "../state/session";
import { change, settings } from "../state/settings";
import { grade, grades, isOutside, number, scale, share } from "../text/fidelity";
import { plain, tokenName } from "../text/visible";
import { useWidth } from "./width";

const NARROW = 520;
const ROW = 20;
const LEFT = 58;
/** Height of a label: two nearer than this would run into each other. */
const LABEL = 13;
const MOST_ROWS = 4;

export function Timeline({ of }: { of: Session }) {
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  // Results are peeked at, and looked at again when the revision says so: not at every single one.
  revision.value;
  const kinds = claimKinds(of);
  const rows = settings.value.claimRows.filter((kind) => kinds.includes(kind)).slice(0, MOST_ROWS);
  const place = placer(of, width);
  const plot = width < NARROW ? 74 : 128;
  const now = useComputed(() => Math.max(0, focus.value));
  const words = useComputed(() => valueText(of));
  return (
    <section class="timeline" aria-label="Timeline" data-tour="timeline">
      <div ref={box} class="timeline-plot" tabIndex={0} role="slider" aria-label="Token in focus, by fidelity"
        aria-valuemin={0} aria-valuemax={of.tokens.length - 1} aria-valuenow={now} aria-valuetext={words}
        onKeyDown={steer} onClick={(event) => jump(event, of, width)}>
        <svg width={width} height={plot + rows.length * ROW + 4} aria-hidden="true">
          <Bands width={width} plot={plot} />
          <Curve of={of} x={place} plot={plot} />
          {rows.map((kind, index) => (
            <ClaimRow key={kind} of={of} kind={kind} x={place} y={plot + index * ROW + ROW / 2 + 2} />
          ))}
          <Here of={of} x={place} plot={plot} foot={plot + rows.length * ROW} />
        </svg>
      </div>
      {kinds.length > 0 && <KindChips kinds={kinds} rows={rows} />}
    </section>
  );
}

/** The line at the token in focus: the one thing that a move redraws. */
function Here({ of, x, plot, foot }: { of: Session; x: (p: number) => number; plot: number; foot: number }) {
  const place = focus.value;
  if (place < 0) return null;
  const fidelity = of.entries[place]?.result.value?.fidelity;
  return (
    <g>
      <line class="plot-focus" x1={x(place)} x2={x(place)} y1={2} y2={foot} />
      {fidelity != null && (
        <circle class={`plot-dot dot-${grade(fidelity).key}`} cx={x(place)} cy={height(fidelity, plot)} r={5} />
      )}
    </g>
  );
}

function KindChips({ kinds, rows }: { kinds: string[]; rows: string[] }) {
  return (
    <div class="chips" role="group" aria-label="Claims on the timeline">
      <span class="chips-label">Claims</span>
      {kinds.map((kind) => (
        <button key={kind} type="button" class="chip" aria-pressed={rows.includes(kind)}
          onClick={() => change({ claimRows: toggled(rows, kind) })}>
          {plain(kind)}
        </button>
      ))}
    </div>
  );
}

function toggled(rows: string[], kind: string): string[] {
  if (rows.includes(kind)) return rows.filter((each) => each !== kind);
  return [...rows.slice(-(MOST_ROWS - 1)), kind];
}

function placer(of: Session, width: number): (position: number) => number {
  const step = (width - LEFT - 8) / Math.max(1, of.tokens.length - 1);
  return (position) => LEFT + position * step;
}

function height(fidelity: number, plot: number): number {
  return plot - 8 - share(fidelity) * (plot - 16);
}

function Bands({ width, plot }: { width: number; plot: number }) {
  const found = scale();
  if (found === null) return null;
  const nothing = height(found.knowing_nothing, plot);
  const bounds = grades().slice(0, 3).flatMap(({ word, threshold }) =>
    threshold === null ? [] : [{ word, y: height(threshold, plot) }]);
  return (
    <g>
      <rect class="plot-nothing" x={LEFT} y={nothing} width={Math.max(0, width - LEFT)} height={Math.max(0, plot - nothing)} />
      {bounds.map(({ word, y }) => <line key={word} class="plot-grid" x1={LEFT} x2={width} y1={y} y2={y} />)}
      {apart(bounds, nothing).map(({ word, y }) => (
        <text key={word} class="plot-label" x={LEFT - 8} y={y + 4} text-anchor="end">{word}</text>
      ))}
      {found.floors.map(({ name, value }) => (
        <line key={name} class="plot-floor" x1={LEFT} x2={LEFT + 10} y1={height(value, plot)} y2={height(value, plot)} />
      ))}
      <line class="plot-zero" x1={LEFT} x2={width} y1={nothing} y2={nothing} />
      <text class="plot-label" x={LEFT - 8} y={nothing + 4} text-anchor="end">nothing</text>
    </g>
  );
}

/** From the top down, the labels that run neither into each other nor into the lowest one. */
function apart(labels: { word: string; y: number }[], lowest: number): { word: string; y: number }[] {
  let last = -LABEL;
  return labels.filter(({ y }) => {
    const fits = y - last >= LABEL && lowest - y >= LABEL;
    if (fits) last = y;
    return fits;
  });
}

function Curve({ of, x, plot }: { of: Session; x: (position: number) => number; plot: number }) {
  const read = of.tokens.flatMap((token) => {
    const fidelity = of.entries[token.position]?.result.peek()?.fidelity;
    return fidelity == null ? [] : [{ position: token.position, fidelity }];
  });
  const path = read.map((each, index) =>
    `${index === 0 || each.position - (read[index - 1]?.position ?? 0) > 8 ? "M" : "L"}`
    + `${x(each.position).toFixed(1)} ${height(each.fidelity, plot).toFixed(1)}`).join("");
  const radius = read.length > 300 ? 1.6 : 3;
  return (
    <g>
      <path class="plot-line" d={path} />
      {read.map(({ position, fidelity }) => isOutside(fidelity)
        ? <path key={position} class={`plot-dot dot-${grade(fidelity).key}`} d={downward(x(position), plot - 3)} />
        : <circle key={position} class={`plot-dot dot-${grade(fidelity).key}`} cx={x(position)}
            cy={height(fidelity, plot)} r={radius} />)}
    </g>
  );
}

/** A triangle that points below the axis, for a value that lies there. */
function downward(x: number, y: number): string {
  return `M${x - 4} ${y - 6}h8l-4 6z`;
}

function claimKinds(of: Session): string[] {
  const counts = new Map<string, number>();
  for (const entry of of.entries) {
    for (const claim of entry.result.peek()?.claims ?? []) {
      counts.set(claim.kind, (counts.get(claim.kind) ?? 0) + 1);
    }
  }
  return [...counts].sort((a, b) => b[1] - a[1]).map(([kind]) => kind).slice(0, 16);
}

function ClaimRow({ of, kind, x, y }: { of: Session; kind: string; x: (p: number) => number; y: number }) {
  const made = of.entries.flatMap((entry, position) =>
    (entry.result.peek()?.claims ?? []).filter((claim) => claim.kind === kind)
      .map((claim) => ({ position, claim })));
  return (
    <g>
      <text class="plot-label" x={LEFT - 8} y={y + 4} text-anchor="end">{plain(kind)}</text>
      <line class="plot-grid" x1={LEFT} x2={x(of.tokens.length - 1)} y1={y} y2={y} />
      {made.map(({ position, claim }, index) => (
        <g key={index} class={`mark mark-${claim.verdict ?? "none"}`}>
          <title>{plain(claim.value)}</title>
          <path d={markPath(claim, x(position), y)} />
        </g>
      ))}
    </g>
  );
}

/** True a full dot, false a cross, uncheckable a ring: told apart without colour. */
function markPath(claim: Claim, x: number, y: number): string {
  if (claim.verdict === "false") {
    return `M${x - 3.2} ${y - 3.2}L${x + 3.2} ${y + 3.2}M${x - 3.2} ${y + 3.2}L${x + 3.2} ${y - 3.2}`;
  }
  return `M${x - 3} ${y}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0`;
}

function valueText(of: Session): string {
  const token = of.tokens[focus.value];
  if (!token) return "no token chosen";
  const result = of.entries[focus.value]?.result.value;
  const read = result ? `fidelity ${number(result.fidelity)}, ${grade(result.fidelity).word}` : "not read";
  return `${tokenName(token.token)}, ${read}`;
}

function steer(event: KeyboardEvent): void {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  moveTo(focus.value + step);
}

function jump(event: MouseEvent, of: Session, width: number): void {
  if (!(event.currentTarget instanceof Element)) return;
  const x = event.clientX - event.currentTarget.getBoundingClientRect().left;
  const share = (x - LEFT) / Math.max(1, width - LEFT - 8);
  moveTo(Math.round(share * (of.tokens.length - 1)));
}
