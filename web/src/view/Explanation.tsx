/** An explanation in its parts, with the claims in it marked where they can be checked. */
import { useState } from "preact/hooks";
import type { Claim, Fact, Sample } from "../api/types";
import { parts, type Part } from "../text/parts";
import { change, settings } from "../state/settings";
import { grade, isBelievable } from "../text/fidelity";
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

interface ClaimsProps {
  claims: Claim[];
  fidelity?: number | null | undefined;
  unsaid?: Fact[] | null | undefined;
  /** All samples of the token, for the number of those that make a claim. */
  samples?: Sample[];
}

export function Claims({ claims, fidelity, unsaid, samples = [] }: ClaimsProps) {
  const checked = claims.some((claim) => claim.verdict !== null);
  const counts = (verdict: string) => claims.filter((claim) => claim.verdict === verdict).length;
  const left = unsaid ? `; ${unsaid.length} true ${unsaid.length === 1 ? "fact" : "facts"} not said` : "";
  const believable = fidelity === undefined || isBelievable(fidelity);
  return (
    <section class={`claims${believable ? "" : " claims-void"}`} aria-label="Claims">
      <h4>{checked || unsaid
        ? `Claims: ${counts("true")} true, ${counts("false")} false, ${counts("uncheckable")} uncheckable${left}`
        : "Claims"}</h4>
      {!believable && (
        <p class="void-reason">
          The explanation is {grade(fidelity).word === "do not believe" ? "not to be believed" : grade(fidelity).word}, so
          confidences and probes are not shown: they were calibrated on activations that it can read.
        </p>
      )}
      {believable && claims.some((claim) => claim.confidence != null) && <LeastConfidence />}
      <ul>
        {claims.map((claim, index) => (
          <ClaimItem key={index} claim={claim} believable={believable} made={timesMade(claim, samples)} of={samples.length} />
        ))}
      </ul>
      {!checked && !unsaid && <p class="muted">Whether they are true is not known for this text.</p>}
      {unsaid && unsaid.length > 0 && <Unsaid facts={unsaid} believable={believable} />}
      {believable && claims.some((claim) => claim.probe != null) && (
        <p class="muted">A probe reads one fact from the activation itself, whatever the words say.</p>
      )}
    </section>
  );
}

function timesMade(claim: Claim, samples: Sample[]): number {
  return samples.filter((sample) =>
    (sample.claims ?? []).some((each) => each.kind === claim.kind && each.value === claim.value)).length;
}

/** What is true here and was not said, with what a probe reads of it: silence is shown too. */
function Unsaid({ facts, believable }: { facts: Fact[]; believable: boolean }) {
  return (
    <details class="unsaid">
      <summary>True here, and not said ({facts.length})</summary>
      <ul>
        {facts.map((fact) => (
          <li key={`${fact.kind} ${fact.value}`} class="claim-item">
            <span class="claim-kind"><Shown text={fact.kind} /></span>
            <span class="claim-value"><Shown text={fact.value} /></span>
            {fact.planned && <span class="claim-verdict">planned</span>}
            {believable && fact.probe && <ProbeAnswer value={fact.value} probe={fact.probe} />}
            {fact.probe === null && <span class="claim-probe">no probe</span>}
          </li>
        ))}
      </ul>
    </details>
  );
}

function ClaimItem({ claim, believable, made, of }: { claim: Claim; believable: boolean; made: number; of: number }) {
  const dim = doubted(claim) ? " doubted" : "";
  return (
    <li class={`claim-item claim-${claim.verdict ?? "none"}${dim}`}>
      {claim.verdict && <span class="claim-sign" aria-hidden="true">{SIGNS[claim.verdict]}</span>}
      <span class="claim-kind"><Shown text={claim.kind} /></span>
      <span class="claim-value"><Shown text={claim.value} /></span>
      {claim.verdict && <span class="claim-verdict">{SAYS[claim.verdict]}</span>}
      {of > 1 && (
        <span class={`claim-made${made === 1 ? " claim-lone" : ""}`}>
          {made === 1 ? `only 1 of ${of} samples says so` : `in ${made} of ${of} samples`}
        </span>
      )}
      {believable && claim.confidence != null && (
        <span class="claim-confidence">confidence {claim.confidence.toFixed(2)}</span>
      )}
      {believable && claim.probe && <ProbeAnswer value={claim.value} probe={claim.probe} />}
    </li>
  );
}

const percent = (share: number) => `${Math.round(share * 100)} %`;
/** A probe so little above chance reads nothing: the activation does not hold that fact. */
const BETTER_THAN_CHANCE = 0.1;

function ProbeAnswer({ value, probe }: { value: string; probe: NonNullable<Claim["probe"]> }) {
  const record = `Right on ${percent(probe.accuracy)} of held-out tokens; `
    + `always the most common value: ${percent(probe.chance)}.`;
  const guess = probe.accuracy < probe.chance + BETTER_THAN_CHANCE;
  const agrees = probe.value === value;
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
