/** What was read before: search over explanations, and the history. */
import { useEffect, useState } from "preact/hooks";
import { api } from "../api/client";
import type { Result, SavedHead } from "../api/types";
import { drop, kept, recall, type Kept } from "../state/history";
import { openSaved } from "../state/link";
import { attempted, notify } from "../state/notice";
import { moveTo, results, session, show } from "../state/session";
import { tokenName } from "../text/visible";
import { Dialog, opened } from "./Dialog";
import { Badge } from "./Gauge";
import { Icon } from "./Icon";
import { Shown } from "./Shown";

const MOST_HITS = 60;
const WAIT_MS = 250;

interface Hit {
  session: string;
  title: string;
  result: Result;
}

/** Explanations that hold every word of the query: those on the page, then those kept here. */
function find(query: string): Hit[] {
  const words = query.toLowerCase().split(/\s+/).filter((word) => word !== "");
  const here = session.value;
  if (words.length === 0) return [];
  const sources = [
    ...(here ? [here] : []),
    ...kept.value.filter((each) => each.id !== here?.id).map((each) => recall(each.id)),
  ];
  const hits: Hit[] = [];
  for (const of of sources) {
    for (const result of of ? results(of) : []) {
      const text = `${result.token} ${result.description}`.toLowerCase();
      if (words.every((word) => text.includes(word))) hits.push({ session: of!.id, title: of!.title, result });
      if (hits.length >= MOST_HITS) return hits;
    }
  }
  return hits;
}

export function SearchDialog() {
  const [query, setQuery] = useState("");
  const [hits, setHits] = useState<Hit[]>([]);
  const [saved, setSaved] = useState<SavedHead[]>([]);
  useEffect(() => {
    const timer = setTimeout(() => {
      setHits(find(query));
      void savedHits(query).then(setSaved);
    }, WAIT_MS);
    return () => clearTimeout(timer);
  }, [query]);
  return (
    <Dialog title="Search explanations" wide>
      <input type="text" role="searchbox" value={query} autofocus aria-label="Search explanations" placeholder="rhyme, test, Spanish…"
        onInput={(event) => setQuery(event.currentTarget.value)} />
      <p class="muted" role="status">
        {query.trim() === ""
          ? "Searches the page, this browser’s history and the saved readings."
          : `${hits.length === MOST_HITS ? `first ${MOST_HITS}` : hits.length} explanations, ${saved.length} saved readings`}
      </p>
      <ul class="hits">
        {hits.map((hit) => (
          <li key={`${hit.session}-${hit.result.position}`}>
            <button type="button" onClick={() => openHit(hit)}>
              <span class="hit-head">
                <code><bdi>{tokenName(hit.result.token)}</bdi></code>
                <Badge fidelity={hit.result.fidelity} />
                <span class="muted">{hit.session === session.value?.id ? "on this page" : hit.title}</span>
              </span>
              <span class="hit-text"><bdi><Snippet text={hit.result.description} query={query} /></bdi></span>
            </button>
          </li>
        ))}
      </ul>
      {saved.length > 0 && <SavedList heads={saved} onForget={(id) => setSaved(saved.filter((each) => each.id !== id))} />}
    </Dialog>
  );
}

async function savedHits(query: string): Promise<SavedHead[]> {
  if (query.trim() === "") return [];
  return (await attempted(() => api.saved(query, 20, 0)))?.readings ?? [];
}

function openHit(hit: Hit): void {
  opened.value = null;
  if (hit.session === session.value?.id) return moveTo(hit.result.position);
  const found = recall(hit.session);
  if (found) show(found, hit.result.position);
}

/** Some words around the first match, the match itself marked. */
function Snippet({ text, query }: { text: string; query: string }) {
  const word = query.toLowerCase().split(/\s+/).find((each) => each !== "" && text.toLowerCase().includes(each));
  const at = word ? text.toLowerCase().indexOf(word) : 0;
  const from = Math.max(0, at - 60);
  const end = at + (word?.length ?? 0);
  return (
    <>
      {from > 0 && "…"}<Shown text={text.slice(from, at)} />
      <mark><Shown text={text.slice(at, end)} /></mark>
      <Shown text={text.slice(end, end + 140)} />{text.length > end + 140 && "…"}
    </>
  );
}

export function HistoryDialog() {
  const [saved, setSaved] = useState<SavedHead[] | null>(null);
  useEffect(() => {
    void attempted(() => api.saved("", 50, 0)).then((answer) => setSaved(answer?.readings ?? []));
  }, []);
  return (
    <Dialog title="History" wide>
      <h3>In this browser</h3>
      {kept.value.length === 0 && <p class="muted">Nothing yet. What you read is kept here by itself.</p>}
      <ul class="library">{kept.value.map((each) => <KeptRow key={each.id} head={each} />)}</ul>
      <h3>Saved on this machine</h3>
      {saved?.length === 0 && <p class="muted">Nothing yet. Save a reading to find it from any browser.</p>}
      {saved && <SavedList heads={saved} onForget={(id) => setSaved(saved.filter((each) => each.id !== id))} />}
    </Dialog>
  );
}

function KeptRow({ head }: { head: Kept }) {
  const open = () => {
    const found = recall(head.id);
    if (!found) return notify("This reading is no longer there.", "bad");
    opened.value = null;
    show(found);
  };
  const when = new Date(head.updated).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  return (
    <li>
      <button type="button" class="library-open" onClick={open} aria-current={head.id === session.value?.id}>
        <span>{head.title}</span>
        <small class="muted">
          {when}, {head.num_read} of {head.num_tokens} read{head.parent && ", a branch"}{head.saved && ", saved"}
        </small>
      </button>
      <button type="button" class="plain square" aria-label={`Remove ${head.title}`} onClick={() => drop(head.id)}>
        <Icon name="remove" />
      </button>
    </li>
  );
}

function SavedList({ heads, onForget }: { heads: SavedHead[]; onForget: (id: string) => void }) {
  return (
    <ul class="library">
      {heads.map((head) => (
        <li key={head.id}>
          <button type="button" class="library-open" onClick={() => {
            opened.value = null;
            void openSaved(head.id);
          }}>
            <Shown text={head.title} />
            <small class="muted">saved reading</small>
          </button>
          <button type="button" class="plain square" aria-label={`Delete ${head.title}`}
            onClick={() => void forget(head.id, onForget)}>
            <Icon name="remove" />
          </button>
        </li>
      ))}
    </ul>
  );
}

async function forget(id: string, onForget: (id: string) => void): Promise<void> {
  if ((await attempted(() => api.forget(id))) !== null) onForget(id);
}
