/** What can be done with the whole text: read it, save it, take it elsewhere. */
import { useRef, useState } from "preact/hooks";
import { api } from "../api/client";
import { asCsv, asHtml, asJson, download, fileName } from "../export/files";
import { asPng } from "../export/png";
import { asCurl, asPython, copy } from "../export/snippets";
import { busy, cancelAll, explain, explainMissing, jobs } from "../state/explain";
import { keep, kept, recall } from "../state/history";
import { remark } from "../state/link";
import { attempted, notify } from "../state/notice";
import { toRecord } from "../state/record";
import {
  composing, everyKth, focus, isChat, lastTokens, progress, readable, selection, session, show,
  start, type Session,
} from "../state/session";
import { change, settings } from "../state/settings";
import { opened } from "./Dialog";
import { useDismiss } from "./dismiss";
import { Icon } from "./Icon";
import { Menu } from "./Menu";
import { Shown } from "./Shown";
import { rangeMode, selectedText } from "./Transcript";

export function Toolbar({ of }: { of: Session }) {
  return (
    <div class="toolbar" data-tour="toolbar">
      {busy.value ? <Progress /> : <Readers of={of} />}
      <div class="toolbar-tools">
        <button type="button" class="plain square roomy" aria-label="Show spaces and line ends" title="Show spaces and line ends"
          aria-pressed={settings.value.whitespace} onClick={() => change({ whitespace: !settings.value.whitespace })}>
          <span class="glyph" aria-hidden="true">¶</span>
        </button>
        <button type="button" class="plain square roomy" aria-label="Edit the text" title="Edit the text"
          onClick={() => (composing.value = true)}>
          <Icon name="edit" />
        </button>
        <button type="button" class="plain square" aria-label="Save this reading" title="Save this reading"
          onClick={() => void save(of)}>
          <Icon name="save" />
        </button>
        <button type="button" class="plain square roomy" aria-label="Share" title="Share"
          onClick={() => (opened.value = "share")}>
          <Icon name="share" />
        </button>
        <Menu label="Export and copy" class="plain square" actions={exports(of)}>
          <Icon name="export" />
        </Menu>
      </div>
    </div>
  );
}

function Readers({ of }: { of: Session }) {
  const [last, setLast] = useState(16);
  const [step, setStep] = useState(4);
  const [open, setOpen] = useState(false);
  const chosen = [...selection.value];
  const left = readable(of).length - progress.value.scored;
  const some = (positions: number[]) => {
    setOpen(false);
    void explainMissing(positions);
  };
  const box = useRef<HTMLDivElement>(null);
  useDismiss(open, box, () => setOpen(false));
  return (
    <div class="readers" ref={box}>
      {chosen.length > 1
        ? <button type="button" class="primary" onClick={() => void explainMissing(chosen)}>Read {chosen.length} selected</button>
        : <button type="button" class="primary" disabled={left <= 0} onClick={() => void explainMissing(readable(of))}>
            {left > 0 ? "Read all" : "All read"}
          </button>}
      <button type="button" aria-expanded={open} aria-controls="read-some" onClick={() => setOpen(!open)}>Some…</button>
      <button type="button" class="touch-only" aria-pressed={rangeMode.value}
        onClick={() => (rangeMode.value = !rangeMode.value)}>
        Range
      </button>
      {open && (
        <div class="read-some" id="read-some">
          <NumberAction before="Last" after="tokens" label="How many tokens from the end" value={last} set={setLast}
            run={() => some(lastTokens(of, last))} />
          <NumberAction before="Every" after="tokens" label="Every how many tokens" value={step} set={setStep}
            run={() => some(everyKth(of, step))} />
          <button type="button" class="plain" onClick={() => {
            setOpen(false);
            void explain(readable(of));
          }}>
            Read all again
          </button>
          <button type="button" class="plain" onClick={() => {
            setOpen(false);
            void goOn(of);
          }}>
            Let the model continue the text
          </button>
        </div>
      )}
    </div>
  );
}

interface NumberProps {
  before: string;
  after: string;
  label: string;
  value: number;
  set: (value: number) => void;
  run: () => void;
}

function NumberAction({ before, after, label, value, set, run }: NumberProps) {
  return (
    <form class="number-action" onSubmit={(event) => {
      event.preventDefault();
      run();
    }}>
      <span aria-hidden="true">{before}</span>
      <input type="number" min={1} max={4096} value={value} aria-label={label}
        onInput={(event) => set(Math.max(1, event.currentTarget.valueAsNumber || 1))} />
      <span aria-hidden="true">{after}</span>
      <button type="submit" class="small" aria-label={`Read: ${before} ${value} ${after}`}>Read</button>
    </form>
  );
}

