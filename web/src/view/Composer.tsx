/** Where a text or a conversation is written, and the demo passages below it. */
import { useState } from "preact/hooks";
import type { Passage, Turn } from "../api/types";
import { explain } from "../state/explain";
import { attempted, notify } from "../state/notice";
import { passages } from "../state/passages";
import {
  composing, everyKth, isChat, loading, model, moveTo, readable, session, start, type Opening, type Source,
} from "../state/session";
import { Chat } from "./Chat";
import { opened } from "./Dialog";
import { Icon } from "./Icon";
import { Start } from "./Start";
import { TokenCount } from "./TokenCount";

const MOST_CHARS = 65_536;
const ROLES = ["system", "user", "assistant", "tool"];

/** Puts a passage on the page and reads all of it. */
export async function openPassage(passage: Passage): Promise<void> {
  const source: Source = passage.messages?.length
    ? { messages: passage.messages }
    : { text: passage.text ?? "" };
  await read(source, {
    title: passage.title, note: passage.note, document: passage.document ?? null,
  });
  const of = session.value;
  if (of === null) return;
  // A passage is cut where something is fixed and not written yet: that token is the one to look at.
  moveTo(readable(of).at(-1) ?? 0);
  void explain(readable(of));
}

/** More tokens than this are sampled: every k-th is read at once, the others on a click. */
const MOST_AT_ONCE = 64;

/** Puts a source on the page and reads it: the summary opens, the most telling reading first. */
async function read(source: Source, opening: Opening, lastOnly = false): Promise<void> {
  const made = await attempted(() => start(source, opening));
  if (made === null || opening.document) return;
  const all = readable(made);
  if (lastOnly) {
    const last = all.at(-1) ?? 0;
    moveTo(last);
    return void explain([last]);
  }
  const step = Math.ceil(all.length / MOST_AT_ONCE);
  if (step > 1) notify(`${all.length} tokens: every ${ordinal(step)} is read now. “Read all” reads the rest.`);
  void explain(step > 1 ? everyKth(made, step) : all);
}

function ordinal(n: number): string {
  return n === 2 ? "second" : n === 3 ? "third" : `${n}th`;
}

/** Whether a text is an edit of another: the two share at least half of the shorter. */
function isEdit(before: string, after: string): boolean {
  let same = 0;
  while (same < Math.min(before.length, after.length) && before[same] === after[same]) same += 1;
  return same * 2 >= Math.min(before.length, after.length) && same > 0;
}

export function Composer() {
  const before = session.value;
  const [kind, setKind] = useState<"text" | "turns" | "chat">(before !== null && isChat(before.source) ? "turns" : "text");
  const opening = before ? { parent: before.id } : {};
  return (
    <div class="composer">
      <Start />
      <div class="tabs" role="group" aria-label="Kind of text">
        <button type="button" aria-pressed={kind === "text"} onClick={() => setKind("text")}>Text</button>
        <button type="button" aria-pressed={kind === "turns"} onClick={() => setKind("turns")}>Conversation</button>
        {model.value?.can_chat && model.value.can_complete && (
          <button type="button" aria-pressed={kind === "chat"} onClick={() => setKind("chat")}>Chat with the model</button>
        )}
        {before && (
          <button type="button" class="plain tabs-back" onClick={() => (composing.value = false)}>
            <Icon name="back" /> Back to the reading
          </button>
        )}
      </div>
      {kind === "chat" && <Chat onRead={(messages) => void read({ messages }, {})} />}
      {kind === "turns" && <ChatForm first={before && isChat(before.source) ? before.source.messages : null} opening={opening} />}
      {kind === "text" && <TextForm first={before && !isChat(before.source) ? before.source.text : ""} opening={opening} />}
      <Passages />
    </div>
  );
}

function TextForm({ first, opening }: { first: string; opening: Opening }) {
  const [text, setText] = useState(first);
  const submit = (event: Event) => {
    event.preventDefault();
    if (text.trim() !== "") void read({ text }, parentOf(), wantsLast(event));
  };
  const parentOf = () => (text !== first && isEdit(first, text) ? opening : {});
  return (
    <form onSubmit={submit}>
      <textarea class="composer-text" rows={5} value={text} maxLength={MOST_CHARS}
        aria-label="Text to read" placeholder="Type or paste a text…"
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => submitOnEnter(event, submit)} />
      <Submit ready={text.trim() !== ""} source={{ text }} />
    </form>
  );
}

