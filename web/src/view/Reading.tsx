/** What the activation at the token in focus says, and how far to believe it. */
import { useLayoutEffect, useState } from "preact/hooks";
import type { Result, Sample } from "../api/types";
import { explain } from "../state/explain";
import { focus, model, moveTo, pin, pins, progress, select, type Entry, type Session } from "../state/session";
import { agreedClaims, shared } from "../text/agree";
import { number } from "../text/fidelity";
import { untagged } from "../text/parts";
import { tokenName } from "../text/visible";
import { Claims, Explanation, SAYS } from "./Explanation";
import { Badge, Gauge } from "./Gauge";
import { Icon } from "./Icon";
import { OwnWords } from "./OwnWords";
import { Pins } from "./Pins";
import { Shown } from "./Shown";
import { Steer } from "./Steer";
import { Summary } from "./Summary";
import { TokenLens } from "./TokenLens";
import { TokenLatents } from "./TokenLatents";

export function Reading({ of }: { of: Session }) {
  const entry = of.entries[focus.value];
  return (
    <aside class="reading" aria-label="Reading" data-tour="reading">
      <Pins of={of} />
      {entry
        ? <><BackToSummary /><AtToken key={`${of.id}-${focus.value}`} of={of} entry={entry} /></>
        : progress.value.scored > 0 ? <Summary of={of} /> : <Nothing />}
    </aside>
  );
}

function BackToSummary() {
  return (
    <button type="button" class="link back-to-summary" onClick={() => {
      select([]);
      focus.value = -1;
    }}>
      <Icon name="back" /> Summary
    </button>
  );
}

function Nothing() {
  return (
    <div class="reading-empty">
      <h3>Choose a token</h3>
      <p>
        Click a word on the page, or walk there with the arrow keys. What the model held in mind
        at that point appears here.
      </p>
      <dl class="keys">
        <div><dt><kbd>←</kbd> <kbd>→</kbd></dt><dd>the token before, the token after</dd></div>
        <div><dt><kbd>Shift</kbd> <kbd>→</kbd></dt><dd>select several</dd></div>
        <div><dt><kbd>Enter</kbd></dt><dd>read what is selected</dd></div>
        <div><dt><kbd>/</kbd></dt><dd>search all explanations</dd></div>
      </dl>
    </div>
  );
}

function AtToken({ of, entry }: { of: Session; entry: Entry }) {
  const result = entry.result.value;
  const phase = entry.phase.value;
  return (
    <>
      <TokenHead of={of} />
      {phase === "failed" && (
        <p class="failure" role="alert">This token could not be read: <Shown text={entry.error.value} /></p>
      )}
      {(phase === "queued" || phase === "writing") && <Writing entry={entry} />}
      {result && phase !== "queued" && phase !== "writing" && <Scored of={of} result={result} />}
      {phase === "idle" && !result && (
        <p class="muted not-read">
          Not read yet. <button type="button" class="small" onClick={() => void explain([focus.value])}>Read it</button>
        </p>
      )}
      {phase === "failed" && (
        <button type="button" class="small" onClick={() => void explain([focus.value])}>Try again</button>
      )}
    </>
  );
}

function TokenHead({ of }: { of: Session }) {
  const token = of.tokens[focus.value];
  if (!token) return null;
  const place = token.position;
  const pinned = pins.value.includes(place);
  return (
    <header class="token-head">
      <div>
        <h3 class="token-name"><bdi>{tokenName(token.token) || "∅"}</bdi></h3>
        <p class="muted">
          token {place} of {of.tokens.length - 1}
          {token.role && <>, {token.role}</>}
          {token.section && token.section !== "content" && <> {token.section}</>}
        </p>
      </div>
      <div class="row">
        <button type="button" class="plain square" aria-label="Token before" title="Token before" disabled={place === 0}
          onClick={() => moveTo(place - 1)}>
          <Icon name="back" />
        </button>
        <button type="button" class="plain square" aria-label="Token after" title="Token after"
          disabled={place === of.tokens.length - 1} onClick={() => moveTo(place + 1)}>
          <Icon name="next" />
        </button>
        <button type="button" class="plain square" aria-label="Pin to compare" title="Pin to compare" aria-pressed={pinned}
          onClick={() => pin(place)}>
          <Icon name="pin" />
        </button>
        <button type="button" class="plain square" aria-label="Read again" title="Read again"
          onClick={() => void explain([place])}>
          <Icon name="again" />
        </button>
      </div>
    </header>
  );
}

function Writing({ entry }: { entry: Entry }) {
  const text = untagged(entry.writing.value);
  if (text === "") {
    return <p class="muted waiting" role="status">{entry.phase.value === "queued" ? "Queued…" : "Writing…"}</p>;
  }
  return <Explanation text={text} writing />;
}

