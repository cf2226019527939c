/** The smaller windows: about the NLA, how to read, a pasted vector, the server's secret. */
import { useState } from "preact/hooks";
import { api, secretWanted, setSecret } from "../api/client";
import type { Described } from "../api/types";
import { attempted } from "../state/notice";
import { focus, model, session, sourceFields } from "../state/session";
import { change, DEFAULTS, settings, temperature } from "../state/settings";
import { number } from "../text/fidelity";
import { Dialog, opened } from "./Dialog";
import { Claims, Explanation } from "./Explanation";
import { Gauge, ScaleAbout } from "./Gauge";
import { Shown } from "./Shown";

/** The card of the NLA, each figure with what it means. */
export function AboutDialog() {
  const about = model.value;
  if (!about) return null;
  const facts: [string, string, string][] = [
    ["Model that is read", about.target, "The target: a frozen language model. Nothing on this page changes it."],
    ["Trained on", about.domain || "not stated", "On other texts its words are not to be believed, and the fidelity says so."],
    ["Read after block", String(about.layer), `The activation is the output of this block: ${about.d_model} numbers a token.`],
    ["Longest text", `${about.max_tokens} tokens`, "Longer texts are read in overlapping windows."],
    ["FVE on held-out text", number(about.fve), "Fraction of variance explained, over documents that it was not trained on: fidelity, averaged."],
    ["Variance of the activations", number(about.variance, 4), "The squared error that fidelity 0 stands for, per number."],
    ["Activations behind the mean", about.num_training_rows.toLocaleString("en"), "What the mean and the variance were measured on."],
  ];
  return (
    <Dialog title={about.name} wide>
      <p><Shown text={about.description} /></p>
      {about.warnings.map((each) => <p key={each} class="failure"><Shown text={each} /></p>)}
      <dl class="facts explained">
        {facts.map(([name, value, meaning]) => (
          <div key={name}><dt>{name}</dt><dd><b><Shown text={value} /></b><small class="muted">{meaning}</small></dd></div>
        ))}
      </dl>
      <h3>Floors</h3>
      <dl class="facts">
        {about.scale?.floors.map(({ name, label, value }) => (
          <div key={name}><dt>{label}</dt><dd>{number(value)}</dd></div>
        ))}
      </dl>
      <ScaleAbout />
    </Dialog>
  );
}

export function SettingsDialog() {
  const now = settings.value;
  return (
    <Dialog title="How to read">
      <NumberField label="Samples per token" hint="several show what recurs" min={1} max={16} step={1}
        value={now.samples} set={(samples) => change({ samples })} />
      <NumberField label="Temperature" hint={`0 is greedy decoding; now in force: ${temperature()}`} min={0} max={2}
        step={0.1} value={now.temperature} set={(value) => change({ temperature: value })} />
      <NumberField label="Top p" hint="1 leaves every word possible" min={0.05} max={1} step={0.05} value={now.topP}
        set={(topP) => change({ topP })} />
      <NumberField label="Longest explanation" hint="in tokens" min={1} max={4096} step={1} value={now.maxNewTokens}
        set={(maxNewTokens) => change({ maxNewTokens })} />
      <NumberField label="Seed" hint="the same seed, the same words" min={0} max={2147483647} step={1} value={now.seed}
        set={(seed) => change({ seed })} />
      <Check label="Read a token when it is clicked" on={now.onClick} set={(onClick) => change({ onClick })} />
      <Check label="Show spaces and line ends" on={now.whitespace} set={(whitespace) => change({ whitespace })} />
      <Check label="Show the tokens of the chat template" on={now.template} set={(template) => change({ template })} />
      <div class="row">
        <button type="button" class="small" onClick={() => change({ ...DEFAULTS, theme: now.theme, toured: true })}>
          As it was at first
        </button>
      </div>
    </Dialog>
  );
}

interface NumberFieldProps {
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
  value: number;
  set: (value: number) => void;
}

function NumberField({ label, hint, min, max, step, value, set }: NumberFieldProps) {
  return (
    <label class="field">
      <span>{label} <small class="muted">{hint}</small></span>
      <input type="number" min={min} max={max} step={step} value={value} onChange={(event) => {
        const typed = event.currentTarget.valueAsNumber;
        if (Number.isFinite(typed)) set(Math.max(min, Math.min(max, typed)));
      }} />
    </label>
  );
}

