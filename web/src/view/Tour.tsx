/** A short tour: five sentences, each beside what it speaks of. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { attempted } from "../state/notice";
import { passages } from "../state/passages";
import { composing, session } from "../state/session";
import { change } from "../state/settings";
import { openPassage } from "./Composer";

interface Step {
  at: string;
  title: string;
  text: string;
}

const STEPS: Step[] = [
  {
    at: "transcript", title: "The text",
    text: "Every token can be read. The darker its blue, the more faithful its explanation; orange with a wavy line means: do not believe it.",
  },
  {
    at: "reading", title: "The reading",
    text: "What the model held in mind at the token in focus: the setting, content and plans, the token itself and what must follow. Below stands how far to believe it.",
  },
  {
    at: "timeline", title: "The timeline",
    text: "Fidelity over the whole text, and where each kind of claim is made: a dot is true, a cross false, a ring cannot be checked. Click to go there.",
  },
  {
    at: "toolbar", title: "Read more, take it along",
    text: "Read all tokens, the last few or every so many; save, link, export, or copy the request as code.",
  },
  {
    at: "search", title: "Search",
    text: "Finds words in every explanation on the page and in what was read before. The key / opens it.",
  },
];

const at = signal<number | null>(null);

/** Starts the tour; on an empty page a demo passage is opened first. */
export function beginTour(): void {
  void attempted(async () => {
    if (session.value === null) {
      const first = passages.value[0];
      if (first) await openPassage(first);
    }
    composing.value = session.value === null;
    at.value = 0;
  });
}

function finish(): void {
  at.value = null;
  change({ toured: true });
}

export function Tour() {
  const index = at.value;
  const step = index === null ? null : STEPS[index] ?? null;
  useEffect(() => {
    if (step === null) return;
    const place = document.querySelector(`[data-tour="${step.at}"]`);
    place?.classList.add("toured");
    place?.scrollIntoView({ block: "nearest" });
    return () => place?.classList.remove("toured");
  }, [step]);
  if (step === null || index === null) return null;
  const last = index === STEPS.length - 1;
  return (
    <div class="tour" role="dialog" aria-label={`Tour, ${index + 1} of ${STEPS.length}`}
      onKeyDown={(event) => event.key === "Escape" && finish()}>
      <p class="tour-count">{index + 1} of {STEPS.length}</p>
      <h2>{step.title}</h2>
      <p aria-live="polite">{step.text}</p>
      <div class="row">
        <button key={index} type="button" class="primary small" ref={(button) => button?.focus()}
          onClick={() => (last ? finish() : (at.value = index + 1))}>
          {last ? "Done" : "Next"}
        </button>
        {!last && <button type="button" class="plain small" onClick={finish}>Leave the tour</button>}
      </div>
    </div>
  );
}
