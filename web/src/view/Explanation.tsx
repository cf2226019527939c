/** An explanation in its parts, with the claims in it marked where they can be checked. */
import { useState } from "preact/hooks";
import type { Claim } from "../api/types";
import { parts, type Part } from "../text/parts";
import { Shown } from "./Shown";

/** Beyond this a wall of words would push the rest of the page away; it opens on demand. */
const MOST_CHARS = 1400;

interface Props {
  text: string;
  claims?: Claim[] | null | undefined;
  writing?: boolean;
  closed?: boolean | undefined;
}

export function Explanation({ text, claims, writing = false, closed = true }: Props) {
  const [open, setOpen] = useState(false);
  const cut = text.length > MOST_CHARS && !open;
  const spans = inUtf16(text, claims ?? []);
  return (
    <div class="explanation" data-cut={cut}>
      {parts(cut ? text.slice(0, MOST_CHARS) : text).map((part) => (
        <div class="part" key={part.label}>
          <h4>{part.label}</h4>
          <p><bdi>{pieces(part, spans)}</bdi></p>
        </div>
      ))}
      {writing && <span class="caret" aria-hidden="true" />}
      {text.trim() === "" && !writing && <p class="muted">The verbalizer wrote nothing.</p>}
      {!closed && !writing && <p class="muted">Cut off before its end.</p>}
      {text.length > MOST_CHARS && (
        <button type="button" class="small" onClick={() => setOpen(!open)}>
          {open ? "Show less" : `Show all ${text.length.toLocaleString("en")} characters`}
        </button>
      )}
    </div>
  );
}

/** The wire counts code points, a JavaScript string does not. */
function inUtf16(text: string, claims: Claim[]): Claim[] {
  if (!/[\ud800-\udbff]/.test(text)) return claims;
  const points = Array.from(text);
  const at = (index: number) => points.slice(0, index).join("").length;
  return claims.map((claim) => ({ ...claim, start: at(claim.start), end: at(claim.end) }));
}

const SAYS = { true: "true", false: "false", uncheckable: "cannot be checked" };

function pieces(part: Part, claims: Claim[]) {
  const end = part.start + part.text.length;
  const inside = claims.filter((claim) => claim.verdict !== null && claim.start >= part.start && claim.end <= end);
  const found = [];
  let from = part.start;
  for (const claim of inside.sort((a, b) => a.start - b.start)) {
    if (claim.start < from) continue;
    found.push(<Shown text={part.text.slice(from - part.start, claim.start - part.start)} />);
    found.push(
      <mark class={`claim claim-${claim.verdict}`} title={`${claim.kind}: ${SAYS[claim.verdict ?? "uncheckable"]}`}>
        <Shown text={part.text.slice(claim.start - part.start, claim.end - part.start)} />
      </mark>,
    );
    from = claim.end;
  }
  found.push(<Shown text={part.text.slice(from - part.start)} />);
  return found;
}

const SIGNS = { true: "✓", false: "✗", uncheckable: "?" };

export function Claims({ claims }: { claims: Claim[] }) {
  const checked = claims.some((claim) => claim.verdict !== null);
  const counts = (verdict: string) => claims.filter((claim) => claim.verdict === verdict).length;
  return (
    <section class="claims" aria-label="Claims">
      <h4>{checked
        ? `Claims: ${counts("true")} true, ${counts("false")} false, ${counts("uncheckable")} uncheckable`
        : "Claims"}</h4>
      <ul>
        {claims.map((claim, index) => (
          <li key={index} class={`claim-item claim-${claim.verdict ?? "none"}`}>
            {claim.verdict && <span class="claim-sign" aria-hidden="true">{SIGNS[claim.verdict]}</span>}
            <span class="claim-kind"><Shown text={claim.kind} /></span>
            <span class="claim-value"><Shown text={claim.value} /></span>
            {claim.verdict && <span class="claim-verdict">{SAYS[claim.verdict]}</span>}
          </li>
        ))}
      </ul>
      {!checked && <p class="muted">Whether they are true is known only for storyworld passages.</p>}
    </section>
  );
}
