/**
 * What the server says and hears, by the names of its OpenAPI description.
 *
 * `schema.d.ts` is generated: `npm run types` after the server's interface has changed.
 */
import type { components } from "./schema";

type Schemas = components["schemas"];

/** A message; `reasoning_content` is what the model thought before it said it. */
export type Turn = Schemas["PassageMessage"] & { reasoning_content?: string | null };
export type ChatFrame =
  | { type: "text"; section: "thinking" | "content"; text: string }
  | ({ type: "done" } & Schemas["ChatResult"]);
export type DocumentRef = Schemas["DocumentRef"];
export type TokenInfo = Schemas["TokenInfo"];
export type Claim = Schemas["ClaimResult"];
export type Result = Schemas["ExplainResultV1"];
export type ModelInfo = Schemas["ModelInfo"];
export type Passage = Schemas["Passage"];
export type Tokenized = Schemas["Tokenized"];
export type Compared = Schemas["Compared"];
export type ExtractedToken = Schemas["ExtractedToken"];
export type SavedHead = Schemas["SavedHead"];
export type SavedList = Schemas["SavedList"];
export type SavedReading = Schemas["SavedReading"];
export type Scored = Schemas["Scored"];
export type Sample = Schemas["SampleResult"];
export type Described = Schemas["DescribeResultV1"];
export type Word = NonNullable<Result["word"]>;
export type Steered = Schemas["SteerResult"];
export type Fact = Schemas["FactResult"];
export type ProjectHead = Schemas["ProjectHead"];
export type TranscriptHead = Schemas["TranscriptHead"];
export type ThoughtHit = Schemas["ThoughtHit"];
export type TokenThought = Schemas["TokenThought"];
export type OpenTranscript = Schemas["OpenTranscript"];
export type TranscriptHits = Schemas["TranscriptHits"];
export type DetectorHits = Schemas["DetectorHits"];
export type ScaleInfo = Schemas["ScaleInfo"];
export type GradeInfo = Schemas["GradeInfo"];

/** What `/v1/explain` streams; told apart by their keys, in this order. */
export interface Frame {
  error?: string | null;
  layer_index?: number;
  total?: number;
  queued?: boolean;
  position_in_queue?: number;
  done?: boolean;
  position?: number;
  text?: string;
  description?: string;
}
