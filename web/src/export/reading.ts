/** A session as the JSON of `nlakit.Reading`, so that `Reading.from_json` reads it back. */
import type { Claim, Result, Sample } from "../api/types";
import { isChat, model, results, type Session } from "../state/session";
import { grade } from "../text/fidelity";

export function asReading(of: Session): object {
  return {
    text: isChat(of.source) ? of.tokens.map((token) => token.token).join("") : of.source.text,
    tokens: results(of).map(tokenReading),
    nla: model.value?.name ?? "",
    floors: model.value?.floors ?? {},
    calibrated: results(of).some((each) => each.claims?.some((claim) => claim.confidence != null) ?? false),
  };
}

function tokenReading(result: Result): object {
  const samples = result.samples?.length ? result.samples : [result];
  return {
    ...sample(result), position: result.position, token: result.token,
    samples: samples.map(sample),
  };
}

function sample(each: Sample | Result): object {
  return {
    fidelity: each.fidelity ?? 0, cosine: each.cosine_similarity ?? 0, mse: each.mse ?? 0,
    baseline: model.value?.scale ? "training_mean" : "none", word: grade(each.fidelity).word,
    explanation: each.description, closed: each.closed ?? true, claims: (each.claims ?? []).map(claim),
  };
}

function claim({ kind, value, start, end, confidence }: Claim): object {
  return { kind, value, start, end, confidence: confidence ?? null };
}
