/** A session as plain JSON: what is kept in this browser, saved on the server and exported. */
import type { DocumentRef, Result, TokenInfo, Turn } from "../api/types";
import type { Window } from "./windows";
import { isChat, model, newEntry, results, type Session, type Source } from "./session";

export const FORMAT = "nlakit-page-reading-1";

export interface Record_ {
  format: typeof FORMAT;
  id: string;
  title: string;
  note: string;
  text: string | null;
  messages: Turn[] | null;
  document: DocumentRef | null;
  created: number;
  parent: string | null;
  nla: string;
  floors: Record<string, number>;
  tokens: TokenInfo[];
  results: Result[];
  windows?: Window[];
}

export function toRecord(of: Session): Record_ {
  return {
    format: FORMAT, id: of.id, title: of.title, note: of.note,
    text: isChat(of.source) ? null : of.source.text,
    messages: isChat(of.source) ? of.source.messages : null,
    document: of.document, created: of.created, parent: of.parent,
    nla: model.value?.name ?? "", floors: model.value?.floors ?? {},
    tokens: of.tokens, results: results(of), windows: of.windows,
  };
}

/** The session a record holds; null where it is something else. */
export function fromRecord(raw: unknown, saved: string | null): Session | null {
  if (!isRecord(raw)) return null;
  const source: Source | null = raw.messages
    ? { messages: raw.messages }
    : raw.text != null ? { text: raw.text } : null;
  if (source === null) return null;
  const byPlace = new Map(raw.results.map((result) => [result.position, result]));
  return {
    id: raw.id, title: raw.title, note: raw.note ?? "", source, document: raw.document ?? null,
    tokens: raw.tokens, created: raw.created, parent: raw.parent ?? null, saved, windows: raw.windows ?? [],
    entries: raw.tokens.map((token) => newEntry(byPlace.get(token.position) ?? null)),
  };
}

function isRecord(raw: unknown): raw is Record_ {
  if (raw === null || typeof raw !== "object") return false;
  const seen = raw as Partial<Record_>;
  return seen.format === FORMAT && Array.isArray(seen.tokens) && Array.isArray(seen.results)
    && typeof seen.id === "string";
}