function Scored({ of, result }: { of: Session; result: Result }) {
  const samples = result.samples ?? [];
  const first = Math.max(0, samples.findIndex((each) => each.description === result.description));
  const [chosen, setChosen] = useState(first);
  useLayoutEffect(() => setChosen(first), [result]);
  const several = samples.length > 1;
  const sample: Sample = (several ? samples[chosen] : null) ?? result;
  const claims = sample.claims ?? (sample.description === result.description ? result.claims : null);
  return (
    <>
      {several && <SampleTabs samples={samples} chosen={chosen} choose={setChosen} />}
      <Explanation text={sample.description} claims={claims} closed={sample.closed ?? true} />
      {several && <Agreement samples={samples} />}
      <Gauge fidelity={sample.fidelity} />
      {claims && (claims.length > 0 || (result.unsaid ?? []).length > 0) && (
        <Claims claims={claims} fidelity={sample.fidelity} unsaid={chosen === first ? result.unsaid : null}
          samples={several ? samples : []} />
      )}
      {model.value?.can_complete && of.windows.length === 0 && (
        <Steer key={sample.description} of={of} position={result.position} explanation={sample.description} claims={claims ?? []} />
      )}
      {model.value?.has_latents && of.windows.length === 0 && (
        <TokenLatents key={`latents ${sample.description}`} of={of} position={result.position} explanation={sample.description} />
      )}
      {model.value?.can_complete && of.windows.length === 0 && <TokenLens lens="logit" of={of} position={result.position} />}
      {model.value?.has_jacobian_lens && model.value.can_complete && of.windows.length === 0 && (
        <TokenLens lens="jacobian" of={of} position={result.position} />
      )}
      <OwnWords of={of} position={result.position} first={sample.description} />
      <Details result={result} sample={sample} />
    </>
  );
}

function SampleTabs({ samples, chosen, choose }: { samples: Sample[]; chosen: number; choose: (at: number) => void }) {
  const best = samples.reduce((top, each, at) => ((each.fidelity ?? -9) > (samples[top]?.fidelity ?? -9) ? at : top), 0);
  return (
    <div class="samples" role="group" aria-label="Samples">
      {samples.map((sample, at) => (
        <button key={at} type="button" aria-pressed={at === chosen} onClick={() => choose(at)}
          aria-label={`Sample ${at + 1}, fidelity ${number(sample.fidelity)}${at === best ? ", the best" : ""}`}>
          {number(sample.fidelity)}{at === best && <span class="best"> best</span>}
        </button>
      ))}
    </div>
  );
}

function Agreement({ samples }: { samples: Sample[] }) {
  return (
    <section class="agreement" aria-label="What the samples agree on">
      <h4>What the {samples.length} samples agree on</h4>
      {samples.some((sample) => (sample.claims ?? []).length > 0)
        ? <AgreedClaims samples={samples} />
        : <AgreedWords samples={samples} />}
      <p class="muted">What recurs over samples is more often true than what a single one says.</p>
    </section>
  );
}

/** Each claim with how many samples make it, and whether it is true where that is known. */
function AgreedClaims({ samples }: { samples: Sample[] }) {
  const found = agreedClaims(samples);
  return (
    <ul class="agreed-claims">
      {found.map(({ claim, count }) => (
        <li key={`${claim.kind} ${claim.value}`} class={`claim-${claim.verdict ?? "none"}`}>
          <b class="agreed-count">{count} of {samples.length}</b>
          <span class="claim-kind"><Shown text={claim.kind} /></span>
          <span class="claim-value"><Shown text={claim.value} /></span>
          {claim.verdict && <span class="claim-verdict">{SAYS[claim.verdict]}</span>}
        </li>
      ))}
    </ul>
  );
}

function AgreedWords({ samples }: { samples: Sample[] }) {
  const found = shared(samples.map((sample) => sample.description));
  const all = found.filter((each) => each.count === samples.length);
  const most = found.filter((each) => each.count < samples.length && each.count * 2 > samples.length);
  return (
    <>
      {all.length > 0 && <p><b>All say</b> {all.map((each) => each.word).join(", ")}</p>}
      {most.length > 0 && (
        <p><b>Most say</b> {most.map((each) => `${each.word} (${each.count})`).join(", ")}</p>
      )}
      {all.length + most.length === 0 && <p>Nothing: no word of content stands in most of them.</p>}
    </>
  );
}

function Details({ result, sample }: { result: Result; sample: Sample }) {
  return (
    <details class="details">
      <summary>Numbers and raw text</summary>
      <dl>
        <div><dt>Token id</dt><dd>{result.token_id}</dd></div>
        <div><dt>Norm of the activation</dt><dd>{number(result.l2_norm, 3)}</dd></div>
        <div><dt>Fidelity</dt><dd><Badge fidelity={sample.fidelity} /></dd></div>
        <div><dt>Squared error</dt><dd>{number(sample.mse, 4)}</dd></div>
        <div>
          <dt>Cosine</dt>
          <dd>{number(sample.cosine_similarity, 4)} <span class="muted">says little alone: the mean has a high one too</span></dd>
        </div>
        {result.fragment_count > 1 && (
          <div><dt>Fragment</dt><dd>{result.fragment_index + 1} of {result.fragment_count}</dd></div>
        )}
      </dl>
      <pre class="raw"><bdi><Shown text={sample.description} /></bdi></pre>
    </details>
  );
}
