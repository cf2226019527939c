/** The address: which text and token, so that a reload or a link comes back to them. */
import { effect, signal } from "@preact/signals";
import { api } from "../api/client";
import { deskFields, deskIn, goTo, place as desk } from "../desk/state";
import type { Turn } from "../api/types";
import { kept, recall } from "./history";
import { attempted, notify } from "./notice";
import { fromRecord } from "./record";
import { composing, focus, isChat, select, session, show, start, type Session } from "./session";

/** A longer text would make an address that some programs cut. */
const MOST_IN_LINK = 6000;

function toBase64(text: string): string {
  const bytes = new TextEncoder().encode(text);
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function fromBase64(encoded: string): string | null {
  try {
    const binary = atob(encoded.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (char) => char.charCodeAt(0));
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** What somebody says about some tokens of a reading; no positions: about all of it. */
export interface Remark {
  text: string;
  positions: number[];
}

/** The remark of the link that was opened, shown over the text. */
export const remark = signal<(Remark & { session: string }) | null>(null);

/** A link for others: to the saved reading, else one that carries the text; null if too long. */
export function permalink(of: Session, said: Remark | null = null): string | null {
  const fields = new URLSearchParams();
  if (of.saved) fields.set("reading", of.saved);
  else if (isChat(of.source)) fields.set("chat", toBase64(JSON.stringify(of.source.messages)));
  else fields.set("text", toBase64(of.source.text));
  if (said !== null) {
    fields.set("note", toBase64(said.text));
    if (said.positions.length > 0) fields.set("of", ranges(said.positions));
  } else if (focus.value >= 0) fields.set("at", String(focus.value));
  const link = `${location.origin}${location.pathname}#${fields}`;
  return link.length > MOST_IN_LINK ? null : link;
}

/** `3-5,8`: ascending positions, runs joined. */
function ranges(positions: number[]): string {
  const found: [number, number][] = [];
  for (const position of positions) {
    const last = found.at(-1);
    if (last && last[1] === position - 1) last[1] = position;
    else found.push([position, position]);
  }
  return found.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(",");
}

function positionsIn(text: string, size: number): number[] {
  return text.split(",").flatMap((part) => {
    const [from, to] = part.split("-").map(Number);
    if (from === undefined || !Number.isInteger(from) || from < 0) return [];
    const end = Math.min(to !== undefined && Number.isInteger(to) ? to : from, size - 1);
    return end < from ? [] : Array.from({ length: end - from + 1 }, (_, step) => from + step);
  });
}

function showRemark(fields: URLSearchParams): void {
  const of = session.value;
  const note = fields.get("note");
  if (of === null || note === null) return;
  const positions = positionsIn(fields.get("of") ?? "", of.tokens.length);
  remark.value = { text: fromBase64(note) ?? "", positions, session: of.id };
  select(positions);
}

/** Opens what the address names, else the last reading of this browser. */
export async function openAddress(): Promise<void> {
  const fields = new URLSearchParams(location.hash.slice(1));
  await openNamed(fields);
  showRemark(fields);
}

async function openNamed(fields: URLSearchParams): Promise<void> {
  const asked = deskIn(fields);
  if (asked !== null) return goTo(asked);
  desk.value = null;
  if (fields.has("new")) return void (composing.value = true);
  const at = Number(fields.get("at") ?? "-1");
  const [saved, text, chat] = ["reading", "text", "chat"].map((name) => fields.get(name));
  if (saved) return openSaved(saved, at);
  if (text) return openText(fromBase64(text), at);
  if (chat) return openChat(fromBase64(chat), at);
  const named = fields.get("local");
  if (named !== null && session.value?.id === named) {
    composing.value = false;
    if (at >= 0) focus.value = at;
    return;
  }
  const found = recall(named ?? kept.value[0]?.id ?? "");
  if (found && (named || location.hash === "")) show(found, at);
  else if (named) notify("That reading was kept in another browser, or removed from this one.", "bad");
}

export async function openSaved(id: string, at = -1): Promise<void> {
  const answer = await attempted(() => api.open(id));
  if (answer === null) return;
  const found = fromRecord(answer.reading, id);
  if (found) show({ ...found, title: answer.title }, at);
  else notify("This reading was not saved from this page and cannot be shown here.", "bad");
}

async function openText(text: string | null, at: number): Promise<void> {
  if (text === null) return notify("The link is damaged: its text cannot be read.", "bad");
  await attempted(async () => show(await start({ text }), at));
}

async function openChat(text: string | null, at: number): Promise<void> {
  const turns = text === null ? null : asTurns(text);
  if (turns === null) return notify("The link is damaged: its turns cannot be read.", "bad");
  await attempted(async () => show(await start({ messages: turns }), at));
}

function asTurns(text: string): Turn[] | null {
  try {
    const raw: unknown = JSON.parse(text);
    if (!Array.isArray(raw)) return null;
    return raw.map((turn: Partial<Turn>) => ({
      role: String(turn.role ?? "user"), content: String(turn.content ?? ""),
    }));
  } catch {
    return null;
  }
}

/** The place in the page's own history that is shown: going there again adds no entry. */
let shown = "";

/** From now on the address follows the page, and the page an address that is typed or gone back to. */
export function followAddress(): void {
  addEventListener("popstate", () => {
    shown = placeOf(new URLSearchParams(location.hash.slice(1)));
    void openAddress();
  });
  effect(() => {
    const of = session.value;
    const fields = addressOf(of);
    const place = placeOf(fields);
    const address = `#${fields}`;
    if (place === shown || shown === "") history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    shown = place;
  });
}

function addressOf(of: Session | null): URLSearchParams {
  if (desk.value !== null) return deskFields(desk.value);
  if (of === null || composing.value) return new URLSearchParams({ new: "" });
  const fields = new URLSearchParams(of.saved ? { reading: of.saved } : { local: of.id });
  if (focus.value >= 0) fields.set("at", String(focus.value));
  return fields;
}

/** What makes an entry of its own in the browser's history: the reading, not the token in it. */
function placeOf(fields: URLSearchParams): string {
  const project = fields.get("project");
  if (project !== null) return ["project", project, fields.get("transcript"), fields.get("beside")].join("/");
  return fields.get("reading") ?? fields.get("local") ?? (fields.has("new") ? "new" : "other");
}
