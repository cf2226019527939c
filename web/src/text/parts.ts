/** An explanation in its parts: setting; content and plan; the final token and what follows. */

export interface Part {
  label: string;
  text: string;
  /** Where `text` starts in the explanation. */
  start: number;
}

const OPEN = "<explanation>";
const CLOSE = "</explanation>";

/** What stands between the tags of a raw answer, also of one that is still being written. */
export function untagged(raw: string): string {
  const open = raw.indexOf(OPEN);
  let text = open < 0 ? raw : raw.slice(open + OPEN.length);
  const close = text.indexOf(CLOSE);
  if (close >= 0) text = text.slice(0, close);
  return text.replace(/<\/?[a-z]{0,11}$/, "").trim();
}

/** Paragraphs where there are some, else sentences; what is in quotes is never cut. */
export function parts(text: string): Part[] {
  const spans = paragraphs(text);
  const found = spans.length > 1 ? spans : sentences(text);
  if (found.length === 0) return [];
  if (found.length === 1) return [labelled("What it says", text, found)];
  const ending = labelled("This token and what follows", text, found.slice(-1));
  const opening = labelled("Setting", text, found.slice(0, 1));
  if (found.length === 2) return [opening, ending];
  return [opening, labelled("Content and plan", text, found.slice(1, -1)), ending];
}

type Span = [start: number, end: number];

function labelled(label: string, text: string, spans: Span[]): Part {
  const start = spans[0]?.[0] ?? 0;
  return { label, start, text: text.slice(start, spans.at(-1)?.[1]) };
}

function paragraphs(text: string): Span[] {
  return [...text.matchAll(/\S[^]*?(?=\s*\n\s*\n|\s*$)/g)].map((match) =>
    [match.index, match.index + match[0].length]);
}

function sentences(text: string): Span[] {
  const spans: Span[] = [];
  let start = 0;
  for (const match of outsideQuotes(text).matchAll(/[.!?]["”’)]?\s+(?=[\p{Lu}"“¿¡])/gu)) {
    const end = match.index + match[0].length;
    spans.push([start, match.index + match[0].trimEnd().length]);
    start = end;
  }
  if (text.slice(start).trim() !== "") spans.push([start, text.trimEnd().length]);
  return spans;
}

/** The text with the inside of quotations blanked out, so that a stop in them ends nothing. */
function outsideQuotes(text: string): string {
  return text.replace(/"[^"]{0,200}"/g, (quoted) => `"${"_".repeat(quoted.length - 2)}"`);
}
