/** The whole passage at a glance: one sentence, then the readings that say most. */
import type { Result } from "../api/types";
import { model, moveTo, results, revision, type Session } from "../state/session";
import { grade, isBelievable, number } from "../text/fidelity";
import { tokenName } from "../text/visible";
import { Badge } from "./Gauge";
import { Shown } from "./Shown";

const MOST_ROWS = 24;

export function Summary({ of }: { of: Session }) {
  revision.value;
  const read = results(of).filter((each) => each.fragment_index === 0);
  return (
    <section class="summary" aria-label="Summary">
      <h3>What was read</h3>
      <p class="summary-verdict" role="status">{verdict(read)}</p>
      <ol class="summary-list">
        {mostTelling(read).map((result) => (
          <li key={result.position}>
            <button type="button" class="summary-row" onClick={() => moveTo(result.position)}>
              <span class="summary-head">
                <code><bdi>{tokenName(result.token)}</bdi></code>
                <Badge fidelity={result.fidelity} />
              </span>
              <span class="summary-text"><bdi><Shown text={result.description} /></bdi></span>
            </button>
          </li>
        ))}
      </ol>
      <p class="muted">Most telling first; readings that repeat another's words are left out. Click a token for everything about it.</p>
    </section>
  );
}

/** `37 of 40 tokens are not to be believed: …`, or what can be believed, and how far. */
export function verdict(read: Result[]): string {
  const bad = read.filter((each) => !isBelievable(each.fidelity)).length;
  const domain = model.value?.domain;
  if (read.length === 0) return "Nothing has been read yet.";
  if (model.value?.scale === null) {
    return `${read.length} tokens read. This pair has no baseline, so nothing says how far to believe them.`;
  }
  const why = domain ? ` This NLA was trained on ${domain}.` : "";
  if (bad === read.length) return `None of the ${read.length} readings is to be believed.${why}`;
  if (bad > 0) return `${bad} of ${read.length} tokens are not to be believed.${bad * 2 > read.length ? why : ""}`;
  const faithful = read.filter((each) => grade(each.fidelity).key === "faithful").length;
  const median = middle(read.map((each) => each.fidelity ?? 0));
  return `${faithful} of ${read.length} readings are faithful; the median fidelity is ${number(median)}.`;
}

function middle(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** By fidelity, one of each wording. */
export function mostTelling(read: Result[]): Result[] {
  const seen = new Set<string>();
  return [...read]
    .sort((a, b) => (b.fidelity ?? -9) - (a.fidelity ?? -9))
    .filter(({ description }) => !seen.has(description) && seen.add(description))
    .slice(0, MOST_ROWS);
}
