/** Asks for explanations and puts what streams in onto the page, one repaint per frame at most. */
import { batch, computed, signal } from "@preact/signals";
import { api, ApiError } from "../api/client";
import type { Frame, Result } from "../api/types";
import { revision, session, sourceFields, type Entry, type Session } from "./session";
import { settings, temperature } from "./settings";
import { byWindow, type Window } from "./windows";
import { notify } from "./notice";
import { interrupt, isGone, onResume } from "./server";

export interface Job {
  id: number;
  session: string;
  controller: AbortController;
  total: number;
  done: number;
  inQueue: number;
}

export const jobs = signal<readonly Job[]>([]);
export const busy = computed(() => jobs.value.length > 0);
const MOST_POSITIONS = 512;
const RETRIES = 4;
const FEW = 4;
const REVISE_MS = 250;
let nextId = 1;

/** The body of the request that reads `positions`, also what "copy as curl" shows. */
export function explainBody(of: Session, positions: number[], stream: boolean, source?: object): object {
  const { samples, topP, maxNewTokens, seed } = settings.value;
  return {
    ...(source ?? sourceFields(of.source)),
    ...(of.document ? { document: of.document } : {}),
    positions, samples, temperature: temperature(), top_p: topP, max_new_tokens: maxNewTokens,
    seed, reverse: false, stream,
  };
}

/** Reads tokens; those already under way are left alone. Returns when all are read or failed. */
export async function explain(positions: Iterable<number>): Promise<void> {
  const of = session.value;
  if (of === null) return;
  const wanted = [...positions].filter((place) => {
    const phase = of.entries[place]?.phase.value;
    return phase !== undefined && phase !== "queued" && phase !== "writing";
  });
  for (let from = 0; from < wanted.length; from += MOST_POSITIONS) {
    if (!(await run(of, wanted.slice(from, from + MOST_POSITIONS)))) return;
  }
}

/** Reads those of `positions` that have no explanation yet. */
export function explainMissing(positions: Iterable<number>): Promise<void> {
  const entries = session.value?.entries ?? [];
  return explain([...positions].filter((place) => entries[place]?.result.value == null));
}

export function cancelAll(): void {
  for (const job of jobs.value) job.controller.abort();
}

async function run(of: Session, positions: number[]): Promise<boolean> {
  const job: Job = {
    id: nextId++, session: of.id, controller: new AbortController(),
    total: positions.length, done: 0, inQueue: 0,
  };
  jobs.value = [...jobs.value, job];
  batch(() => positions.forEach((place) => enter(of.entries[place])));
  revision.value += 1;
  try {
    await attempt(of, positions, job, RETRIES);
    return true;
  } catch (error) {
    settle(of, positions, job, error);
    return false;
  } finally {
    jobs.value = jobs.value.filter((each) => each.id !== job.id);
    batch(() => positions.forEach((place) => leave(of.entries[place])));
    revision.value += 1;
  }
}

function enter(entry: Entry | undefined): void {
  if (!entry) return;
  entry.phase.value = "queued";
  entry.writing.value = "";
  entry.error.value = "";
}

/** Whatever was neither read nor refused goes back to what it was. */
function leave(entry: Entry | undefined): void {
  if (!entry || entry.phase.value === "scored" || entry.phase.value === "failed") return;
  entry.phase.value = entry.result.value ? "scored" : "idle";
  entry.writing.value = "";
}

async function attempt(of: Session, positions: number[], job: Job, left: number): Promise<void> {
  try {
    if (of.windows.length === 0) await ask(of, positions, job, null);
    for (const [window, own] of byWindow(of.windows, positions)) {
      await ask(of, own.filter((place) => isOpen(of.entries[place])), job, window);
    }
  } catch (error) {
    if (!(error instanceof ApiError) || error.retryAfter === null || left === 0) throw error;
    notify(`The server is busy; trying again in ${error.retryAfter} s.`);
    await pause(error.retryAfter * 1000, job.controller.signal);
    await attempt(of, positions, job, left - 1);
  }
}