function Check({ label, on, set }: { label: string; on: boolean; set: (on: boolean) => void }) {
  return (
    <label class="field check">
      <span>{label}</span>
      <input type="checkbox" checked={on} onChange={(event) => set(event.currentTarget.checked)} />
    </label>
  );
}

export function VectorDialog() {
  const [text, setText] = useState("");
  const [found, setFound] = useState<Described[] | null>(null);
  const [working, setWorking] = useState(false);
  const width = model.value?.d_model ?? 0;
  const rows = rowsOf(text, width);
  const read = async (event: Event) => {
    event.preventDefault();
    if (typeof rows === "string") return;
    setWorking(true);
    const { samples, topP, maxNewTokens, seed } = settings.value;
    const body = { activations: rows, samples, temperature: temperature(), top_p: topP, max_new_tokens: maxNewTokens, seed };
    setFound((await attempted(() => api.describe(body)))?.results ?? null);
    setWorking(false);
  };
  return (
    <Dialog title="Read a vector" wide>
      <p>Paste {width} numbers, as JSON or with spaces or commas between them. Several rows are read one by one.</p>
      <form onSubmit={(event) => void read(event)}>
        <textarea rows={6} class="mono" value={text} aria-label="Numbers of the vector" spellcheck={false}
          onInput={(event) => setText(event.currentTarget.value)} />
        <div class="row">
          <button type="submit" class="primary small" disabled={working || typeof rows === "string"}>
            {working ? "Reading…" : "Read it"}
          </button>
          {session.value && focus.value >= 0 && (
            <button type="button" class="small" onClick={() => void fillFromFocus(setText)}>
              Take that of the token in focus
            </button>
          )}
          <span class="muted" role="status">
            {typeof rows === "string" ? rows : `${rows.length} ${rows.length === 1 ? "vector" : "vectors"}`}
          </span>
        </div>
      </form>
      {found?.map((each, index) => (
        <article class="vector-result" key={index} aria-label={`Vector ${index + 1}`}>
          <Explanation text={each.description} claims={each.claims} />
          {each.fidelity != null && <Gauge fidelity={each.fidelity} />}
          {each.claims && each.claims.length > 0 && <Claims claims={each.claims} fidelity={each.fidelity} />}
        </article>
      ))}
    </Dialog>
  );
}

/** The rows of a pasted text, or what is wrong with it. */
function rowsOf(text: string, width: number): number[][] | string {
  const words = text.replace(/[[\]]/g, " ").split(/[\s,;]+/).filter((word) => word !== "");
  if (words.length === 0) return "";
  const numbers = words.map(Number);
  const bad = numbers.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) return `“${words[bad]?.slice(0, 20)}” is not a finite number.`;
  if (width === 0 || numbers.length % width !== 0) {
    return `${numbers.length} numbers; a vector has ${width}.`;
  }
  return Array.from({ length: numbers.length / width }, (_, row) => numbers.slice(row * width, (row + 1) * width));
}

async function fillFromFocus(set: (text: string) => void): Promise<void> {
  const of = session.value;
  if (of === null) return;
  const body = { ...sourceFields(of.source), positions: [focus.value] };
  const answer = await attempted(() => api.extract(body));
  const row = answer?.tokens[0]?.activation;
  if (row) set(JSON.stringify(row.map((value) => Number(value.toPrecision(7)))));
}

export function SecretDialog({ onDone }: { onDone: () => void }) {
  const [text, setText] = useState("");
  return (
    <Dialog title="This server asks for its secret" onClose={() => (secretWanted.value = false)}>
      <p>It was set with <code>nlakit serve --secret-file</code>. It is kept until this tab is closed.</p>
      <form onSubmit={(event) => {
        event.preventDefault();
        setSecret(text.trim());
        opened.value = null;
        onDone();
      }}>
        <input type="password" value={text} aria-label="Secret" autocomplete="off"
          onInput={(event) => setText(event.currentTarget.value)} />
        <div class="row"><button type="submit" class="primary small" disabled={text.trim() === ""}>Go on</button></div>
      </form>
    </Dialog>
  );
}
