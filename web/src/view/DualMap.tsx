/** Two dictionaries of one site on one map: linked panels, a selection, nearest in the other. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { latentsApi, type DualMap, type MapPoint } from "../api/latents";
import { look } from "../state/latents";
import { attempted } from "../state/notice";
import { Dialog } from "./Dialog";

const SIZE = 320, MARGIN = 10;
const MOST_LISTED = 40;

interface Corner { x: number; y: number }
interface Placed { point: MapPoint; x: number; y: number }

export function DualMapDialog() {
  const [found, setFound] = useState<DualMap | null>(null);
  useEffect(() => void attempted(latentsApi.map).then(setFound), []);
  return (
    <Dialog title="Two dictionaries on one map" wide>
      {found ? <Panels found={found} /> : <p class="muted" role="status">Loading…</p>}
    </Dialog>
  );
}

function Panels({ found }: { found: DualMap }) {
  const [chosen, setChosen] = useState<Set<string>>(new Set());
  const placed = useMemo(() => place(found.points), [found]);
  const panels = [0, 1].map((number) => placed.filter((each) => each.point.dictionary === number));
  const listed = placed.filter((each) => each.point.dictionary === 0 && chosen.has(keyOf(each.point)));
  const select = (points: MapPoint[]) => setChosen(linked(points, found.points));
  return (
    <>
      <p class="muted">{found.note} Drag around latents to select them; their nearest in the other dictionary light up.</p>
      <div class="map-panels">
        {panels.map((points, number) => (
          <Panel key={number} name={found.names[number] ?? ""} number={number} points={points} chosen={chosen} select={select} />
        ))}
      </div>
      <dl class="facts">
        {found.names.map((name, number) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              mean largest cosine {(found.mean_across[number] ?? 0).toFixed(2)} in the other
              dictionary, {(found.mean_within[number] ?? 0).toFixed(2)} within its own
              <Histogram heights={found.across[number] ?? []} name={`Largest cosines of ${name} in the other dictionary`} />
            </dd>
          </div>
        ))}
      </dl>
      <p role="status">{chosen.size === 0 ? "Nothing is selected." : `${chosen.size} latents are selected.`}</p>
      {listed.length > 0 && (
        <ul class="latent-list" aria-label="Selected latents">
          {listed.slice(0, MOST_LISTED).map(({ point }) => (
            <li key={point.latent}>
              <button type="button" class="small latent" onClick={() => look(point.latent)}>
                <b>{point.latent}</b><small>nearest {point.nearest}, cosine {point.cosine.toFixed(2)}</small>
              </button>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

interface PanelProps {
  name: string;
  number: number;
  points: Placed[];
  chosen: Set<string>;
  select: (points: MapPoint[]) => void;
}

function Panel({ name, number, points, chosen, select }: PanelProps) {
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
        aria-label={`Map of ${name}, ${points.length} latents`}
        onPointerDown={begin} onPointerMove={move} onPointerUp={end} onPointerCancel={end}>
        {points.map((each) => (
          <circle key={each.point.latent} cx={each.x} cy={each.y} r={chosen.has(keyOf(each.point)) ? 4 : 2}
            class={chosen.has(keyOf(each.point)) ? "chosen" : ""}>
            <title>latent {each.point.latent}</title>
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
