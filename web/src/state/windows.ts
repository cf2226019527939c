/** Texts past the model's context, cut into overlapping windows that are read one by one. */
import { api, ApiError } from "../api/client";
import type { TokenInfo } from "../api/types";
import { model } from "./session";

/** One window: its own text, and which of its tokens stand for a part no earlier window has. */
export interface Window {
  text: string;
  /** Token of the whole at which this window's own part begins. */
  first: number;
  /** Its number of tokens that only repeat what an earlier window has. */
  skip: number;
}

export interface Windowed {
  tokens: TokenInfo[];
  windows: Window[];
  /** What the reader has to know of how the text was rendered. */
  notices: string[];
}

/** Share of a window that repeats the end of the one before, so that no token lacks its context. */
const OVERLAP = 0.25;
const CHARS_A_TOKEN = 3;
const FEWEST_CHARS = 40;

export function isTooLong(error: unknown): boolean {
  return error instanceof ApiError && error.status === 400 && /token/i.test(error.message)
    && /context|long|most/i.test(error.message);
}

/** The tokens of a text longer than the context, each with the window that it is read in. */
export async function tokenizeWindowed(text: string): Promise<Windowed> {
  const tokens: TokenInfo[] = [];
  const windows: Window[] = [];
  let size = Math.max(FEWEST_CHARS, Math.floor((model.value?.max_tokens ?? 256) * CHARS_A_TOKEN));
  let done = 0;
  while (done < text.length) {
    const start = done === 0 ? 0 : wordStart(text, Math.max(0, done - Math.floor(size * OVERLAP)));
    const part = text.slice(start, wordStart(text, start + size));
    const found = await attempt(part);
    if (found === null) {
      size = Math.floor(size * 0.8);
      if (size < FEWEST_CHARS) throw new ApiError(400, "The text cannot be cut into windows.");
      continue;
    }
    const skip = done === 0 ? 0 : firstPast(found, done - start);
    windows.push({ text: part, first: tokens.length, skip });
    for (const token of found.slice(skip)) tokens.push({ ...token, position: tokens.length });
    done = start + part.length;
  }
  const told = `Longer than the model's context: read in ${windows.length} overlapping windows.`;
  return { tokens, windows, notices: [told] };
}

async function attempt(text: string): Promise<TokenInfo[] | null> {
  try {
    return (await api.tokenize({ text })).tokens;
  } catch (error) {
    if (isTooLong(error)) return null;
    throw error;
  }
}

/** The next place at or after which a word begins. */
function wordStart(text: string, from: number): number {
  if (from >= text.length) return text.length;
  const at = text.slice(from).search(/\s/);
  return at < 0 ? text.length : from + at;
}

/** The first token whose characters begin at or past a character of its window. */
function firstPast(tokens: TokenInfo[], chars: number): number {
  let seen = 0;
  for (const [index, token] of tokens.entries()) {
    const special = token.fragment_index > 0 || /^<.*>$/.test(token.token);
    if (!special && seen >= chars) return index;
    if (!special) seen += token.token.length;
  }
  return tokens.length;
}

/** Positions of the whole, by the window that they are read in. */
export function byWindow(windows: Window[], positions: number[]): Map<Window, number[]> {
  const found = new Map<Window, number[]>();
  for (const position of positions) {
    const own = windows.findLast((each) => each.first <= position);
    if (own) found.set(own, [...(found.get(own) ?? []), position]);
  }
  return found;
}