/** One request; of a long text, the positions of one window, counted as the window counts them. */
async function ask(of: Session, positions: number[], job: Job, window: Window | null): Promise<void> {
  if (positions.length === 0) return;
  const shift = window ? window.first - window.skip : 0;
  const body = explainBody(of, positions.map((place) => place - shift), true, window ? { text: window.text } : undefined);
  const queue = positions.length > FEW ? "many" : "few";
  await pour(of, shifted(api.explain(body, queue, job.controller.signal), shift), job);
}

async function* shifted(stream: AsyncGenerator<Frame>, by: number): AsyncGenerator<Frame> {
  for await (const frame of stream) {
    yield by !== 0 && frame.position !== undefined ? { ...frame, position: frame.position + by } : frame;
  }
}

async function pour(of: Session, stream: AsyncGenerator<Frame>, job: Job): Promise<void> {
  let waiting: Frame[] = [];
  let scheduled = 0;
  const flush = () => {
    scheduled = 0;
    const taken = waiting;
    waiting = [];
    batch(() => taken.forEach((frame) => take(of, frame, job)));
  };
  try {
    for await (const frame of stream) {
      waiting.push(frame);
      // A hidden tab gets no animation frames; a timer still runs there.
      scheduled ||= document.hidden ? setTimeout(flush, 100) : requestAnimationFrame(flush);
    }
  } finally {
    flush();
  }
}

function take(of: Session, frame: Frame, job: Job): void {
  if (frame.error != null) return takeError(of, frame, job);
  if (frame.queued === true) return takeQueued(frame, job);
  if (frame.total !== undefined) return;
  const entry = frame.position === undefined ? undefined : of.entries[frame.position];
  if (!entry) return;
  if (frame.done === false) {
    entry.phase.value = "writing";
    entry.writing.value = frame.text ?? "";
  } else if (frame.description !== undefined) {
    entry.result.value = frame as Result;
    entry.phase.value = "scored";
    entry.writing.value = "";
    advance(job);
  }
}

function takeError(of: Session, frame: Frame, job: Job): void {
  const entry = frame.position === undefined ? undefined : of.entries[frame.position];
  if (!entry) throw new ApiError(200, frame.error ?? "The server could not go on.");
  entry.phase.value = "failed";
  entry.error.value = frame.error ?? "";
  advance(job);
}

function takeQueued(frame: Frame, job: Job): void {
  job.inQueue = frame.position_in_queue ?? 0;
  jobs.value = [...jobs.value];
}

function advance(job: Job): void {
  job.done += 1;
  job.inQueue = 0;
  jobs.value = [...jobs.value];
  reviseSoon();
}

let revising = 0;

/** What sums over all tokens is redrawn a few times a second, not at every word. */
function reviseSoon(): void {
  revising ||= window.setTimeout(() => {
    revising = 0;
    revision.value += 1;
  }, REVISE_MS);
}

/** Whether a token was asked for and is neither read nor refused. */
function isOpen(entry: Entry | undefined): boolean {
  return entry !== undefined && (entry.phase.value === "queued" || entry.phase.value === "writing");
}

onResume((positions) => void explain(positions));

function settle(of: Session, positions: number[], job: Job, error: unknown): void {
  if (job.controller.signal.aborted) return;
  if (isGone(error)) return interrupt(of.id, positions.filter((place) => isOpen(of.entries[place])));
  const message = error instanceof Error ? error.message : String(error);
  notify(message, "bad");
  batch(() => positions.forEach((place) => {
    const entry = of.entries[place];
    if (!entry || entry.phase.value === "scored" || entry.phase.value === "failed") return;
    entry.phase.value = "failed";
    entry.error.value = message;
  }));
}

function pause(milliseconds: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    stop.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}