const BLANK: Turn[] = [{ role: "user", content: "" }];

function ChatForm({ first, opening }: { first: Turn[] | null; opening: Opening }) {
  const [turns, setTurns] = useState<Turn[]>(first ?? BLANK);
  const ready = turns.some((turn) => turn.content.trim() !== "");
  const put = (at: number, part: Partial<Turn>) =>
    setTurns(turns.map((turn, index) => (index === at ? { ...turn, ...part } : turn)));
  const submit = (event: Event) => {
    event.preventDefault();
    if (ready) void read({ messages: turns }, first && turns[0]?.content === first[0]?.content ? opening : {}, wantsLast(event));
  };
  return (
    <form onSubmit={submit}>
      <ol class="turns">
        {turns.map((turn, index) => (
          <li key={index}>
            <div class="turn-head">
              <select aria-label={`Role of turn ${index + 1}`} value={turn.role}
                onChange={(event) => put(index, { role: event.currentTarget.value })}>
                {ROLES.map((role) => <option key={role} value={role}>{role}</option>)}
              </select>
              <button type="button" class="plain square" aria-label={`Remove turn ${index + 1}`}
                disabled={turns.length === 1}
                onClick={() => setTurns(turns.filter((_, at) => at !== index))}>
                <Icon name="remove" />
              </button>
            </div>
            <textarea rows={2} value={turn.content} aria-label={`Turn ${index + 1}: ${turn.role}`}
              onInput={(event) => put(index, { content: event.currentTarget.value })}
              onKeyDown={(event) => submitOnEnter(event, submit)} />
          </li>
        ))}
      </ol>
      <button type="button" class="plain"
        onClick={() => setTurns([...turns, { role: following(turns), content: "" }])}>
        <Icon name="add" /> Add a turn
      </button>
      <Submit ready={ready} source={{ messages: turns }} />
    </form>
  );
}

function following(turns: Turn[]): string {
  return turns.at(-1)?.role === "user" ? "assistant" : "user";
}

/** Whether the form was sent by the button for the last token alone. */
function wantsLast(event: Event): boolean {
  return event instanceof SubmitEvent && event.submitter instanceof HTMLButtonElement && event.submitter.value === "last";
}

function submitOnEnter(event: KeyboardEvent, submit: (event: Event) => void): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
}

function Submit({ ready, source }: { ready: boolean; source: Source }) {
  return (
    <div class="composer-foot">
      <button type="submit" class="primary" disabled={!ready || loading.value}>
        {loading.value ? "Reading…" : "Read this"}
      </button>
      <button type="submit" value="last" disabled={!ready || loading.value}>Only its last token</button>
      <span class="hint"><kbd>Ctrl</kbd> <kbd>Enter</kbd></span>
      <TokenCount source={source} ready={ready} />
      <button type="button" class="plain push" onClick={() => (opened.value = "vector")}>
        Or paste a vector
      </button>
    </div>
  );
}

/** The end of the passage: that is where the thing to be seen is. */
function previewOf(passage: Passage): string {
  const text = passage.messages?.length ? passage.messages.at(-1)?.content ?? "" : passage.text ?? "";
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 76 ? `…${line.slice(line.indexOf(" ", line.length - 76))}` : line;
}

function Passages() {
  const list = passages.value;
  if (list.length === 0) return null;
  return (
    <section class="passages" aria-labelledby="passages-title">
      <h3 id="passages-title">
        {list.some((passage) => passage.document) ? "Or start from a passage whose truth is known" : "Or start from one of these"}
      </h3>
      <ul>
        {list.map((passage) => (
          <li key={passage.id}>
            <button type="button" class="passage" onClick={() => void openPassage(passage)}>
              <span class="passage-title">{passage.title}</span>
              <span class="passage-note">{passage.note}</span>
              <span class="passage-text" aria-hidden="true">{previewOf(passage)}</span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
