/** An explanation in its parts, with the claims in it marked where they can be checked. */
import { useState } from "preact/hooks";
import type { Claim } from "../api/types";
import { parts, type Part } from "../text/parts";
import { change, settings } from "../state/settings";
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

export const SAYS = { true: "true", false: "false", uncheckable: "cannot be checked" };

function pieces(part: Part, claims: Claim[]) {
  const end = part.start + part.text.length;
  const inside = claims.filter((claim) => claim.verdict !== null && claim.start >= part.start && claim.end <= end);
  const found = [];
  let from = part.start;
  for (const claim of inside.sort((a, b) => a.start - b.start)) {
    if (claim.start < from) continue;
    found.push(<Shown text={part.text.slice(from - part.start, claim.start - part.start)} />);
    found.push(
      <mark class={`claim claim-${claim.verdict}${doubted(claim) ? " doubted" : ""}`} title={`${claim.kind}: ${SAYS[claim.verdict ?? "uncheckable"]}`}>
        <Shown text={part.text.slice(claim.start - part.start, claim.end - part.start)} />
      </mark>,
    );
    from = claim.end;
  }
  found.push(<Shown text={part.text.slice(from - part.start)} />);
  return found;
}

const SIGNS = { true: "✓", false: "✗", uncheckable: "?" };

/** Whether a claim was said with less confidence than the person asks for. */
function doubted(claim: Claim): boolean {
  return claim.confidence != null && claim.confidence < settings.value.leastConfidence;
}

export function Claims({ claims }: { claims: Claim[] }) {
  const checked = claims.some((claim) => claim.verdict !== null);
  const counts = (verdict: string) => claims.filter((claim) => claim.verdict === verdict).length;
  return (
    <section class="claims" aria-label="Claims">
      <h4>{checked
        ? `Claims: ${counts("true")} true, ${counts("false")} false, ${counts("uncheckable")} uncheckable`
        : "Claims"}</h4>
      {claims.some((claim) => claim.confidence != null) && <LeastConfidence />}
      <ul>{claims.map((claim, index) => <ClaimItem key={index} claim={claim} />)}</ul>
      {!checked && <p class="muted">Whether they are true is known only for storyworld passages.</p>}
      {claims.some((claim) => claim.probe != null) && (
        <p class="muted">A probe reads one fact from the activation itself, whatever the words say.</p>
      )}
    </section>
  );
}

function ClaimItem({ claim }: { claim: Claim }) {
  const dim = doubted(claim) ? " doubted" : "";
  return (
    <li class={`claim-item claim-${claim.verdict ?? "none"}${dim}`}>
      {claim.verdict && <span class="claim-sign" aria-hidden="true">{SIGNS[claim.verdict]}</span>}
      <span class="claim-kind"><Shown text={claim.kind} /></span>
      <span class="claim-value"><Shown text={claim.value} /></span>
      {claim.verdict && <span class="claim-verdict">{SAYS[claim.verdict]}</span>}
      {claim.confidence != null && (
        <span class="claim-confidence">said with {claim.confidence.toFixed(2)} confidence</span>
      )}
      {claim.probe && <ProbeAnswer claim={claim} probe={claim.probe} />}
    </li>
  );
}

const percent = (share: number) => `${Math.round(share * 100)} %`;
/** A probe so little above chance reads nothing: the activation does not hold that fact. */
const BETTER_THAN_CHANCE = 0.1;

function ProbeAnswer({ claim, probe }: { claim: Claim; probe: NonNullable<Claim["probe"]> }) {
  const record = `Right on ${percent(probe.accuracy)} of held-out tokens; `
    + `always the commonest value: ${percent(probe.chance)}.`;
  const guess = probe.accuracy < probe.chance + BETTER_THAN_CHANCE;
  const agrees = probe.value === claim.value;
  return (
    <span class={`claim-probe${guess ? " probe-guess" : ""}`} title={record}>
      {agrees ? "probe agrees" : <>probe: <Shown text={probe.value} /></>} ({probe.confidence.toFixed(2)})
      {guess && ", a guess"}
    </span>
  );
}

function LeastConfidence() {
  const least = settings.value.leastConfidence;
  return (
    <label class="least-confidence">
      Dim claims below {least.toFixed(2)}
      <input type="range" min="0" max="1" step="0.05" value={least}
        onInput={(event) => change({ leastConfidence: Number(event.currentTarget.value) })} />
    </label>
  );
}
