/** The calls the page makes. Every one goes to the server it came from, and nowhere else. */
import { signal } from "@preact/signals";
import type {
  ChatFrame, Compared, Described, DetectorHits, ExtractedToken, Frame, ModelInfo, OpenTranscript, Passage,
  ProjectHead, SavedHead, SavedList, SavedReading, Scored, Steered, ThoughtHit, Tokenized, TranscriptHead,
} from "./types";
import { frames } from "./sse";

/** The server's secret, for as long as the tab lives; never written into a reading or a link. */
export const secret = signal(readSecret());
export const secretWanted = signal(false);

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

const GONE = "The server does not answer. Is `nlakit serve` still running?";

function readSecret(): string {
  try {
    return sessionStorage.getItem("nlakit.secret") ?? "";
  } catch {
    return "";
  }
}

export function setSecret(value: string): void {
  secret.value = value;
  secretWanted.value = false;
  try {
    sessionStorage.setItem("nlakit.secret", value);
  } catch {
    // Kept in memory only, then.
  }
}

/** The server serves its clients in turn: this page is two, so that a click overtakes "all". */
const PAGE = `page-${crypto.getRandomValues(new Uint32Array(1))[0]?.toString(36) ?? "0"}`;

async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (secret.value !== "") headers.set("X-SECRET-KEY", secret.value);
  if (init.body != null) headers.set("Content-Type", "application/json");
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, credentials: "omit" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, GONE);
  }
  if (!response.ok) throw await asError(response);
  return response;
}

async function asError(response: Response): Promise<ApiError> {
  if (response.status === 401 || response.status === 403) secretWanted.value = true;
  const retry = Number(response.headers.get("Retry-After"));
  const body: unknown = await response.json().catch(() => null);
  return new ApiError(response.status, detailOf(body, response.status), retry > 0 ? retry : null);
}

/** FastAPI's `detail` is a sentence, or for a bad field a list of what is wrong with each. */
function detailOf(body: unknown, status: number): string {
  const detail = body !== null && typeof body === "object" && "detail" in body ? body.detail : null;
  if (typeof detail === "string") return detail;
  if (!Array.isArray(detail)) return `The server answered ${status}.`;
  const lines = detail.map((each: { loc?: unknown[]; msg?: string }) =>
    `${(each.loc ?? []).slice(1).join(".")}: ${each.msg ?? "is not accepted"}`);
  return lines.join("; ");
}

export async function getJson<T>(path: string): Promise<T> {
  return (await call(path)).json() as Promise<T>;
}

export async function postJson<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = { method: "POST", body: JSON.stringify(body) };
  if (signal) init.signal = signal;
  return (await call(path, init)).json() as Promise<T>;
}

function projectPath(project: string): string {
  return `/v1/projects/${encodeURIComponent(project)}`;
}

export const api = {
  models: () => getJson<{ models: ModelInfo[] }>("/v1/models"),
  passages: () => getJson<{ passages: Passage[] }>("/v1/passages"),
  tokenize: (body: object) => postJson<Tokenized>("/tokenize", body),
  complete: (body: object) => postJson<Tokenized>("/completion", body),
  describe: (body: object) => postJson<{ results: Described[] }>("/v1/describe", body),
  compare: (body: object) => postJson<Compared>("/compare", body),
  steer: (body: object) => postJson<Steered>("/v1/steer", body),
  score: (body: object) =>
    postJson<Scored>("/score", body),
  extract: (body: object) => postJson<{ tokens: ExtractedToken[] }>("/v1/extract", body),
  save: (title: string, reading: object) =>
    postJson<SavedHead>("/v1/readings", { title, reading }),
  saved: (q: string, limit: number, offset: number) => {
    const query = new URLSearchParams({ limit: String(limit), offset: String(offset) });
    if (q.trim() !== "") query.set("q", q);
    return getJson<SavedList>(`/v1/readings?${query}`);
  },
  open: (id: string) =>
    getJson<SavedReading>(`/v1/readings/${encodeURIComponent(id)}`),
  projects: () => getJson<{ projects: ProjectHead[] }>("/v1/projects"),
  projectTranscripts: (project: string, limit: number, offset: number) =>
    getJson<{ transcripts: TranscriptHead[]; total: number }>(
      `${projectPath(project)}/transcripts?limit=${limit}&offset=${offset}`),
  projectTranscript: (project: string, id: string) =>
    getJson<OpenTranscript>(`${projectPath(project)}/transcripts/${encodeURIComponent(id)}`),
  projectSearch: (project: string, q: string, meaning: boolean) =>
    getJson<{ results: ThoughtHit[] }>(
      `${projectPath(project)}/search?${new URLSearchParams({ q, meaning: String(meaning), limit: "30" })}`),
  projectDetect: (project: string, phrases: string[]) =>
    getJson<DetectorHits>(
      `${projectPath(project)}/detect?${new URLSearchParams(phrases.map((each) => ["phrase", each]))}`),
  forget: (id: string) => call(`/v1/readings/${encodeURIComponent(id)}`, { method: "DELETE" }),

  /** What the target answers to a conversation, word by word, and at last the whole. */
  async *chat(messages: object[], tokens: number, signal: AbortSignal): AsyncGenerator<ChatFrame> {
    const body = { messages, completion_tokens: tokens, stream: true };
    const response = await call("/v1/chat", { method: "POST", body: JSON.stringify(body), signal });
    for await (const data of frames(response)) {
      const frame = JSON.parse(data) as ChatFrame | { error: string };
      if ("error" in frame) throw new ApiError(500, frame.error);
      yield frame;
    }
  },

  /** Frames of an explanation as they are written; ends after the last, throws if cut short. */
  async *explain(body: object, queue: string, signal: AbortSignal): AsyncGenerator<Frame> {
    const headers = { "X-Client-Id": `${PAGE}-${queue}` };
    const init = { method: "POST", body: JSON.stringify(body), headers, signal };
    const response = await call("/v1/explain", init);
    try {
      for await (const data of frames(response)) yield JSON.parse(data) as Frame;
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new ApiError(0, GONE);
    }
  },
};
