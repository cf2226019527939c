/** Edits an explanation and shows what the target writes then: before and after, and the cost. */
import { useState } from "preact/hooks";
import { api } from "../api/client";
import type { Claim, Steered } from "../api/types";
import { attempted } from "../state/notice";
import { sourceFields, type Session } from "../state/session";
import { number } from "../text/fidelity";
import { Shown } from "./Shown";

const MOST_CHARS = 8192;
/** Less than this, and the AR makes nothing of the edit. */
const LEAST_SHIFT = 0.1;
/** Share of the activation's norm at which most edits are taken up and the text stays whole. */
const STRENGTH = 0.5;

interface Props {
  of: Session;
  position: number;
  explanation: string;
  claims: Claim[];
}

export function Steer({ of, position, explanation, claims }: Props) {
  const [text, setText] = useState(explanation);
  const [alpha, setAlpha] = useState(STRENGTH);
  const [once, setOnce] = useState(false);
  const [found, setFound] = useState<Steered | null>(null);
  const [working, setWorking] = useState(false);
  const steer = async (event: Event) => {
    event.preventDefault();
    setWorking(true);
    const body = { ...sourceFields(of.source), position, explanation, edit: text, alpha, once };
    setFound(await attempted(() => api.steer(body)));
    setWorking(false);
  };
  return (
    <details class="details steer">
      <summary>Edit it and steer the model</summary>
      <form onSubmit={(event) => void steer(event)}>
        {claims.length > 0 && (
          <div class="row" role="group" aria-label="Edit a claim">
            {claims.map((claim) => (
              <button key={`${claim.kind} ${claim.start}`} type="button" class="chip"
                onClick={() => setText(replaced(text, explanation, claim))}>
                {claim.kind}: <Shown text={explanation.slice(claim.start, claim.end)} />
              </button>
            ))}
          </div>
        )}
        <textarea rows={3} value={text} maxLength={MOST_CHARS} aria-label="The edited explanation"
          onInput={(event) => setText(event.currentTarget.value)} />
        <label class="least-confidence">
          Strength {alpha.toFixed(2)} of the activation's norm
          <input type="range" min="-2" max="2" step="0.25" value={alpha}
            onInput={(event) => setAlpha(Number(event.currentTarget.value))} />
        </label>
        <label class="desk-check">
          <input type="checkbox" checked={once} onChange={(event) => setOnce(event.currentTarget.checked)} />
          At this token alone, not at the later ones
        </label>
        <div class="row">
          <button type="submit" class="small primary" disabled={working || text.trim() === "" || text === explanation}>
            {working ? "Steering…" : "Steer"}
          </button>
          <button type="button" class="small" disabled={text === explanation} onClick={() => setText(explanation)}>Undo the edit</button>
        </div>
      </form>
      {found && <Result found={found} />}
    </details>
  );
}

/** The text with a claim's words asked for anew: the person types what stands there instead. */
function replaced(text: string, explanation: string, claim: Claim): string {
  const words = explanation.slice(claim.start, claim.end);
  const wanted = prompt(`Instead of “${words}”:`, words);
  return wanted === null || wanted.trim() === "" ? text : text.replace(words, wanted.trim());
}

function Result({ found }: { found: Steered }) {
  return (
    <div class="steered" role="status">
      <dl>
        <div><dt>Before</dt><dd><bdi><Shown text={found.before} /></bdi></dd></div>
        <div><dt>After</dt><dd><bdi><Shown text={found.after} /></bdi></dd></div>
        <div><dt>KL on unrelated text</dt><dd>{number(found.kl_unrelated)} nats</dd></div>
      </dl>
      <p class="muted">
        {found.changed ? "The continuation changed." : "The continuation stayed the same."}
        {found.shift < LEAST_SHIFT && " The reconstructor makes next to nothing of this edit, so what was added is mostly noise."}
      </p>
    </div>
  );
}
