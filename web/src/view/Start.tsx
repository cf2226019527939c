/** The first lines of the start page: which model is read, what it knows, and how far to trust it. */
import { model } from "../state/session";
import { grades, number, rangeOf } from "../text/fidelity";
import { opened } from "./Dialog";
import { Shown } from "./Shown";

export function Start() {
  const about = model.value;
  return (
    <div class="composer-lead">
      <h2>What is the model thinking?</h2>
      {about && (
        <p class="start-model">
          You read <b><Shown text={about.target} /></b> after block {about.layer}
          {about.domain && <>, with an NLA trained on <Shown text={about.domain} /></>}.{" "}
          <button type="button" class="link" onClick={() => (opened.value = "about")}>About this NLA</button>
        </p>
      )}
      <p>
        A <b>reading</b> is an explanation of the model's activation at one token, in words: what the
        numbers inside the model say once it has read that word, or piece of a word. The words are
        turned back into an activation, and <b>fidelity</b> says how close the two are.
      </p>
      <p>{disbelief()}</p>
    </div>
  );
}

/** When to disbelieve a reading, with this pair's own threshold. */
function disbelief(): string {
  const lowest = grades().find((each) => each.key === "weak");
  const worse = grades().find((each) => each.key === "worse");
  if (!lowest || !worse) return "This pair has no baseline, so nothing says when to disbelieve it.";
  return `Disbelieve a reading with a fidelity below ${number(lowest.threshold)}, marked “do not believe”; `
    + `${rangeOf(worse)} it is worse than knowing nothing.`;
}

export function Warnings() {
  const warnings = model.value?.warnings ?? [];
  if (warnings.length === 0) return null;
  return (
    <ul class="warnings" aria-label="Warnings">
      {warnings.map((each) => <li key={each}><Shown text={each} /></li>)}
    </ul>
  );
}
