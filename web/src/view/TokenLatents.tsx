/** The latents of one token, and what became of them in its explanation: shared, lost, invented. */
import { useState } from "preact/hooks";
import { latentsApi, type ActiveLatent, type Witnessed } from "../api/latents";
import { look } from "../state/latents";
import { attempted } from "../state/notice";
import { sourceFields, type Session } from "../state/session";
import { number } from "../text/fidelity";
import { Badge } from "./Gauge";
import { OffManifold } from "./Latents";
import { Shown } from "./Shown";

const FATES = [
  { key: "shared", word: "Shared", meaning: "in the activation and in what the explanation rebuilds" },
  { key: "lost", word: "Lost", meaning: "in the activation alone: the explanation does not carry it" },
  { key: "invented", word: "Invented", meaning: "only in what the explanation rebuilds" },
] as const;

interface Props {
  of: Session;
  position: number;
  explanation: string;
}

export function TokenLatents({ of, position, explanation }: Props) {
  const [found, setFound] = useState<Witnessed | null>(null);
  const [asked, setAsked] = useState(false);
  const ask = async (event: Event) => {
    if (asked || !(event.currentTarget as HTMLDetailsElement).open) return;
    setAsked(true);
    const body = { ...sourceFields(of.source), position, explanation };
    const answer = await attempted(() => latentsApi.witness(body));
    setFound(answer);
    setAsked(answer !== null);
  };
  return (
    <details class="details token-latents" onToggle={(event) => void ask(event)}>
      <summary>Latents of this token</summary>
      {found ? <Fates found={found} /> : asked && <p class="muted" role="status">Encoding…</p>}
      {found && <LeftOut of={of} position={position} explanation={explanation} />}
    </details>
  );
}

function Fates({ found }: { found: Witnessed }) {
  return (
    <>
      <p class="muted">
        A sparse autoencoder as witness: latents of the activation and of what the explanation
        rebuilds overlap by {number(found.jaccard)} (Jaccard).
      </p>
      {FATES.map(({ key, word, meaning }) => (
        <section key={key} class={`fate fate-${key}`} aria-label={`${word} latents`}>
          <h4>{word} <small>{found[key].length}, {meaning}</small></h4>
          {found[key].length === 0
            ? <p class="muted">None.</p>
            : <ul class="latent-list">{found[key].map((each) => <LatentItem key={each.index} latent={each} />)}</ul>}
        </section>
      ))}
    </>
  );
}

/** What the autoencoder leaves out of the activation, read by the NLA when asked. */
function LeftOut({ of, position, explanation }: Props) {
  const [found, setFound] = useState<Witnessed | null>(null);
  const [working, setWorking] = useState(false);
  const read = async () => {
    setWorking(true);
    const body = { ...sourceFields(of.source), position, explanation, residual: true };
    setFound(await attempted(() => latentsApi.witness(body)));
    setWorking(false);
  };
  if (found?.residual == null) {
    return (
      <div class="row">
        <button type="button" class="small" disabled={working} onClick={() => void read()}>
          {working ? "Reading…" : "Read what the dictionary leaves out"}
        </button>
      </div>
    );
  }
  return (
    <section class="fate" aria-label="What the dictionary leaves out" role="status">
      <h4>What the dictionary leaves out</h4>
      <p class="direction-head"><Badge fidelity={found.residual_fidelity} /><OffManifold /></p>
      <p class="direction-said"><bdi><Shown text={found.residual} /></bdi></p>
      <p class="muted">The activation without the sum of its latents looks like no activation: these words are a hint.</p>
    </section>
  );
}

export function LatentItem({ latent }: { latent: ActiveLatent }) {
  return (
    <li>
      <button type="button" class="small latent" onClick={() => look(latent.index)}>
        <b>{latent.index}</b>
        {latent.label && <bdi><Shown text={latent.label} /></bdi>}
        <small>{latent.activation.toFixed(1)}</small>
      </button>
    </li>
  );
}
