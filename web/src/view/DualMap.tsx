/** Two dictionaries, or two NLAs' readings, on one map: linked panels, a selection, nearest in the other. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { latentsApi, type DualMap, type MapPoint } from "../api/latents";
import { look } from "../state/latents";
import { attempted } from "../state/notice";
import { Dialog } from "./Dialog";
import { Shown } from "./Shown";

const SIZE = 320, MARGIN = 10;
const MOST_LISTED = 40;

interface Corner { x: number; y: number }
interface Placed { point: MapPoint; x: number; y: number }

/** What the points are: latents of two dictionaries, or readings of two NLAs. */
const WORDS = {
  latents: { title: "Two dictionaries on one map", points: "latents", side: "dictionary", ask: latentsApi.map },
  readings: { title: "Two NLAs' readings on one map", points: "readings", side: "NLA", ask: latentsApi.readingMap },
} as const;
type Of = keyof typeof WORDS;

export function DualMapDialog({ of }: { of: Of }) {
  const [found, setFound] = useState<DualMap | null>(null);
  useEffect(() => void attempted(WORDS[of].ask).then(setFound), []);
  return (
    <Dialog title={WORDS[of].title} wide>
      {found ? <Panels of={of} found={found} /> : <p class="muted" role="status">Loading…</p>}
    </Dialog>
  );
}

