/** Two tokens side by side, and what stands in the one activation and not in the other. */
import { useLayoutEffect, useState } from "preact/hooks";
import { api } from "../api/client";
import type { Compared } from "../api/types";
import { attempted } from "../state/notice";
import { moveTo, pin, pins, sourceFields, type Session } from "../state/session";
import { number } from "../text/fidelity";
import { tokenName } from "../text/visible";
import { Explanation } from "./Explanation";
import { Badge } from "./Gauge";
import { Icon } from "./Icon";

export function Pins({ of }: { of: Session }) {
  const [found, setFound] = useState<Compared | null>(null);
  const [working, setWorking] = useState(false);
  const [first, second] = pins.value;
  useLayoutEffect(() => setFound(null), [first, second, of.id]);
  if (first === undefined) return null;
  const compare = async () => {
    if (second === undefined) return;
    setWorking(true);
    setFound(await attempted(() => difference(of, first, second)));
    setWorking(false);
  };
  return (
    <section class="pins" aria-label="Pinned tokens">
      <div class="pins-row">
        <PinChip of={of} position={first} />
        {second === undefined
          ? <span class="muted">Pin a second token to read how they differ.</span>
          : <><span class="muted">minus</span><PinChip of={of} position={second} /></>}
        {second !== undefined && (
          <>
            <button type="button" class="plain square small" aria-label="Swap the pinned tokens" title="Swap"
              onClick={() => (pins.value = [second, first])}>⇄</button>
            <button type="button" class="primary small" disabled={working} onClick={() => void compare()}>
              {working ? "Reading…" : "Read the difference"}
            </button>
          </>
        )}
      </div>
      {second !== undefined && <SideBySide of={of} positions={[first, second]} />}
      {found && <Difference found={found} />}
    </section>
  );
}

async function difference(of: Session, first: number, second: number): Promise<Compared> {
  const { tokens } = await api.extract({ ...sourceFields(of.source), positions: [first, second], reverse: false });
  const vector = (position: number) => tokens.find((token) => token.position === position)?.activation;
  return api.compare({ activation_a: vector(first), activation_b: vector(second), temperature: 0 });
}

function PinChip({ of, position }: { of: Session; position: number }) {
  const name = tokenName(of.tokens[position]?.token ?? "");
  return (
    <span class="pin-chip">
      <button type="button" class="link" onClick={() => moveTo(position)}><bdi>{name}</bdi> <small>{position}</small></button>
      <button type="button" class="plain square small" aria-label={`Unpin ${name}`} onClick={() => pin(position)}>
        <Icon name="close" />
      </button>
    </span>
  );
}

function SideBySide({ of, positions }: { of: Session; positions: number[] }) {
  const read = positions.map((position) => of.entries[position]?.result.value ?? null);
  if (read.every((each) => each === null)) return null;
  return (
    <div class="side-by-side">
      {read.map((result, index) => (
        <div key={index}>
          {result
            ? <><Badge fidelity={result.fidelity} /><Explanation text={result.description} claims={result.claims} /></>
            : <p class="muted">Not read yet.</p>}
        </div>
      ))}
    </div>
  );
}

function Difference({ found }: { found: Compared }) {
  return (
    <div class="difference" role="status">
      <h4>The difference, read as an activation</h4>
      <Explanation text={found.description} />
      <p class="muted">
        Norm of the difference {number(found.diff_norm)}, cosine of its reconstruction {number(found.cosine_similarity)}.
        Differences are unlike what the verbalizer was trained on: take this as a hint.
      </p>
    </div>
  );
}
