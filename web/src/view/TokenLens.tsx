/** A lens at one token: what each block's residual stream would say next. */
import { useState } from "preact/hooks";
import { latentsApi, type LensReading } from "../api/latents";
import { attempted } from "../state/notice";
import { sourceFields, type Session } from "../state/session";
import { Shown } from "./Shown";

const SHOWN = 3;

const NAMES = { logit: "Logit lens", jacobian: "Jacobian lens" } as const;

interface Props {
  of: Session;
  position: number;
  lens: keyof typeof NAMES;
}

export function TokenLens({ of, position, lens }: Props) {
  const [found, setFound] = useState<LensReading | null>(null);
  const [asked, setAsked] = useState(false);
  const ask = async (event: Event) => {
    if (asked || !(event.currentTarget as HTMLDetailsElement).open) return;
    setAsked(true);
    const answer = await attempted(() => latentsApi.lens({ ...sourceFields(of.source), position, lens }));
    setFound(answer);
    setAsked(answer !== null);
  };
  const layers = found?.tokens[0]?.layers ?? [];
  return (
    <details class="details" onToggle={(event) => void ask(event)}>
      <summary>{NAMES[lens]}</summary>
      {asked && !found && <p class="muted" role="status">Asking every block…</p>}
      {layers.length > 0 && (
        <table class="lens">
          <caption class="muted">The next token after each block, with no NLA: a baseline.</caption>
          <tbody>
            {layers.map((layer) => (
              <tr key={layer.layer}>
                <th scope="row">{layer.layer}</th>
                <td>
                  {layer.top.slice(0, SHOWN).map((each, at) => (
                    <span key={at}><code class="promoted"><bdi><Shown text={each.token} /></bdi></code> {each.probability.toFixed(2)} </span>
                  ))}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </details>
  );
}
