/** Scores a description that the reader writes: does it carry the activation better? */
import { useState } from "preact/hooks";
import { api } from "../api/client";
import { attempted } from "../state/notice";
import { model, sourceFields, type Session } from "../state/session";
import { Gauge } from "./Gauge";

const MOST_CHARS = 8192;

export function OwnWords({ of, position, first }: { of: Session; position: number; first: string }) {
  const [text, setText] = useState("");
  const [fidelity, setFidelity] = useState<number | null>(null);
  const [working, setWorking] = useState(false);
  const score = async (event: Event) => {
    event.preventDefault();
    setWorking(true);
    setFidelity(await attempted(() => fidelityOf(of, position, text)));
    setWorking(false);
  };
  return (
    <details class="details own-words">
      <summary>Try your own words</summary>
      <form onSubmit={(event) => void score(event)}>
        <textarea rows={3} value={text} maxLength={MOST_CHARS} aria-label="Your description of this activation"
          placeholder="Describe what you think is held in mind here…"
          onInput={(event) => setText(event.currentTarget.value)} />
        <div class="row">
          <button type="submit" class="small primary" disabled={working || text.trim() === ""}>
            {working ? "Scoring…" : "Score"}
          </button>
          <button type="button" class="small" onClick={() => setText(first.slice(0, MOST_CHARS))}>
            Start from the explanation
          </button>
        </div>
      </form>
      {fidelity !== null && <div role="status"><Gauge fidelity={fidelity} /></div>}
    </details>
  );
}

async function fidelityOf(of: Session, position: number, description: string): Promise<number | null> {
  const { tokens } = await api.extract({ ...sourceFields(of.source), positions: [position] });
  const { mse } = await api.score({ description, activation: tokens[0]?.activation });
  const variance = model.value?.variance;
  return mse === null || !variance ? null : 1 - mse / variance;
}
