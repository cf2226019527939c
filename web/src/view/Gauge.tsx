/** Fidelity on a scale, in words and as a number, the floors beside it. */
import { model } from "../state/session";
import { floorName, grade, number } from "../text/fidelity";

const LOW = -0.2;

function share(fidelity: number): number {
  return Math.max(0, Math.min(100, ((fidelity - LOW) / (1 - LOW)) * 100));
}

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
  const here = share(fidelity ?? LOW);
  const floors = Object.entries(model.value?.floors ?? {});
  return (
    <section class="gauge" aria-label="Fidelity">
      <div class="gauge-head">
        <Badge fidelity={fidelity} />
        <p>{found.meaning}</p>
      </div>
      <svg class="gauge-scale" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
        <rect class="gauge-track" x="0" y="3.5" width="100" height="3" />
        <rect class={`gauge-fill fill-${found.key}`} x={Math.min(share(0), here)} y="3.5"
          width={Math.abs(here - share(0))} height="3" />
        {floors.map(([name, value]) => (
          <rect key={name} class="gauge-floor" x={share(value) - 0.2} y="1" width="0.4" height="8" />
        ))}
      </svg>
      {floors.length > 0 && (
        <p class="floors">
          Knowing nothing reaches{" "}
          {floors.map(([name, value], index) => (
            <span key={name}>{index > 0 && ", "}<b>{number(value)}</b> with {floorName(name)}</span>
          ))}.
        </p>
      )}
    </section>
  );
}
