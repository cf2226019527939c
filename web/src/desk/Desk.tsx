/** Projects, search over all their thoughts, a detector, and the transcripts. */
import type { ProjectHead, ThoughtHit, TranscriptHits } from "../api/types";
import { Icon } from "../view/Icon";
import {
  askDetector, detected, found, goTo, listed, moreTranscripts, phrases, place, projects, query,
  searchThoughts, working, type DeskPlace,
} from "./state";
import { Transcripts } from "./Transcripts";

const COMMAND = "nlakit serve --project DIR";

export function Desk() {
  const at = place.value;
  if (at === null) return null;
  return (
    <div class="desk" aria-busy={working.value}>
      <Way at={at} />
      {at.project === "" ? <ProjectList /> : at.transcript === "" ? <ProjectPage at={at} /> : <Transcripts at={at} />}
    </div>
  );
}

/** The way back up. */
function Way({ at }: { at: DeskPlace }) {
  const root: DeskPlace = { project: "", transcript: "", position: -1, beside: "" };
  return (
    <nav class="desk-way" aria-label="Projects">
      {at.project === "" ? <h2>Projects</h2> : (
        <button type="button" class="plain" onClick={() => void goTo(root)}><Icon name="back" />Projects</button>
      )}
      {at.project !== "" && (at.transcript === "" ? <h2>{at.project}</h2> : (
        <button type="button" class="plain" onClick={() => void goTo({ ...root, project: at.project })}>
          {at.project}
        </button>
      ))}
    </nav>
  );
}

function ProjectList() {
  if (projects.value.length === 0) {
    return <p class="muted">This server shows no project. Start it with <code>{COMMAND}</code>.</p>;
  }
  return (
    <ul class="desk-list">
      {projects.value.map((each) => <li key={each.name}><ProjectButton of={each} /></li>)}
    </ul>
  );
}

function ProjectButton({ of }: { of: ProjectHead }) {
  return (
    <button type="button" class="desk-card"
      onClick={() => void goTo({ project: of.name, transcript: "", position: -1, beside: "" })}>
      <strong>{of.name}</strong>
      <small>{of.transcripts} transcripts, {of.readings} readings by {of.nla}, block {of.layer}</small>
    </button>
  );
}

function ProjectPage({ at }: { at: DeskPlace }) {
  return (
    <div class="desk-page">
      <section aria-label="Search over all thoughts">
        <SearchForm />
        <Found at={at} />
      </section>
      <section aria-label="Detector">
        <DetectorForm />
        <Detected at={at} />
      </section>
      <section aria-label="Transcripts"><TranscriptList at={at} /></section>
    </div>
  );
}

function SearchForm() {
  return (
    <form class="desk-form" onSubmit={(event) => { event.preventDefault(); void searchThoughts(); }}>
      <label class="desk-wide">
        <span>Search over all thoughts</span>
        <input type="search" value={query.value.text} placeholder="being tested"
          onInput={(event) => (query.value = { ...query.value, text: event.currentTarget.value })} />
      </label>
      <label class="desk-check">
        <input type="checkbox" checked={query.value.meaning}
          onChange={(event) => (query.value = { ...query.value, meaning: event.currentTarget.checked })} />
        by meaning
      </label>
      <button type="submit" class="primary" disabled={working.value}>Search</button>
    </form>
  );
}

function Found({ at }: { at: DeskPlace }) {
  if (found.value === null) return null;
  if (found.value.length === 0) return <p class="muted" role="status">No thought says so.</p>;
  return (
    <ul class="desk-list" aria-label="Results">
      {found.value.map((each) => (
        <li key={`${each.transcript}:${each.position}:${each.explanation}`}><HitButton at={at} of={each} /></li>
      ))}
    </ul>
  );
}

function HitButton({ at, of }: { at: DeskPlace; of: ThoughtHit }) {
  return (
    <button type="button" class="desk-card"
      onClick={() => void goTo({ ...at, transcript: of.transcript, position: of.position, beside: "" })}>
      <span class="desk-thought">{of.explanation}</span>
      <small class="desk-around">…{of.before}<mark>{of.token}</mark>{of.after}…</small>
      <small>{of.name}, token {of.position}{of.role ? `, ${of.role}` : ""}
        {of.section && of.section !== "content" ? `, ${of.section}` : ""}</small>
    </button>
  );
}

function DetectorForm() {
  return (
    <form class="desk-form" onSubmit={(event) => { event.preventDefault(); void askDetector(); }}>
      <label class="desk-wide">
        <span>Detector: phrases, with commas between them</span>
        <input type="text" value={phrases.value} placeholder="being tested, this is a drill"
          onInput={(event) => (phrases.value = event.currentTarget.value)} />
      </label>
      <button type="submit" disabled={working.value}>Ask every reading</button>
    </form>
  );
}

function Detected({ at }: { at: DeskPlace }) {
  const made = detected.value;
  if (made === null) return null;
  return (
    <>
      <p role="status">
        Found in {percent(made.found)} of transcripts; an unsupported hit in {percent(made.any)}
        {made.floor !== null && `, where chance alone would give ${percent(made.floor)}`}; the text alone
        has the words in {percent(made.text)}.
      </p>
      <ul class="desk-list" aria-label="Hits">
        {made.transcripts.map((each) => <li key={each.transcript}><LabelButton at={at} of={each} /></li>)}
      </ul>
    </>
  );
}

function LabelButton({ at, of }: { at: DeskPlace; of: TranscriptHits }) {
  const first = of.positions[0] ?? -1;
  return (
    <button type="button" class="desk-card"
      onClick={() => void goTo({ ...at, transcript: of.transcript, position: first, beside: "" })}>
      <strong>{of.name} <span class={`desk-label label-${of.label}`}>{of.label}</span></strong>
      <small>{of.unsupported} unsupported of {of.hits} hits in {of.n} readings
        {of.q !== null && (of.q < 0.001 ? ", q < 0.001" : `, q ${of.q.toFixed(3)}`)}</small>
    </button>
  );
}

function TranscriptList({ at }: { at: DeskPlace }) {
  const all = listed.value;
  if (all === null) return null;
  return (
    <>
      <h3>Transcripts <small class="muted">{all.transcripts.length} of {all.total}</small></h3>
      <ul class="desk-list">
        {all.transcripts.map((each) => (
          <li key={each.id}>
            <button type="button" class="desk-card"
              onClick={() => void goTo({ ...at, transcript: each.id, position: -1, beside: "" })}>
              <strong>{each.name}</strong>
              <small>{each.num_tokens} tokens, {each.readings} read</small>
            </button>
          </li>
        ))}
      </ul>
      {all.transcripts.length < all.total && (
        <button type="button" disabled={working.value} onClick={() => void moreTranscripts()}>More transcripts</button>
      )}
    </>
  );
}

function percent(share: number): string {
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}
