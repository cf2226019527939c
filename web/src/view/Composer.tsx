/** Where a text or a conversation is written, and the demo passages below it. */
import { useState } from "preact/hooks";
import type { Passage, Turn } from "../api/types";
import { explain } from "../state/explain";
import { attempted } from "../state/notice";
import { passages } from "../state/passages";
import {
  composing, isChat, loading, moveTo, readable, session, start, type Opening, type Source,
} from "../state/session";
import { settings } from "../state/settings";
import { opened } from "./Dialog";
import { Icon } from "./Icon";

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
  if (session.value) void explain(readable(session.value));
}

async function read(source: Source, opening: Opening): Promise<void> {
  const made = await attempted(() => start(source, opening));
  if (made === null) return;
  const last = readable(made).at(-1) ?? 0;
  moveTo(last);
  if (settings.value.onClick && !opening.document) void explain([last]);
}

export function Composer() {
  const before = session.value;
  const [chat, setChat] = useState(before !== null && isChat(before.source));
  const opening = before ? { parent: before.id } : {};
  return (
    <div class="composer">
      <div class="composer-lead">
        <h2>What is the model thinking?</h2>
        <p>
          Give it a text. At every token its inner state is put into words, the words are turned
          back into a state, and how close the two are says how far to believe the words.
        </p>
      </div>
      <div class="tabs" role="group" aria-label="Kind of text">
        <button type="button" aria-pressed={!chat} onClick={() => setChat(false)}>Text</button>
        <button type="button" aria-pressed={chat} onClick={() => setChat(true)}>Conversation</button>
        {before && (
          <button type="button" class="plain tabs-back" onClick={() => (composing.value = false)}>
            <Icon name="back" /> Back to the reading
          </button>
        )}
      </div>
      {chat
        ? <ChatForm first={before && isChat(before.source) ? before.source.messages : null} opening={opening} />
        : <TextForm first={before && !isChat(before.source) ? before.source.text : ""} opening={opening} />}
      <Passages />
    </div>
  );
}

function TextForm({ first, opening }: { first: string; opening: Opening }) {
  const [text, setText] = useState(first);
  const submit = (event: Event) => {
    event.preventDefault();
    if (text.trim() !== "") void read({ text }, text === first ? {} : opening);
  };
  return (
    <form onSubmit={submit}>
      <textarea class="composer-text" rows={5} value={text} maxLength={MOST_CHARS}
        aria-label="Text to read" placeholder="Type or paste a text…"
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => submitOnEnter(event, submit)} />
      <Submit ready={text.trim() !== ""} />
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
    if (ready) void read({ messages: turns }, opening);
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
      <Submit ready={ready} />
    </form>
  );
}

function following(turns: Turn[]): string {
  return turns.at(-1)?.role === "user" ? "assistant" : "user";
}

function submitOnEnter(event: KeyboardEvent, submit: (event: Event) => void): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
}

function Submit({ ready }: { ready: boolean }) {
  return (
    <div class="composer-foot">
      <button type="submit" class="primary" disabled={!ready || loading.value}>
        {loading.value ? "Reading…" : "Read this"}
      </button>
      <span class="hint"><kbd>Ctrl</kbd> <kbd>Enter</kbd></span>
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
      <h3 id="passages-title">Or start from a passage whose truth is known</h3>
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
