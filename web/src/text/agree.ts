/** What several explanations of one activation agree on: by their claims, or where those cannot be
 * read, by the words that carry content. */
import type { Claim, Sample } from "../api/types";

export interface Agreed {
  claim: Claim;
  /** How many of the samples make it. */
  count: number;
}

const MOST_CLAIMS = 16;

/** Claims of all samples, those of most samples first; one that a sample repeats counts once. */
export function agreedClaims(samples: Sample[]): Agreed[] {
  const found = new Map<string, Agreed>();
  for (const sample of samples) {
    const own = new Map((sample.claims ?? []).map((claim) => [`${claim.kind}\0${claim.value}`, claim]));
    for (const [key, claim] of own) {
      const before = found.get(key);
      if (before) before.count += 1;
      else found.set(key, { claim, count: 1 });
    }
  }
  return [...found.values()].sort((a, b) => b.count - a.count).slice(0, MOST_CLAIMS);
}

export interface Shared {
  word: string;
  /** In how many of the samples it stands. */
  count: number;
}

const STOP = new Set(
  ("a an and are as at be been but by can come comes each for from full had has have if in into is "
    + "it its just may more most must next no not of on one or other our out over set so some such "
    + "text than that the their them then there these they thing this to under up very was we were "
    + "what when where which while who will with word words would you your follow follows last ends "
    + "stops about told written").split(" "),
);

function contentWords(text: string): Set<string> {
  const words = text.toLowerCase().match(/[\p{L}\p{N}][\p{L}\p{N}'’-]*/gu) ?? [];
  return new Set(words.filter((word) => !STOP.has(word) && word.length > 1));
}

/** Words found in more than one sample, those of most samples first; 24 at most. */
export function shared(descriptions: string[]): Shared[] {
  const counts = new Map<string, number>();
  for (const text of descriptions) {
    for (const word of contentWords(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts]
    .filter(([, count]) => count > 1)
    .map(([word, count]) => ({ word, count }))
    .sort((a, b) => b.count - a.count || a.word.localeCompare(b.word))
    .slice(0, 24);
}