function Panels({ of, found }: { of: Of; found: DualMap }) {
  const words = WORDS[of];
  const [chosen, setChosen] = useState<Set<string>>(new Set());
  const [overlay, setOverlay] = useState(false);
  const placed = useMemo(() => place(found.points), [found]);
  const panels = [0, 1].map((number) => placed.filter((each) => each.point.dictionary === number));
  const listed = placed.filter((each) => each.point.dictionary === 0 && chosen.has(keyOf(each.point)));
  const select = (points: MapPoint[]) => setChosen(linked(points, found.points));
  return (
    <>
      <p class="muted">{found.note} Drag around {words.points} to select them; their nearest in the other {words.side} light up.</p>
      <label class="check">
        <input type="checkbox" checked={overlay} onInput={(event) => setOverlay(event.currentTarget.checked)} />
        Lay one over the other
      </label>
      {overlay && (
        <p class="map-key">
          {found.names.map((name, number) => <span key={number} class={`side-${number}`}>● <bdi>{name}</bdi></span>)}
        </p>
      )}
      {overlay && (
        <Panel name={found.names.join(" and ")} number={2} points={placed} words={words.points}
          chosen={chosen} select={select} />
      )}
      <div class="map-panels" hidden={overlay}>
        {!overlay && panels.map((points, number) => (
          <Panel key={number} name={found.names[number] ?? ""} number={number} points={points} words={words.points}
            chosen={chosen} select={select} />
        ))}
      </div>
      <dl class="facts">
        {found.names.map((name, number) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              mean largest cosine {(found.mean_across[number] ?? 0).toFixed(2)} in the other{" "}
              {words.side}, {(found.mean_within[number] ?? 0).toFixed(2)} within its own
              <Histogram heights={found.across[number] ?? []} name={`Largest cosines of ${name} in the other ${words.side}`} />
            </dd>
          </div>
        ))}
        {found.same_token && <SameTokens same={found.same_token} />}
      </dl>
      <p role="status">{chosen.size === 0 ? "Nothing is selected." : `${chosen.size} ${words.points} are selected.`}</p>
      {listed.length > 0 && (
        <ul class="latent-list" aria-label={`Selected ${words.points}`}>
          {listed.slice(0, MOST_LISTED).map(({ point }) => (
            <li key={point.latent}>
              {of === "latents" ? <Latent point={point} /> : <Readings point={point} found={found} />}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function Latent({ point }: { point: MapPoint }) {
  return (
    <button type="button" class="small latent" onClick={() => look(point.latent)}>
      <b>{point.latent}</b><small>nearest {point.nearest}, cosine {point.cosine.toFixed(2)}</small>
    </button>
  );
}

/** What both say of one token. */
function Readings({ point, found }: { point: MapPoint; found: DualMap }) {
  const other = found.points.find((each) => each.dictionary === 1 && each.latent === point.latent);
  return (
    <section class="two-readings" aria-label={`Token ${point.latent}`}>
      <p class="muted"><bdi>…<Shown text={point.around ?? ""} /></bdi></p>
      <dl class="facts">
        {[point, other].map((each, number) => (
          <div key={number}>
            <dt>{found.names[number]}</dt>
            <dd><bdi><Shown text={each?.text || "(nothing)"} /></bdi></dd>
          </div>
        ))}
      </dl>
      <small>cosine of the two {(point.same ?? 0).toFixed(2)}; nearest of the other {point.cosine.toFixed(2)}</small>
    </section>
  );
}

function SameTokens({ same }: { same: NonNullable<DualMap["same_token"]> }) {
  const told = (value: number, [low, high]: readonly number[]) =>
    `${value.toFixed(2)} [${(low ?? 0).toFixed(2)}, ${(high ?? 0).toFixed(2)}]`;
  return (
    <div>
      <dt>At the same token</dt>
      <dd>
        cosine {told(same.cosine, same.interval)}, with readings of another
        document {told(same.other_document, same.other_document_interval)}; the very same words
        at {Math.round(100 * same.identical)} % of tokens (embedder: {same.embedder}
        {same.by_meaning ? "" : ", which finds the same words only"})
      </dd>
    </div>
  );
}

interface PanelProps {
  name: string;
  number: number;
  points: Placed[];
  words: string;
  chosen: Set<string>;
  select: (points: MapPoint[]) => void;
}

function Panel({ name, number, points, words, chosen, select }: PanelProps) {
  const [lasso, setLasso] = useState<Corner[]>([]);
  const drawing = useRef<Corner[] | null>(null);
  const at = (event: PointerEvent): Corner => {
    const box = (event.currentTarget as SVGElement).getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * SIZE, y: ((event.clientY - box.top) / box.height) * SIZE };
  };
  const begin = (event: PointerEvent) => {
    (event.currentTarget as SVGElement).setPointerCapture(event.pointerId);
    drawing.current = [at(event)];
  };
  const move = (event: PointerEvent) => {
    if (drawing.current === null) return;
    drawing.current.push(at(event));
    setLasso([...drawing.current]);
  };
  const end = () => {
    const corners = drawing.current ?? [];
    drawing.current = null;
    setLasso([]);
    select(points.filter((each) => inside(each, corners)).map((each) => each.point));
  };
  return (
    <figure>
      <figcaption>{name}</figcaption>
      <svg class={`map-panel map-${number}`} viewBox={`0 0 ${SIZE} ${SIZE}`} role="img"
        aria-label={`Map of ${name}, ${points.length} ${words}`}
        onPointerDown={begin} onPointerMove={move} onPointerUp={end} onPointerCancel={end}>
        {points.map((each) => (
          <circle key={keyOf(each.point)} cx={each.x} cy={each.y} r={chosen.has(keyOf(each.point)) ? 4 : 2}
            class={`side-${each.point.dictionary}${chosen.has(keyOf(each.point)) ? " chosen" : ""}`}>
            <title>{each.point.text ?? `latent ${each.point.latent}`}</title>
          </circle>
        ))}
        {lasso.length > 1 && <polygon class="lasso" points={lasso.map((each) => `${each.x},${each.y}`).join(" ")} />}
      </svg>
      <button type="button" class="small" onClick={() => select(points.map((each) => each.point))}>Select all of {name}</button>
    </figure>
  );
}

function Histogram({ heights, name }: { heights: number[]; name: string }) {
  const most = Math.max(...heights, 1);
  return (
    <svg class="bars" viewBox={`0 0 ${heights.length || 1} 12`} preserveAspectRatio="none" role="img" aria-label={name}>
      {heights.map((height, at) => (
        <rect key={at} x={at + 0.1} width={0.8} y={12 - (12 * height) / most} height={(12 * height) / most} />
      ))}
    </svg>
  );
}

const keyOf = (point: MapPoint) => `${point.dictionary} ${point.latent}`;

/** The points, and of each its nearest in the other dictionary. */
function linked(points: MapPoint[], all: MapPoint[]): Set<string> {
  const known = new Set(all.map(keyOf));
  const both = points.flatMap((each) => [keyOf(each), `${1 - each.dictionary} ${each.nearest}`]);
  return new Set(both.filter((key) => known.has(key)));
}

/** Points in the panels' square, the same scale for both. */
function place(points: MapPoint[]): Placed[] {
  const xs = points.map((each) => each.x), ys = points.map((each) => each.y);
  const left = Math.min(...xs), top = Math.min(...ys);
  const span = Math.max(Math.max(...xs) - left, Math.max(...ys) - top, 1e-9);
  const to = (value: number, from: number) => MARGIN + ((value - from) / span) * (SIZE - 2 * MARGIN);
  return points.map((point) => ({ point, x: to(point.x, left), y: to(point.y, top) }));
}

/** Whether a point lies inside a polygon: an odd number of edges to its right. */
function inside({ x, y }: Corner, corners: Corner[]): boolean {
  let odd = false;
  corners.forEach((a, at) => {
    const b = corners[(at + 1) % corners.length];
    if (b && a.y > y !== b.y > y && x < a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x)) odd = !odd;
  });
  return odd;
}
