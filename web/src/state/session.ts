/** The text on the page: its tokens, what was read at each, and what is selected. */
import { batch, computed, signal, type Signal } from "@preact/signals";
import { api } from "../api/client";
import { isTooLong, tokenizeWindowed, type Window, type Windowed } from "./windows";
import type { DocumentRef, ModelInfo, Result, TokenInfo, Turn } from "../api/types";

export type Source = { text: string } | { messages: Turn[] };
export type Phase = "idle" | "queued" | "writing" | "scored" | "failed";

/** What is known at one token. Signals of its own, so that a new word repaints one token. */
export interface Entry {
  phase: Signal<Phase>;
  /** The raw answer so far, while it is being written. */
  writing: Signal<string>;
  result: Signal<Result | null>;
  error: Signal<string>;
}

export interface Session {
  id: string;
  title: string;
  note: string;
  source: Source;
  document: DocumentRef | null;
  tokens: TokenInfo[];
  entries: Entry[];
  created: number;
  /** The session this one was branched from. */
  parent: string | null;
  /** Its number on the server, once it was saved there. */
  saved: string | null;
  /** Of a text longer than the context: the windows that its tokens are read in. */
  windows: Window[];
}

export const models = signal<ModelInfo[]>([]);
export const model = computed<ModelInfo | null>(() => models.value[0] ?? null);
export const session = signal<Session | null>(null);
export const composing = signal(true);
export const loading = signal(false);
export const focus = signal(-1);
export const selection = signal<ReadonlySet<number>>(new Set());
export const pins = signal<readonly number[]>([]);
/** Counts results, so that what sums over them knows when to look again. */
export const revision = signal(0);
let anchor = -1;

export function isChat(source: Source): source is { messages: Turn[] } {
  return "messages" in source;
}

/** The fields of a request that say which tokens are meant. */
export function sourceFields(source: Source): object {
  if (!isChat(source)) return { text: source.text };
  // After a user's turn the assistant's is opened: what it is about to say can then be read.
  const opened = ["user", "tool"].includes(source.messages.at(-1)?.role ?? "");
  return { messages: source.messages, add_generation_prompt: opened };
}

export function newEntry(result: Result | null = null): Entry {
  return {
    phase: signal<Phase>(result ? "scored" : "idle"),
    writing: signal(""),
    result: signal<Result | null>(result),
    error: signal(""),
  };
}

export interface Opening {
  title?: string;
  note?: string;
  document?: DocumentRef | null;
  parent?: string | null;
}

/** Tokenizes a source and puts it on the page as a new session. Throws `ApiError`. */
export async function start(source: Source, opening: Opening = {}): Promise<Session> {
  loading.value = true;
  try {
    const { tokens, windows, notices } = await tokensOf(source);
    const made: Session = {
      id: newId(), title: opening.title ?? titleOf(source),
      note: [opening.note, ...notices].filter(Boolean).join(" "),
      source, document: opening.document ?? null, tokens, entries: tokens.map(() => newEntry()),
      created: Date.now(), parent: opening.parent ?? null, saved: null, windows,
    };
    show(made);
    return made;
  } finally {
    loading.value = false;
  }
}

async function tokensOf(source: Source): Promise<Windowed> {
  try {
    const { tokens, notices } = await api.tokenize(sourceFields(source));
    return { tokens, windows: [], notices: notices ?? [] };
  } catch (error) {
    if (isChat(source) || !isTooLong(error)) throw error;
    return tokenizeWindowed(source.text);
  }
}

export function show(next: Session, at = -1): void {
  batch(() => {
    session.value = next;
    composing.value = false;
    pins.value = [];
    selection.value = new Set();
    focus.value = at >= 0 && at < next.tokens.length ? at : -1;
    revision.value += 1;
  });
  anchor = focus.value;
}

function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function titleOf(source: Source): string {
  const text = isChat(source)
    ? source.messages.find((turn) => turn.role === "user")?.content ?? source.messages[0]?.content ?? ""
    : source.text;
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 58)}…` : line || "Untitled";
}

/** Moves to a token. `extend` selects all from where the selection began; `toggle` adds one. */
export function moveTo(position: number, how: "only" | "extend" | "toggle" = "only"): void {
  const size = session.value?.tokens.length ?? 0;
  if (size === 0) return;
  const place = Math.max(0, Math.min(size - 1, position));
  batch(() => {
    if (how === "extend") {
      if (anchor < 0) anchor = focus.value >= 0 ? focus.value : place;
      selection.value = range(anchor, place);
    } else if (how === "toggle") {
      const next = new Set(selection.value);
      if (!next.delete(place)) next.add(place);
      selection.value = next;
      anchor = place;
    } else {
      selection.value = new Set([place]);
      anchor = place;
    }
    focus.value = place;
  });
}

export function select(positions: Iterable<number>): void {
  selection.value = new Set(positions);
}

function range(from: number, to: number): Set<number> {
  const low = Math.min(from, to);
  return new Set(Array.from({ length: Math.abs(to - from) + 1 }, (_, step) => low + step));
}

export function pin(position: number): void {
  const others = pins.value.filter((each) => each !== position);
  pins.value = others.length < pins.value.length ? others : [...others.slice(-1), position];
}

/** What a message says; the other sections are the chat template's. */
const SAID: ReadonlySet<string> = new Set(["content", "thinking", "tool_call"]);

/** A mark of the tokenizer or the chat template, not a word of the text. */
export function isTemplate(token: TokenInfo): boolean {
  if (token.section != null) return !SAID.has(token.section);
  return isOpening(token);
}

/** The tokenizer's opening mark (BOS), by the names that model families give it. */
function isOpening(token: TokenInfo): boolean {
  return token.position === 0 && /^<\|?(bos|s|begin_of_text|startoftext|endoftext)\|?>$/i.test(token.token);
}

/**
 * Tokens worth reading: not a character's later bytes, which are read with its first, and not the
 * tokenizer's opening mark, which has seen nothing.
 */
export function readable(of: Session): number[] {
  return of.tokens
    .filter((token) => token.fragment_index === 0 && !isOpening(token))
    .map((token) => token.position);
}

export function lastTokens(of: Session, count: number): number[] {
  return readable(of).slice(-count);
}

export function everyKth(of: Session, step: number): number[] {
  // Counted from the end: the last token, which has seen most, is always among them.
  return readable(of).reverse().filter((_, index) => index % step === 0).reverse();
}

export const progress = computed(() => {
  revision.value;
  const counts: Record<Phase, number> = { idle: 0, queued: 0, writing: 0, scored: 0, failed: 0 };
  for (const entry of session.value?.entries ?? []) counts[entry.phase.value] += 1;
  return counts;
});

export function results(of: Session): Result[] {
  return of.entries.map((entry) => entry.result.value).filter((result) => result !== null);
}
