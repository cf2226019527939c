/** Latents of the autoencoder: a search, the dashboard of one, your own text under it, steering. */
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import {
  latentsApi, type DirectionReading, type Example, type FoundLatent, type LatentPage, type LatentSteered,
  type TextFeatures,
} from "../api/latents";
import { latents, look, looked } from "../state/latents";
import { attempted } from "../state/notice";
import { model } from "../state/session";
import { number } from "../text/fidelity";
import { Dialog, opened } from "./Dialog";
import { Badge } from "./Gauge";
import { Shown } from "./Shown";

const MOST_CHARS = 2000;
const SHOWN_EXAMPLES = 8;
/** The number of shades for the strength at a token. */
const STEPS = 5;

export function LatentsDialog() {
  const latent = looked.value;
  const title = latent === null ? "Latents" : `Latent ${latent}`;
  return (
    <Dialog title={title} wide>
      {latents.value && (
        <p class="muted">
          {latents.value.name}: {latents.value.d_sae.toLocaleString("en")} latents at layer {latents.value.layer_index}.
        </p>
      )}
      {latent === null ? <Search /> : <One key={latent} latent={latent} />}
    </Dialog>
  );
}

function Search() {
  const [query, setQuery] = useState("");
  const [found, setFound] = useState<FoundLatent[] | null>(null);
  const search = async (event: Event) => {
    event.preventDefault();
    const answer = await attempted(() => latentsApi.search(query));
    if (answer) setFound(answer.found);
  };
  if (!latents.value?.has_dashboards) {
    return <p>No dashboards were built for this autoencoder: <code>nlakit dashboards build</code>.</p>;
  }
  return (
    <>
      <form onSubmit={(event) => void search(event)}>
        <div class="row">
          <input type="search" value={query} aria-label="Words of labels, promoted tokens and examples"
            placeholder="boat" onInput={(event) => setQuery(event.currentTarget.value)} />
          <button type="submit" class="primary" disabled={query.trim() === ""}>Search</button>
          {latents.value.has_map && (
            <button type="button" onClick={() => (opened.value = "latent-map")}>Two dictionaries on one map</button>
          )}
        </div>
      </form>
      <OwnText />
      {found && (
        <ul class="latent-list" role="status" aria-label="Latents found">
          {found.length === 0 && <li class="muted">No latent has these words.</li>}
          {found.map((each) => (
            <li key={each.latent}>
              <button type="button" class="small latent" onClick={() => look(each.latent)}>
                <b>{each.latent}</b>
                {each.label && <bdi><Shown text={each.label} /></bdi>}
                <small>{percent(each.density)} of tokens</small>
              </button>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function One({ latent }: { latent: number }) {
  const [page, setPage] = useState<LatentPage | null>(null);
  useEffect(() => {
    if (latents.value?.has_dashboards) void attempted(() => latentsApi.page(latent)).then(setPage);
  }, []);
  return (
    <>
      <button type="button" class="link" onClick={() => (looked.value = null)}>All latents</button>
      {page && <Board page={page} />}
      <OwnText latent={latent} most={page?.max_activation ?? 0} />
      {model.value?.can_complete && <SteerLatent latent={latent} most={page?.max_activation ?? 10} />}
    </>
  );
}

function Board({ page }: { page: LatentPage }) {
  return (
    <section class="board" aria-label="Dashboard">
      {page.label && <p class="board-label"><bdi><Shown text={page.label} /></bdi></p>}
      <dl class="facts">
        <Row name="Active at"><>{percent(page.density)} of tokens, at most {page.max_activation.toFixed(1)}</></Row>
        <Row name="Promotes"><Tokens tokens={page.promoted.map((each) => each.token)} /></Row>
        <Row name="Suppresses"><Tokens tokens={page.suppressed.map((each) => each.token)} /></Row>
        <Row name="Nearest">
          {page.neighbours.map((each) => (
            <button key={each.latent} type="button" class="link" onClick={() => look(each.latent)}>
              {each.latent} ({each.cosine.toFixed(2)})
            </button>
          ))}
        </Row>
      </dl>
      <Bars heights={page.activations.heights} name="Strengths where it is active" />
      {page.readings.length > 0 && <Directions readings={page.readings} />}
      <h3>Strongest examples</h3>
      {page.examples.length === 0 && <p class="muted">It was never active in the texts that were read.</p>}
      <ul class="examples">
        {page.examples.filter((each) => each.interval == null).slice(0, SHOWN_EXAMPLES)
          .map((each, at) => <li key={at}><Line example={each} most={page.max_activation} /></li>)}
      </ul>
    </section>
  );
}

function Directions({ readings }: { readings: DirectionReading[] }) {
  return (
    <section class="direction-readings" aria-label="What the NLA says of its direction">
      <h3>What the NLA says of its direction</h3>
      <ul>{readings.map((each) => <li key={each.vector}><Direction reading={each} /></li>)}</ul>
      <p class="muted">
        A bare direction looks like no activation, so what is said of it is a hint. Off-manifold: its cosine with the
        mean activation, relative to that of an average activation; 1 is typical, far above 1 it is little but the mean.
      </p>
    </section>
  );
}

const VECTORS = { direction: "The direction alone", "mean + direction": "Added to the mean activation" } as const;

function Direction({ reading }: { reading: DirectionReading }) {
  return (
    <>
      <p class="direction-head">
        <b>{VECTORS[reading.vector]}</b>
        <Badge fidelity={reading.fidelity} />
        <OffManifold cosine={reading.off_manifold} />
        <small class="muted">read by <bdi><Shown text={reading.nla} /></bdi></small>
      </p>
      <p class="direction-said"><bdi><Shown text={reading.explanation} /></bdi></p>
      <p class="muted">
        {reading.says_it
          ? "What the AR rebuilds from these words has the latent active again."
          : "What the AR rebuilds from these words does not have the latent active."}
      </p>
    </>
  );
}

/** The mark of a vector that the NLA was never trained on; `cosine` with the mean, relative to activations. */
export function OffManifold({ cosine }: { cosine?: number }) {
  const title = cosine === undefined
    ? "The NLA was trained on activations; no activation looks like this vector."
    : "Cosine with the mean activation, relative to that of an average activation: 1 is typical.";
  return <span class="off-manifold" title={title}>off-manifold{cosine !== undefined && ` ${number(cosine)}`}</span>;
}

function Row({ name, children }: { name: string; children: ComponentChildren }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

function Tokens({ tokens }: { tokens: string[] }) {
  return <>{tokens.map((token, at) => <code key={at} class="promoted"><bdi><Shown text={token} /></bdi></code>)}</>;
}

function Line({ example, most }: { example: Example; most: number }) {
  return (
    <bdi>
      {example.tokens.map((token, at) => <Shade key={at} text={token} value={example.values[at] ?? 0} most={most} />)}
    </bdi>
  );
}

function Shade({ text, value, most }: { text: string; value: number; most: number }) {
  if (value <= 0 || most <= 0) return <span><Shown text={text} /></span>;
  const step = Math.min(STEPS, Math.max(1, Math.ceil((value / most) * STEPS)));
  return <mark class={`active active-${step}`} title={value.toFixed(2)}><Shown text={text} /></mark>;
}

function Bars({ heights, name }: { heights: number[]; name: string }) {
  const most = Math.max(...heights, 1);
  return (
    <svg class="bars" viewBox={`0 0 ${heights.length || 1} 12`} preserveAspectRatio="none" role="img" aria-label={name}>
      {heights.map((height, at) => {
        const tall = (12 * Math.log1p(height)) / Math.log1p(most);
        return <rect key={at} x={at + 0.1} width={0.8} y={12 - tall} height={tall} />;
      })}
    </svg>
  );
}

/** A text of one's own, read as it stands: where is the latent active, or which latents are? */
function OwnText({ latent, most = 0 }: { latent?: number; most?: number }) {
  const [text, setText] = useState("");
  const [found, setFound] = useState<TextFeatures | null>(null);
  const [working, setWorking] = useState(false);
  const read = async (event: Event) => {
    event.preventDefault();
    setWorking(true);
    setFound(await attempted(() => latentsApi.features({ text, top: 5, latents: latent === undefined ? [] : [latent] })));
    setWorking(false);
  };
  return (
    <form onSubmit={(event) => void read(event)}>
      <label>
        {latent === undefined ? "Latents of your own text" : "Where it is active in your own text"}
        <textarea rows={2} value={text} maxLength={MOST_CHARS} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
      <div class="row">
        <button type="submit" class="small" disabled={working || text.trim() === ""}>{working ? "Encoding…" : "Encode"}</button>
      </div>
      {found && <OwnFound found={found} latent={latent} most={most} />}
    </form>
  );
}

function OwnFound({ found, latent, most }: { found: TextFeatures; latent: number | undefined; most: number }) {
  const strongest = Math.max(most, ...found.tokens.flatMap((token) => token.features.map((each) => each.activation)));
  if (latent !== undefined) {
    return (
      <p class="own-text" role="status" aria-label="Activations in your text">
        <bdi>{found.tokens.map((token) =>
          <Shade key={token.position} text={token.token} value={token.features[0]?.activation ?? 0} most={strongest} />)}</bdi>
      </p>
    );
  }
  return (
    <ul class="own-latents" role="status" aria-label="Latents in your text">
      {found.tokens.map((token) => (
        <li key={token.position}>
          <code><bdi><Shown text={token.token} /></bdi></code>
          {token.features.map((each) => (
            <button key={each.index} type="button" class="link" onClick={() => look(each.index)}>
              {each.index}{each.label && <> <bdi><Shown text={each.label} /></bdi></>}
            </button>
          ))}
        </li>
      ))}
    </ul>
  );
}

function SteerLatent({ latent, most }: { latent: number; most: number }) {
  const [text, setText] = useState("");
  const [value, setValue] = useState<number | null>(null);
  const [found, setFound] = useState<LatentSteered | null>(null);
  const [working, setWorking] = useState(false);
  const wanted = value ?? most;
  const steer = async (event: Event) => {
    event.preventDefault();
    setWorking(true);
    setFound(await attempted(() => latentsApi.steer({ text, latent, value: wanted })));
    setWorking(false);
  };
  return (
    <details class="details">
      <summary>Steer with this latent</summary>
      <form onSubmit={(event) => void steer(event)}>
        <textarea rows={2} value={text} maxLength={MOST_CHARS} aria-label="Text to continue"
          onInput={(event) => setText(event.currentTarget.value)} />
        <label>
          Value at the last token {wanted.toFixed(1)}
          <input type="range" min="0" max={Math.max(1, most * 3)} step="any" value={wanted}
            onInput={(event) => setValue(Number(event.currentTarget.value))} />
        </label>
        <div class="row">
          <button type="submit" class="small primary" disabled={working || text.trim() === ""}>{working ? "Steering…" : "Steer"}</button>
        </div>
      </form>
      {found && (
        <div class="steered" role="status">
          <dl>
            <div><dt>Before</dt><dd><bdi><Shown text={found.before} /></bdi></dd></div>
            <div><dt>After</dt><dd><bdi><Shown text={found.after} /></bdi></dd></div>
            <div><dt>KL on unrelated text</dt><dd>{found.kl_unrelated.toFixed(2)} nats</dd></div>
          </dl>
          <p class="muted">
            The latent went from {found.found.toFixed(1)} to {found.value.toFixed(1)}, which is {found.strength.toFixed(2)} of
            the activation's norm. {found.changed ? "The continuation changed." : "The continuation stayed the same."}
          </p>
        </div>
      )}
    </details>
  );
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %`;
}
