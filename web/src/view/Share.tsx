/** Shares a reading with a comment at a token, a range or the whole: as a link, or as an HTML file. */
import { useState } from "preact/hooks";
import { asHtml, download, fileName } from "../export/files";
import { copy } from "../export/snippets";
import { permalink, type Remark } from "../state/link";
import { notify } from "../state/notice";
import { focus, selection, session, type Session } from "../state/session";
import { Dialog } from "./Dialog";

const MOST_CHARS = 600;

export function ShareDialog() {
  const of = session.value;
  const [comment, setComment] = useState("");
  const [where, setWhere] = useState(selection.value.size > 1 ? "selection" : focus.value >= 0 ? "token" : "whole");
  if (of === null) return null;
  const remark: Remark | null = comment.trim() === "" && where === "whole"
    ? null : { text: comment.trim(), positions: positionsOf(where) };
  return (
    <Dialog title="Share this reading">
      <label class="field">
        <span>About</span>
        <select value={where} onChange={(event) => setWhere(event.currentTarget.value)}>
          <option value="whole">the whole text</option>
          {focus.value >= 0 && <option value="token">the token in focus</option>}
          {selection.value.size > 1 && <option value="selection">the {selection.value.size} selected tokens</option>}
        </select>
      </label>
      <label class="share-comment">
        <span>Comment <small class="muted">who opens it sees this first</small></span>
        <textarea rows={3} value={comment} maxLength={MOST_CHARS}
          onInput={(event) => setComment(event.currentTarget.value)} />
      </label>
      <div class="row">
        <button type="button" class="primary small" onClick={() => void copyLink(of, remark)}>Copy a link</button>
        <button type="button" class="small" onClick={() => saveHtml(of, remark)}>Save as an HTML file</button>
      </div>
      <p class="muted">
        The link works for whoever reaches this server. The file needs no server: it holds the text, every
        explanation with its shading and claims, and your comment.
      </p>
    </Dialog>
  );
}

function positionsOf(where: string): number[] {
  if (where === "token") return [focus.value];
  return where === "selection" ? [...selection.value].sort((a, b) => a - b) : [];
}

async function copyLink(of: Session, remark: Remark | null): Promise<void> {
  const link = permalink(of, remark);
  if (link === null) return notify("The text is too long for a link. Save the reading first, or save the file.", "bad");
  if (await copy(link)) notify("Link copied.");
  else notify("The browser does not allow copying here.", "bad");
}

function saveHtml(of: Session, remark: Remark | null): void {
  download(fileName(of, "html"), new Blob([asHtml(of, remark)], { type: "text/html;charset=utf-8" }));
}
