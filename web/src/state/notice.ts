/** One line at the foot of the page that goes away by itself. */
import { signal } from "@preact/signals";
import { ApiError } from "../api/client";
import { stopped } from "./server";

export interface Notice {
  text: string;
  tone: "plain" | "bad";
}

export const notice = signal<Notice | null>(null);
let timer = 0;

export function notify(text: string, tone: Notice["tone"] = "plain"): void {
  notice.value = { text, tone };
  clearTimeout(timer);
  timer = window.setTimeout(() => (notice.value = null), tone === "bad" ? 9000 : 4000);
}

/** Runs something that may fail and says so at the foot of the page; null where it failed. */
export async function attempted<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    // The page asks for the secret by itself.
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) return null;
    if (error instanceof ApiError && error.status === 0) {
      stopped.value = true;
      return null;
    }
    notify(error instanceof Error ? error.message : String(error), "bad");
    return null;
  }
}
