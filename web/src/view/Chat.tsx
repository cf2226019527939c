/** A conversation with the target itself, streamed; any state of it can then be read. */
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { api } from "../api/client";
import type { ChatFrame, Turn } from "../api/types";
import { attempted } from "../state/notice";
import { Icon } from "./Icon";
import { Shown } from "./Shown";

const MOST_TOKENS = 256;
const turns = signal<Turn[]>([]);
/** The answer that is being written. */
const writing = signal<Turn | null>(null);
const cutOff = signal(false);
let controller: AbortController | null = null;

export function Chat({ onRead }: { onRead: (messages: Turn[]) => void }) {
  const [text, setText] = useState("");
  const [system, setSystem] = useState("");
  const foot = useRef<HTMLDivElement>(null);
  const busy = writing.value !== null;
  useEffect(() => foot.current?.scrollIntoView({ block: "nearest" }), [turns.value, writing.value]);
  const messages = () => [...(system.trim() ? [{ role: "system", content: system }] : []), ...turns.value];
  const send = (event: Event) => {
    event.preventDefault();
    if (text.trim() === "" || busy) return;
    turns.value = [...turns.value, { role: "user", content: text }];
    setText("");
    void reply(messages());
  };
  return (
    <div class="chat">
      <details class="details">
        <summary>System prompt</summary>
        <textarea rows={2} value={system} aria-label="System prompt" onInput={(event) => setSystem(event.currentTarget.value)} />
      </details>
      <ol class="chat-turns" aria-label="Conversation">
        {turns.value.map((turn, index) => <ChatTurn key={index} turn={turn} />)}
        {writing.value && <ChatTurn turn={writing.value} writing />}
      </ol>
      {cutOff.value && !busy && <p class="muted" role="status">The answer was cut off after {MOST_TOKENS} tokens.</p>}
      <div ref={foot} />
      <form onSubmit={send}>
        <textarea rows={2} value={text} aria-label="Your message" placeholder="Say something to the model…"
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => event.key === "Enter" && !event.shiftKey && send(event)} />
        <div class="row">
          {busy
            ? <button type="button" onClick={() => controller?.abort()}>Stop</button>
            : <button type="submit" class="primary" disabled={text.trim() === ""}>Send</button>}
          <button type="button" disabled={busy || turns.value.length === 0} onClick={() => onRead(messages())}>
            Read its thoughts
          </button>
          <button type="button" class="plain push" disabled={busy || turns.value.length === 0} onClick={() => ((turns.value = []), (cutOff.value = false))}>
            <Icon name="remove" /> Start over
          </button>
        </div>
      </form>
      <p class="muted">The answers are the target's own, sampled at temperature 0.7, at most {MOST_TOKENS} tokens each.</p>
    </div>
  );
}

function ChatTurn({ turn, writing: open = false }: { turn: Turn; writing?: boolean }) {
  const said = String(turn.content ?? "");
  return (
    <li class="turn" data-role={turn.role}>
      <span class="turn-role">{turn.role}</span>
      {turn.reasoning_content && (
        <details class="thinking" open={open && said === ""}>
          <summary>Thinking</summary>
          <p><bdi><Shown text={turn.reasoning_content} /></bdi></p>
        </details>
      )}
      <p class="prose chat-text"><bdi><Shown text={said} /></bdi>{open && <span class="caret" aria-hidden="true" />}</p>
    </li>
  );
}

async function reply(messages: Turn[]): Promise<void> {
  controller = new AbortController();
  writing.value = { role: "assistant", content: "" };
  cutOff.value = false;
  const { signal: stop } = controller;
  await attempted(async () => {
    try {
      for await (const frame of api.chat(messages, MOST_TOKENS, stop)) take(frame);
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
    }
  });
  const answer = writing.value;
  if (answer.content || answer.reasoning_content) turns.value = [...turns.value, answer];
  writing.value = null;
}

/** One frame; the last has the whole answer, as the next request is to send it back. */
function take(frame: ChatFrame): void {
  const now = writing.value;
  if (now === null) return;
  if (frame.type === "done") {
    const { content, reasoning_content } = frame.message;
    writing.value = { role: "assistant", content, ...(reasoning_content ? { reasoning_content } : {}) };
    cutOff.value = frame.finish_reason === "length";
  } else if (frame.section === "thinking") {
    writing.value = { ...now, reasoning_content: (now.reasoning_content ?? "") + frame.text };
  } else {
    writing.value = { ...now, content: now.content + frame.text };
  }
}
