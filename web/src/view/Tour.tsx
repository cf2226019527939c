/** A tour with a story: one passage, one question, and the answer found in the readings. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Claim } from "../api/types";
import { attempted } from "../state/notice";
import { passages } from "../state/passages";
import { composing, moveTo, progress, results, session } from "../state/session";
import { change } from "../state/settings";
import { openPassage } from "./Composer";
import { Shown } from "./Shown";

interface Step {
  at: string;
  title: string;
  text: () => string;
  /** What the page does as the step begins. */
  begin?: () => void;
}

/** The first reading that names a planned rhyme rightly, and the claim that does. */
function answer(): { position: number; claim: Claim } | null {
  for (const result of session.value ? results(session.value) : []) {
    const claim = (result.claims ?? []).find((each) => each.kind === "rhyme" && each.verdict !== "false");
    if (claim) return { position: result.position, claim };
  }
  return null;
}

const STEPS: Step[] = [
  {
    at: "transcript", title: "A question",
    text: () => "This couplet stops before its last word. Does the model already know which word must come? Nothing in the text says it; if it knows, it holds the word in its activations.",
  },
  {
    at: "toolbar", title: "Reading it",
    text: () => progress.value.queued + progress.value.writing > 0
      ? "Every token is being read now: the verbalizer puts the activation at each into words."
      : "Every token has been read: the verbalizer put the activation at each into words.",
  },
  {
    at: "reading", title: "The answer",
    begin: () => {
      const found = answer();
      if (found) moveTo(found.position);
    },
    text: () => {
      const found = answer();
      return found
        ? `At this token the explanation already names the rhyme: “${found.claim.value}”. It has not been written yet, so it was planned.`
        : "None of the readings names the rhyme, so this NLA does not find the plan. Silence is an answer too.";
    },
  },
  {
    at: "gauge", title: "Can it be believed?",
    text: () => "Fidelity says how much of the activation the words carry. Below the marked floors an explanation is worse than knowing nothing, and the page asserts nothing there.",
  },
  {
    at: "timeline", title: "When did it know?",
    text: () => "The timeline shows fidelity token by token, and where each kind of claim is made: a dot is true, a cross false, a ring cannot be checked. Choose “rhyme” to see from where on the plan is there.",
    begin: () => change({ claimRows: ["rhyme", "mood"] }),
  },
];

const at = signal<number | null>(null);

/** Opens the couplet among the passages, where there is one, and begins. */
export function beginTour(): void {
  void attempted(async () => {
    const story = passages.value.find((each) => /rhyme|couplet/i.test(`${each.id} ${each.case}`)) ?? passages.value[0];
    if (story) await openPassage(story);
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
    step.begin?.();
    const frame = requestAnimationFrame(() => mark(step.at));
    return () => {
      cancelAnimationFrame(frame);
      document.querySelectorAll(".toured").forEach((each) => each.classList.remove("toured"));
    };
  }, [step]);
  if (step === null || index === null) return null;
  const last = index === STEPS.length - 1;
  return (
    <div class="tour" role="dialog" aria-label={`Tour, ${index + 1} of ${STEPS.length}`}
      onKeyDown={(event) => event.key === "Escape" && finish()}>
      <p class="tour-count">{index + 1} of {STEPS.length}</p>
      <h2>{step.title}</h2>
      <p aria-live="polite"><Shown text={step.text()} /></p>
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

function mark(name: string): void {
  const place = document.querySelector(`[data-tour="${name}"]`);
  place?.classList.add("toured");
  place?.scrollIntoView({ block: "nearest" });
}
