/** The calls about a sparse autoencoder's latents, where the server has one, and about lenses. */
import { getJson, postJson } from "./client";
import type { components } from "./schema";

type Schemas = components["schemas"];

export type LatentsInfo = Schemas["Latents"];
export type ActiveLatent = Schemas["ActiveLatent"];
export type TextFeatures = Schemas["TextFeatures"];
export type LatentPage = Schemas["Dashboard"];
export type DirectionReading = Schemas["DirectionReading"];
export type Example = Schemas["Example"];
export type FoundLatent = Schemas["Found"];
export type Witnessed = Schemas["WitnessedToken"];
export type LatentSteered = Schemas["SteeredByLatent"];
export type LensReading = Schemas["LensReading"];
export type DualMap = Schemas["DualMap"];
export type MapPoint = Schemas["MapPoint"];

export const latentsApi = {
  about: () => getJson<LatentsInfo>("/v1/latents"),
  page: (latent: number) => getJson<LatentPage>(`/v1/latents/${latent}`),
  search: (q: string) =>
    getJson<{ found: FoundLatent[] }>(`/v1/latents/search?${new URLSearchParams({ q })}`),
  map: () => getJson<DualMap>("/v1/latents/map"),
  readingMap: () => getJson<DualMap>("/v1/reading-map"),
  features: (body: object) => postJson<TextFeatures>("/v1/latents/features", body),
  witness: (body: object) => postJson<Witnessed>("/v1/latents/witness", body),
  lens: (body: object) => postJson<LensReading>("/v1/lens", body),
  steer: (body: object) => postJson<LatentSteered>("/v1/latents/steer", body),
};
