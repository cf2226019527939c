/** Fidelity in words: 1 perfect, 0 no better than the mean activation, negative worse. */
import type { Word } from "../api/types";

export interface Grade {
  floor: number;
  word: Word;
  /** Suffix of the CSS classes that shade it. */
  key: "faithful" | "partly" | "weak" | "bad";
  meaning: string;
}

export const GRADES: readonly [Grade, Grade, Grade, Grade] = [
  {
    floor: 0.8, word: "faithful", key: "faithful",
    meaning: "From these words alone the activation can be rebuilt nearly whole.",
  },
  {
    floor: 0.5, word: "partly", key: "partly",
    meaning: "The words carry much of this activation, and miss or blur some of it.",
  },
  {
    floor: 0.2, word: "weak", key: "weak",
    meaning: "Only a little of this activation can be rebuilt from the words.",
  },
  {
    floor: -Infinity, word: "do not believe", key: "bad",
    meaning: "The words rebuild this activation hardly better than a guess would. Take them for made up.",
  },
];

/** The grade of a fidelity; one that is not a number is not to be believed. */
export function grade(fidelity: number | null | undefined): Grade {
  const found = GRADES.find((each) => fidelity != null && fidelity >= each.floor);
  return found ?? GRADES[3];
}

export function number(value: number | null | undefined, digits = 2): string {
  if (value == null || !Number.isFinite(value)) return "–";
  return value.toFixed(digits).replace("-", "−");
}

export const FLOOR_NAMES: Record<string, string> = {
  mean: "the mean activation",
  shuffled: "another token’s explanation",
  empty: "an empty text",
  generic: "one text for all",
  zero_vector: "reading a zero vector",
};

export function floorName(name: string): string {
  return FLOOR_NAMES[name] ?? name.replaceAll("_", " ");
}
