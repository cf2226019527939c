/** How to read and how to show; kept in this browser. */
import { effect, signal } from "@preact/signals";

export interface Settings {
  theme: "system" | "light" | "dark";
  samples: number;
  temperature: number;
  topP: number;
  maxNewTokens: number;
  seed: number;
  onClick: boolean;
  whitespace: boolean;
  template: boolean;
  claimRows: string[];
  /** Claims said with less confidence than this are dimmed. */
  leastConfidence: number;
  toured: boolean;
}

const KEY = "nlakit.settings";
export const DEFAULTS: Settings = {
  theme: "system", samples: 1, temperature: 0, topP: 1, maxNewTokens: 120, seed: 0,
  onClick: true, whitespace: false, template: true, claimRows: ["mood", "next"], leastConfidence: 0,
  toured: false,
};

export const settings = signal<Settings>(stored());

function stored(): Settings {
  try {
    return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Settings>) };
  } catch {
    return { ...DEFAULTS };
  }
}

export function change(part: Partial<Settings>): void {
  settings.value = { ...settings.value, ...part };
}

/** The temperature in force: several samples at 0 would all be the same. */
export function temperature(): number {
  const { samples, temperature: chosen } = settings.value;
  return samples > 1 && chosen === 0 ? 1 : chosen;
}

effect(() => {
  const { theme } = settings.value;
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, JSON.stringify(settings.value));
  } catch {
    // A full or closed storage costs the next visit its settings, not this one its work.
  }
});
