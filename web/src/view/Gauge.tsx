/** Fidelity on its scale: the axis from the worst floor to 1, the floors marked on it. */
import { grade, isOutside, number, scale, share } from "../text/fidelity";

export function Badge({ fidelity }: { fidelity: number | null | undefined }) {
  const found = grade(fidelity);
  return (
    <span class={`badge badge-${found.key}`}>
      <b>{number(fidelity)}</b> {found.word}
    </span>
  );
}

export function Gauge({ fidelity }: { fidelity: number | null | undefined }) {
  const found = grade(fidelity);
  return (
    <section class="gauge" aria-label="Fidelity" data-tour="gauge">
      <div class="gauge-head">
        <Badge fidelity={fidelity} />
        <p>{found.meaning}</p>
      </div>
      {fidelity != null && scale() !== null && <Axis fidelity={fidelity} />}
      <Floors />
    </section>
  );
}

const percent = (fidelity: number) => 100 * share(fidelity);

function Axis({ fidelity }: { fidelity: number }) {
  const here = percent(fidelity);
  const nothing = percent(scale()?.knowing_nothing ?? 0);
  const key = grade(fidelity).key;
  return (
    <div class="gauge-axis" aria-hidden="true">
      <svg class="gauge-scale" viewBox="0 0 100 10" preserveAspectRatio="none">
        <rect class="gauge-track" x="0" y="3.5" width="100" height="3" />
        <rect class="gauge-nothing" x="0" y="3.5" width={nothing} height="3" />
        <rect class={`gauge-fill fill-${key}`} x={Math.min(nothing, here)} y="3.5"
          width={Math.abs(here - nothing)} height="3" />
        {scale()?.floors.map(({ name, value }) => (
          <rect key={name} class="gauge-floor" x={percent(value) - 0.2} y="1" width="0.4" height="8" />
        ))}
        <rect class={`gauge-here fill-${key}`} x={Math.max(0, Math.min(99, here - 0.5))} y="0" width="1" height="10" />
      </svg>
      <span class="gauge-ends">
        <span>{isOutside(fidelity) ? `◂ ${number(fidelity)}, below the axis` : number(scale()?.low)}</span>
        <span>1</span>
      </span>
    </div>
  );
}

function Floors() {
  const floors = scale()?.floors ?? [];
  if (floors.length === 0) return null;
  return (
    <details class="floors">
      <summary>
        Knowing nothing reaches <b>{number(scale()?.knowing_nothing)}</b> at best
      </summary>
      <ul>
        {floors.map(({ name, label, value }) => (
          <li key={name}><b>{number(value)}</b> {label}</li>
        ))}
      </ul>
      <ScaleAbout />
    </details>
  );
}

/** What fidelity is, in the four sentences that are the same everywhere. */
export function ScaleAbout() {
  return <p class="muted">{scale()?.about.join(" ")}</p>;
}
