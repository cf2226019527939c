/** The auditor's desk: which project and transcript are open, and what was found in them. */
import { effect, signal } from "@preact/signals";
import { api } from "../api/client";
import type { DetectorHits, OpenTranscript, ProjectHead, ThoughtHit, TranscriptHead } from "../api/types";
import { attempted } from "../state/notice";
import { composing, session } from "../state/session";

/** Where the desk is; empty names: the list of projects, or the project's own page. */
export interface DeskPlace {
  project: string;
  transcript: string;
  position: number;
  /** Id of another transcript of the project, or `@PROJECT`: the same one, read by another model. */
  beside: string;
}

export const place = signal<DeskPlace | null>(null);
export const projects = signal<ProjectHead[]>([]);

/** What stays while one goes from transcript to transcript of a project. */
export const query = signal({ text: "", meaning: false });
export const found = signal<ThoughtHit[] | null>(null);
export const phrases = signal("");
export const detected = signal<DetectorHits | null>(null);
export const listed = signal<{ transcripts: TranscriptHead[]; total: number } | null>(null);
export const opened = signal<Record<string, OpenTranscript>>({});
export const working = signal(false);

const PAGE = 50;

/** Whatever opens a reading or the composer closes the desk; call once. */
export function leaveWithReadings(): void {
  let first = true;
  effect(() => {
    [session.value, composing.value];
    if (!first) place.value = null;
    first = false;
  });
}

/** A server without projects, or one that is older, has none to show. */
export async function loadProjects(): Promise<void> {
  try {
    projects.value = (await api.projects()).projects;
  } catch {
    projects.value = [];
  }
}

async function busily<T>(work: () => Promise<T>): Promise<T | null> {
  working.value = true;
  try {
    return await attempted(work);
  } finally {
    working.value = false;
  }
}

export function deskIn(fields: URLSearchParams): DeskPlace | null {
  const project = fields.get("project");
  if (project === null) return null;
  const position = Number(fields.get("position") ?? "-1");
  return {
    project,
    transcript: fields.get("transcript") ?? "",
    position: Number.isInteger(position) ? position : -1,
    beside: fields.get("beside") ?? "",
  };
}

export function deskFields(at: DeskPlace): URLSearchParams {
  const fields = new URLSearchParams({ project: at.project });
  if (at.transcript !== "") fields.set("transcript", at.transcript);
  if (at.beside !== "") fields.set("beside", at.beside);
  if (at.transcript !== "" && at.position >= 0) fields.set("position", String(at.position));
  return fields;
}

/** Shows a place, and fetches what it needs. */
export async function goTo(at: DeskPlace): Promise<void> {
  if (place.value?.project !== at.project) forget();
  place.value = at;
  if (at.project === "") return;
  if (listed.value === null) await moreTranscripts();
  await Promise.all([fetchTranscript(at, at.transcript), fetchTranscript(at, besideKey(at))]);
}

function forget(): void {
  [found.value, detected.value, listed.value, opened.value] = [null, null, null, {}];
}

export async function moreTranscripts(): Promise<void> {
  const project = place.value?.project ?? "";
  const known = listed.value?.transcripts ?? [];
  const page = await busily(() => api.projectTranscripts(project, PAGE, known.length));
  if (page === null || place.value?.project !== project) return;
  listed.value = { transcripts: [...known, ...page.transcripts], total: page.total };
}

/** What the second sheet is kept under: an id, or `@PROJECT` with the id of the first. */
export function besideKey(at: DeskPlace): string {
  return at.beside.startsWith("@") ? `${at.beside}\n${at.transcript}` : at.beside;
}

async function fetchTranscript(at: DeskPlace, key: string): Promise<void> {
  if (key === "" || opened.value[key]) return;
  const [named, id] = key.startsWith("@") ? key.slice(1).split("\n") : [at.project, key];
  const made = await busily(() => api.projectTranscript(named ?? "", id ?? ""));
  if (made !== null && place.value?.project === at.project) {
    opened.value = { ...opened.value, [key]: made };
  }
}

export async function searchThoughts(): Promise<void> {
  const project = place.value?.project ?? "";
  const { text, meaning } = query.value;
  if (text.trim() === "") return void (found.value = null);
  const made = await busily(() => api.projectSearch(project, text, meaning));
  if (made !== null) found.value = made.results;
}

export async function askDetector(): Promise<void> {
  const project = place.value?.project ?? "";
  const wanted = phrases.value.split(",").map((each) => each.trim()).filter((each) => each !== "");
  if (wanted.length === 0) return void (detected.value = null);
  const made = await busily(() => api.projectDetect(project, wanted));
  if (made !== null) detected.value = made;
}

/** Positions of a transcript at which the detector's hits are not supported by its text. */
export function hitsIn(transcript: string): Set<number> {
  const one = detected.value?.transcripts.find((each) => each.transcript === transcript);
  return new Set(one?.positions ?? []);
}