function Progress() {
  const all = jobs.value;
  const total = all.reduce((sum, job) => sum + job.total, 0);
  const done = all.reduce((sum, job) => sum + job.done, 0);
  const waiting = Math.max(0, ...all.map((job) => job.inQueue));
  const words = waiting > 0 ? `number ${waiting} in the queue` : `${done} of ${total} read`;
  return (
    <div class="progress">
      <progress max={total} value={done} aria-label="Tokens read" />
      <span role="status">{words}</span>
      <button type="button" onClick={cancelAll}>Cancel</button>
    </div>
  );
}

async function save(of: Session): Promise<void> {
  const answer = await attempted(() => api.save(of.title, toRecord(of)));
  if (answer === null) return;
  of.saved = answer.id;
  keep(of);
  // The same object with a new field: shown again so that the address names the saved reading.
  if (session.value === of) session.value = { ...of };
  notify("Saved on this machine.");
}

async function copied(text: string, what: string): Promise<void> {
  if (await copy(text)) notify(`${what} copied.`);
  else notify("The browser does not allow copying here.", "bad");
}

function exports(of: Session) {
  const wanted = () => {
    const chosen = [...selection.value].sort((a, b) => a - b);
    return chosen.length ? chosen : [Math.max(0, focus.value)];
  };
  const give = (ending: string, type: string, content: string) =>
    download(fileName(of, ending), new Blob([content], { type: `${type};charset=utf-8` }));
  return [
    { label: "Edit the text", run: () => (composing.value = true) },
    { label: "Copy the text", hint: selection.value.size > 1 ? "selected tokens" : "all of it", run: () => void copied(selectedText(of), "Text") },
    { label: "Share…", hint: "with a comment", run: () => (opened.value = "share") },
    { label: "JSON", hint: "for nlakit.Reading", run: () => give("json", "application/json", asJson(of)) },
    { label: "CSV", hint: "a line a sample", run: () => give("csv", "text/csv", asCsv(of)) },
    { label: "HTML", hint: "to read offline", run: () => give("html", "text/html", asHtml(of)) },
    { label: "PNG", hint: "a picture", run: () => void picture(of) },
    { label: "Copy as curl", run: () => void copied(asCurl(of, wanted()), "curl command") },
    { label: "Copy as Python", run: () => void copied(asPython(of, wanted()), "Python") },
  ];
}

async function picture(of: Session): Promise<void> {
  const image = await asPng(of);
  if (image) download(fileName(of, "png"), image);
  else notify("The browser could not draw the picture.", "bad");
}

const GO_ON_TOKENS = 24;

/** Lets the target write some tokens more, as a branch. */
async function goOn(of: Session): Promise<void> {
  await attempted(async () => {
    const before = isChat(of.source) ? of.source.messages : null;
    const held = before?.at(-1)?.role === "assistant";
    const fields = isChat(of.source)
      ? { messages: of.source.messages, add_generation_prompt: !held, continue_final_message: held }
      : { text: of.source.text };
    const answer = await api.complete({ ...fields, completion_tokens: GO_ON_TOKENS, temperature: 0 });
    const written = answer.tokens.slice(answer.prompt_length)
      .filter((token) => token.section !== "footer" && token.fragment_index === 0)
      .map((token) => token.token).join("");
    if (written === "") return notify("The model ends here: it wrote nothing more.");
    keep(of);
    await start(longer(of, written), { parent: of.id, title: of.title });
  });
}

function longer(of: Session, written: string) {
  if (!isChat(of.source)) return { text: of.source.text + written };
  const messages = [...of.source.messages];
  const last = messages.at(-1);
  if (last?.role === "assistant") messages[messages.length - 1] = { ...last, content: last.content + written };
  else messages.push({ role: "assistant", content: written });
  return { messages };
}

/** The heading over the text: what it is, and what it was branched from. */
export function Heading({ of }: { of: Session }) {
  const parent = kept.value.find((each) => each.id === of.parent);
  return (
    <div class="heading">
      <h2>{of.title}</h2>
      {parent && (
        <button type="button" class="link" onClick={() => {
          const found = recall(parent.id);
          if (found) show(found);
        }}>
          branched from “{parent.title}”
        </button>
      )}
      {of.note && <p class="note">{of.note}</p>}
      {remark.value?.session === of.id && remark.value.text !== "" && (
        <aside class="remark" aria-label="Comment">
          <p><bdi><Shown text={remark.value.text} /></bdi></p>
          <button type="button" class="plain square small" aria-label="Dismiss the comment" onClick={() => (remark.value = null)}>
            <Icon name="close" />
          </button>
        </aside>
      )}
    </div>
  );
}
