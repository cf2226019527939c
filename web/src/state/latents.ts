/** Which latent is looked at, and what the server says of its autoencoder. */
import { signal } from "@preact/signals";
import { latentsApi, type LatentsInfo } from "../api/latents";
import { opened } from "../view/Dialog";
import { attempted } from "./notice";
import { model } from "./session";

export const latents = signal<LatentsInfo | null>(null);
/** The latent whose dashboard is open; null: the search. */
export const looked = signal<number | null>(null);

/** Asks once, and only a server that has latents. */
export async function loadLatents(): Promise<void> {
  if (!model.value?.has_latents) return;
  latents.value = await attempted(latentsApi.about);
}

export function look(latent: number | null): void {
  looked.value = latent;
  opened.value = "latents";
}
