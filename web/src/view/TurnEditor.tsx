/** Edits one turn of a conversation; the old conversation stays in the history. */
import { useState } from "preact/hooks";
import { attempted, notify } from "../state/notice";
import { isChat, start, type Session } from "../state/session";
import { keep } from "../state/history";

export function TurnEditor({ of, turn, onClose }: { of: Session; turn: number; onClose: () => void }) {
  const messages = isChat(of.source) ? of.source.messages : [];
  const [text, setText] = useState(messages[turn]?.content ?? "");
  const branch = async (cut: boolean) => {
    const kept = cut ? messages.slice(0, turn + 1) : messages;
    const edited = kept.map((each, index) => (index === turn ? { ...each, content: text } : each));
    keep(of);
    const opening = { parent: of.id, title: `${of.title.replace(/ \(branch\)$/, "")} (branch)` };
    const made = await attempted(() => start({ messages: edited }, opening));
    if (made === null) return;
    onClose();
    notify("Branched. The conversation as it was is in the history.");
  };
  return (
    <div class="turn-editor">
      <textarea rows={3} value={text} aria-label={`Content of turn ${turn + 1}`}
        onInput={(event) => setText(event.currentTarget.value)} />
      <div class="row">
        <button type="button" class="primary small" onClick={() => void branch(false)}>Branch</button>
        {turn < messages.length - 1 && (
          <button type="button" class="small" onClick={() => void branch(true)}>
            Branch and drop what follows
          </button>
        )}
        <button type="button" class="plain small" onClick={onClose}>Leave as it is</button>
      </div>
    </div>
  );
}
