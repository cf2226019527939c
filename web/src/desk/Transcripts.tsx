/** One transcript with its thought map, or two side by side. */
import { useEffect, useRef } from "preact/hooks";
import type { OpenTranscript, TokenThought } from "../api/types";
import { besideKey, goTo, hitsIn, listed, opened, phrases, place, projects, type DeskPlace } from "./state";
import { ThoughtPlot } from "./ThoughtPlot";

export function Transcripts({ at }: { at: DeskPlace }) {
  const first = opened.value[at.transcript];
  const second = at.beside === "" ? undefined : opened.value[besideKey(at)];
  const [own, other] = at.beside.startsWith("@") ? [at.project, at.beside.slice(1)] : ["", ""];
  if (!first) return <p class="muted" role="status">Opening…</p>;
  return (
    <>
      <Beside at={at} />
      <div class="desk-columns" data-two={second !== undefined}>
        <Sheet of={first} by={own} position={at.position} move={(position) => place.value = { ...at, position }} />
        {second && <SecondSheet key={besideKey(at)} name={besideKey(at)} by={other} of={second} />}
      </div>
    </>
  );
}

/** Another transcript of the project, or this one in another project, to look at beside this one. */
function Beside({ at }: { at: DeskPlace }) {
  const others = (listed.value?.transcripts ?? []).filter((each) => each.id !== at.transcript);
  const models = projects.value.filter((each) => each.name !== at.project);
  if (others.length === 0 && models.length === 0) return null;
  return (
    <label class="desk-beside">
      Side by side with
      <select value={at.beside} onChange={(event) => void goTo({ ...at, beside: event.currentTarget.value })}>
        <option value="">nothing</option>
        {models.map((each) => <option key={each.name} value={`@${each.name}`}>this one in {each.name}</option>)}
        {others.map((each) => <option key={each.id} value={each.id}>{each.name}</option>)}
      </select>
    </label>
  );
}

/** The second keeps its own token: the address names the first's. */
function SecondSheet({ of, by, name }: { of: OpenTranscript; by: string; name: string }) {
  const chosen = second.get(name) ?? -1;
  return <Sheet of={of} by={by} position={chosen} move={(position) => choose(name, position)} />;
}

const second = new Map<string, number>();

function choose(name: string, position: number): void {
  second.set(name, position);
  opened.value = { ...opened.value };
}

interface SheetProps {
  of: OpenTranscript;
  /** The project that read it, where two are shown; "": the one that is open. */
  by: string;
  position: number;
  move: (position: number) => void;
}

function Sheet({ of, by, position, move }: SheetProps) {
  // The detector was asked of the project that is open.
  const hits = by === "" || by === place.value?.project ? hitsIn(of.id) : new Set<number>();
  const here = of.readings.find((each) => each.position === position) ?? of.readings[0];
  return (
    <article class="desk-sheet" aria-label={`Transcript ${of.name}${by && ` in ${by}`}`}>
      <h3>{of.name}{by && <small class="muted"> in {by}</small>}</h3>
      {of.notes.map((note) => <p key={note} class="muted">{note}</p>)}
      <ThoughtPlot of={of} here={here} hits={hits} move={move} />
      {here && <Thought of={here} hit={hits.has(here.position)} />}
      <Words of={of} here={here} hits={hits} move={move} />
    </article>
  );
}

function Thought({ of, hit }: { of: TokenThought; hit: boolean }) {
  return (
    <div class="desk-reading" role="status">
      <p class="desk-thought">{of.explanation}</p>
      <p class="muted">
        token {of.position}{of.role ? `, ${of.role}` : ""}
        {of.section && of.section !== "content" ? `, ${of.section}` : ""}
        {of.fidelity !== null && `, fidelity ${of.fidelity.toFixed(2)}`}
        {of.said !== null && `, ${Math.round(of.said * 100)} % of its words are in the text before`}
        {of.pivot && ", a turning point"}
        {hit && `, says “${phrases.value}”`}
        {of.odd.map((why) => `, ${why}`)}
      </p>
    </div>
  );
}

interface WordsProps {
  of: OpenTranscript;
  here: TokenThought | undefined;
  hits: Set<number>;
  move: (position: number) => void;
}

/** The transcript's own text; each token that was read is a button. */
function Words({ of, here, hits, move }: WordsProps) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const chosen = box.current?.querySelector<HTMLElement>("[aria-current='true']");
    if (!chosen || !box.current) return;
    const top = chosen.offsetTop - box.current.offsetTop;
    const outside = top < box.current.scrollTop || top > box.current.scrollTop + box.current.clientHeight - 40;
    if (outside) box.current.scrollTop = Math.max(0, top - box.current.clientHeight / 2);
  }, [here?.position]);
  return (
    <div ref={box} class="desk-words" tabIndex={0} role="group" aria-label="Text">
      {pieces(of).map((piece) => piece.reading === null
        ? <span key={piece.start}>{piece.text}</span>
        : (
          <button key={piece.start} type="button" class="desk-token" data-hit={hits.has(piece.reading.position)}
            data-odd={piece.reading.odd.length > 0} aria-current={piece.reading === here}
            aria-label={`${piece.text.trim() || "space"}, token ${piece.reading.position}`}
            title={piece.reading.explanation} onClick={() => piece.reading && move(piece.reading.position)}>
            {piece.text}
          </button>
        ))}
    </div>
  );
}

interface Piece {
  start: number;
  text: string;
  reading: TokenThought | null;
}

/** Offsets count characters as Python does, not halves of pairs. */
function pieces(of: OpenTranscript): Piece[] {
  const characters = Array.from(of.text);
  const slice = (from: number, to: number) => characters.slice(from, to).join("");
  const made: Piece[] = [];
  let done = 0;
  for (const reading of of.readings) {
    // Two tokens may share a character; what is shown already is not shown again.
    if (reading.char_start < done || reading.char_end <= reading.char_start) continue;
    if (reading.char_start > done) made.push({ start: done, text: slice(done, reading.char_start), reading: null });
    made.push({ start: reading.char_start, text: slice(reading.char_start, reading.char_end), reading });
    done = reading.char_end;
  }
  if (done < characters.length) made.push({ start: done, text: slice(done, characters.length), reading: null });
  return made;
}
