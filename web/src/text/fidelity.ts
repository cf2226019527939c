/** The scale of fidelities as the server tells it: one definition for page, terminal and notebook. */
import type { GradeInfo, ScaleInfo } from "../api/types";
import { model } from "../state/session";

export type Grade = Omit<GradeInfo, "key" | "word"> & { key: GradeInfo["key"] | "none"; word: string };

/** For a pair without a baseline: its numbers are cosines, and nobody grades them. */
const UNGRADED: Grade = {
  key: "none", word: "no baseline", threshold: null,
  meaning: "No mean of training activations is known, so this is a bare cosine without a grade.",
};

export function scale(): ScaleInfo | null {
  return model.value?.scale ?? null;
}

export function grades(): readonly Grade[] {
  return scale()?.grades ?? [];
}

/** The grade of a fidelity beside the floors; one that is not a number is worse than nothing. */
export function grade(fidelity: number | null | undefined): Grade {
  const found = scale();
  if (found === null) return UNGRADED;
  const worst = found.grades.at(-1) ?? UNGRADED;
  if (fidelity == null || !(fidelity >= found.knowing_nothing)) return worst;
  return found.grades.find((each) => fidelity >= (each.threshold ?? -Infinity)) ?? worst;
}

/** Whether the words are to be believed at all: above every floor, and not only just. */
export function isBelievable(fidelity: number | null | undefined): boolean {
  return ["faithful", "partly", "weak", "none"].includes(grade(fidelity).key);
}

/** Low end of the axis; its high end is 1. */
export function lowEnd(): number {
  return scale()?.low ?? -1;
}

/** Where a fidelity lies on the axis, from 0 at its low end to 1. */
export function share(fidelity: number): number {
  const low = lowEnd();
  return Math.max(0, Math.min(1, (fidelity - low) / (1 - low)));
}

export function isOutside(fidelity: number): boolean {
  return fidelity < lowEnd();
}

export function number(value: number | null | undefined, digits = 2): string {
  if (value == null || !Number.isFinite(value)) return "–";
  return value.toFixed(digits).replace("-", "−");
}

/** `from 0.50`, `below −0.49`: what a grade's word stands for, beside the floors of this pair. */
export function rangeOf(each: Grade): string {
  const found = scale();
  if (each.key === "worse" && found) return `below ${number(found.knowing_nothing)}`;
  if (each.key === "doubtful" && found) return `from ${number(found.knowing_nothing)}`;
  return each.threshold === null ? "" : `from ${number(each.threshold)}`;
}
