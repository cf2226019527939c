/** Readings kept in this browser: written as they grow, there again after a reload. */
import { effect, signal } from "@preact/signals";
import { fromRecord, toRecord, type Record_ } from "./record";
import { revision, results, session, type Session } from "./session";

export interface Kept {
  id: string;
  title: string;
  created: number;
  updated: number;
  parent: string | null;
  saved: string | null;
  num_tokens: number;
  num_read: number;
}

const INDEX = "nlakit.history";
const MOST = 40;
const WAIT_MS = 700;
export const kept = signal<readonly Kept[]>(readIndex());

function readIndex(): Kept[] {
  try {
    const raw: unknown = JSON.parse(localStorage.getItem(INDEX) ?? "[]");
    return Array.isArray(raw) ? (raw as Kept[]) : [];
  } catch {
    return [];
  }
}

function key(id: string): string {
  return `nlakit.reading.${id}`;
}

export function recall(id: string): Session | null {
  try {
    const raw: unknown = JSON.parse(localStorage.getItem(key(id)) ?? "null");
    return fromRecord(raw, kept.value.find((each) => each.id === id)?.saved ?? null);
  } catch {
    return null;
  }
}

export function recordOf(id: string): Record_ | null {
  const found = recall(id);
  return found && toRecord(found);
}

export function drop(id: string): void {
  localStorage.removeItem(key(id));
  writeIndex(kept.value.filter((each) => each.id !== id));
}

/** More would hold the page up while it is written, and push all other readings out. */
const MOST_CHARS = 1_500_000;

function isTooLarge(of: Session): boolean {
  let chars = 0;
  for (const { description, samples } of results(of)) {
    chars += description.length;
    for (const sample of samples ?? []) chars += sample.description.length;
  }
  return chars > MOST_CHARS;
}

export function keep(of: Session): void {
  if (isTooLarge(of)) return;
  const head: Kept = {
    id: of.id, title: of.title, created: of.created, updated: Date.now(), parent: of.parent,
    saved: of.saved, num_tokens: of.tokens.length, num_read: results(of).length,
  };
  const others = kept.value.filter((each) => each.id !== of.id);
  others.slice(MOST - 1).forEach((each) => localStorage.removeItem(key(each.id)));
  if (write(key(of.id), JSON.stringify(toRecord(of)), others)) {
    writeIndex([head, ...kept.value.filter((each) => each.id !== of.id).slice(0, MOST - 1)]);
  }
}

/** Stores a value; where there is no room the oldest readings make some. */
function write(name: string, value: string, others: readonly Kept[]): boolean {
  for (let left = others.length; ; left -= 1) {
    try {
      localStorage.setItem(name, value);
      return true;
    } catch {
      const oldest = others[left - 1];
      if (!oldest) return false;
      drop(oldest.id);
    }
  }
}

function writeIndex(next: readonly Kept[]): void {
  kept.value = next;
  try {
    localStorage.setItem(INDEX, JSON.stringify(next));
  } catch {
    // The readings themselves are there; only their list is one entry behind.
  }
}

let timer = 0;
let pending: Session | null = null;

function flush(): void {
  clearTimeout(timer);
  if (pending !== null) keep(pending);
  pending = null;
}

effect(() => {
  revision.value;
  const of = session.value;
  if (of === null) return;
  if (pending !== null && pending !== of) flush();
  pending = of;
  clearTimeout(timer);
  timer = window.setTimeout(flush, WAIT_MS);
});
addEventListener("pagehide", flush);
