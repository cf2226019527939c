/** The demo passages of the server. */
import { signal } from "@preact/signals";
import { api } from "../api/client";
import type { Passage } from "../api/types";
import { attempted } from "./notice";

export const passages = signal<Passage[]>([]);

export async function loadPassages(): Promise<void> {
  const answer = await attempted(api.passages);
  if (answer !== null) passages.value = answer.passages;
}
