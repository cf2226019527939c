/** Whether the server answers; where it stopped, what is to be continued once it is back. */
import { signal } from "@preact/signals";
import { api, ApiError } from "../api/client";

export const stopped = signal(false);
export const reconnecting = signal(false);

interface Interrupted {
  session: string;
  positions: number[];
}

let interrupted: Interrupted | null = null;
let resume: (positions: number[]) => void = () => {};

/** Whether an error says that the connection is gone, not that the server refused. */
export function isGone(error: unknown): boolean {
  return error instanceof ApiError && error.status === 0;
}

/** Remembers what was under way, for `reconnect` to continue. */
export function interrupt(session: string, positions: number[]): void {
  const before = interrupted?.session === session ? interrupted.positions : [];
  interrupted = { session, positions: [...new Set([...before, ...positions])] };
  stopped.value = true;
}

export function onResume(work: (positions: number[]) => void): void {
  resume = work;
}

/** Asks the server once; continues what was interrupted where it answers. */
export async function reconnect(session: string | null): Promise<boolean> {
  reconnecting.value = true;
  try {
    await api.models();
  } catch (error) {
    if (isGone(error)) return false;
  } finally {
    reconnecting.value = false;
  }
  stopped.value = false;
  const left = interrupted;
  interrupted = null;
  if (left !== null && left.session === session) resume(left.positions);
  return true;
}
