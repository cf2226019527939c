/**
 * Model output for the eye: control, zero-width and direction-changing characters become marks.
 *
 * Such a character could reverse, hide or imitate other text; shown as a mark it cannot.
 */

export interface Piece {
  text: string;
  /** What the character is called, where `text` stands for one that is not seen. */
  mark: string | null;
}

const NAMES: Record<number, string> = {
  0x00ad: "soft hyphen", 0x061c: "Arabic letter mark", 0x180e: "Mongolian vowel separator",
  0x200b: "zero-width space", 0x200c: "zero-width non-joiner", 0x200d: "zero-width joiner",
  0x200e: "left-to-right mark", 0x200f: "right-to-left mark", 0x2028: "line separator",
  0x2029: "paragraph separator", 0x202a: "left-to-right embedding",
  0x202b: "right-to-left embedding", 0x202c: "pop directional formatting",
  0x202d: "left-to-right override", 0x202e: "right-to-left override", 0x2060: "word joiner",
  0x2066: "left-to-right isolate", 0x2067: "right-to-left isolate",
  0x2068: "first strong isolate", 0x2069: "pop directional isolate", 0xfeff: "byte order mark",
  0xfffd: "bytes that are no character",
};

// Cc but tab and line feed; Cf (bidi controls, zero-width, tags); line and paragraph separators.
const UNSEEN = /[\p{Cf}\u2028\u2029\ufffd\u{E0000}-\u{E0FFF}]|(?![\n\t])\p{Cc}/gu;

/** A text cut into what can be seen and marks for what cannot. */
export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (keepsEmoji(text, match.index, match[0])) continue;
    if (match.index > from) found.push({ text: text.slice(from, match.index), mark: null });
    found.push(marked(match[0]));
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push({ text: text.slice(from), mark: null });
  return found;
}

/** A joiner between two pictographs makes one emoji of them and hides nothing. */
function keepsEmoji(text: string, at: number, char: string): boolean {
  return char === "\u200d" && /\p{Extended_Pictographic}\ufe0f?$/u.test(text.slice(0, at).slice(-4))
    && /^\p{Extended_Pictographic}/u.test(text.slice(at + 1, at + 3));
}

function marked(char: string): Piece {
  const code = char.codePointAt(0) ?? 0;
  const hex = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  if (code === 0xfffd) return { text: "\ufffd", mark: NAMES[code] ?? hex };
  const name = NAMES[code] ?? (code < 0x20 || code === 0x7f ? "control character" : "unseen character");
  return { text: hex, mark: `${hex} ${name}` };
}

/** The same as one plain string, for labels, titles and pictures. */
export function plain(text: string): string {
  return pieces(text).map((piece) => (piece.mark ? `[${piece.text}]` : piece.text)).join("");
}

const SPACES: Record<string, string> = { " ": "·", "\n": "⏎\n", "\t": "⇥\t", "\u00a0": "⍽" };

/** Spaces, tabs and line ends as signs (a line end still ends its line). */
export function withSpaces(text: string): string {
  return text.replace(/[ \n\t\u00a0]/g, (char) => SPACES[char] ?? char);
}

/** A token's name in one line: `"·the"`. */
export function tokenName(token: string): string {
  return plain(withSpaces(token).replaceAll("\n", ""));
}
