/** The text, token by token, shaded by fidelity; where tokens are chosen. */
import { signal, useComputed } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { TokenInfo } from "../api/types";
import { explainMissing } from "../state/explain";
import {
  focus, isChat, isTemplate, moveTo, pins, select, selection, session, type Entry, type Session,
} from "../state/session";
import { settings } from "../state/settings";
import { grade, number } from "../text/fidelity";
import { tokenName, withSpaces } from "../text/visible";
import { Icon } from "./Icon";
import { Shown } from "./Shown";
import { TurnEditor } from "./TurnEditor";

/** On touch there is no shift: while this is on, a tap selects up to the token tapped. */
export const rangeMode = signal(false);
const editing = signal<{ session: string; turn: number } | null>(null);

interface Block {
  role: string | null;
  turn: number | null;
  tokens: TokenInfo[];
}

function blocks(of: Session): Block[] {
  const found: Block[] = [];
  for (const token of of.tokens) {
    const last = found.at(-1);
    const [role, turn] = [token.role ?? null, token.message_index ?? null];
    if (last && last.turn === turn && last.role === role) last.tokens.push(token);
    else found.push({ role, turn, tokens: [token] });
  }
  return found;
}

export function Transcript({ of }: { of: Session }) {
  const box = useRef<HTMLDivElement>(null);
  const { whitespace, template } = settings.value;
  return (
    <div class="transcript" ref={box} role="group" aria-label={`The text, ${of.tokens.length} tokens`}
      aria-describedby="transcript-help" data-whitespace={whitespace} data-template={template}
      {...pointing(box)} onKeyDown={(event) => steer(event, box.current)} onCopy={(event) => copyOut(event, of)}>
      <p id="transcript-help" class="sr-only">
        Arrow keys move from token to token, with Shift they select. Enter reads what is selected.
      </p>
      <Follow box={box} />
      {blocks(of).map((block, index) => <BlockView key={index} of={of} block={block} />)}
    </div>
  );
}

/** The text of the selected tokens; of all where no more than one is selected. */
export function selectedText(of: Session): string {
  const chosen = selection.value.size > 1 ? selection.value : null;
  const tokens = of.tokens.filter((token) => token.fragment_index === 0 && (chosen === null || chosen.has(token.position)));
  if (chosen !== null || isChat(of.source)) return tokens.filter((token) => chosen !== null || !isTemplate(token)).map((token) => token.token).join("");
  return of.source.text;
}

function copyOut(event: ClipboardEvent, of: Session): void {
  event.clipboardData?.setData("text/plain", selectedText(of));
  event.preventDefault();
}

/** Keeps the token in focus in view. Its own component: a move must not redraw the text. */
function Follow({ box }: { box: { current: HTMLDivElement | null } }) {
  const place = focus.value;
  useEffect(() => {
    tokenElement(box.current, place)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [place]);
  return null;
}

function BlockView({ of, block }: { of: Session; block: Block }) {
  const tokens = block.tokens.map((token) => {
    const entry = of.entries[token.position];
    return entry && <Token key={token.position} token={token} entry={entry} />;
  });
  if (!isChat(of.source)) return <div class="prose">{tokens}</div>;
  const open = editing.value;
  const turn = block.turn;
  const isOpen = open !== null && open.session === of.id && open.turn === turn;
  return (
    <section class="turn" data-role={block.role ?? "none"} aria-label={`${block.role ?? "template"} turn`}>
      <header class="turn-head">
        <span class="turn-role">{block.role ?? "template"}{turn === null && block.role ? ", next" : ""}</span>
        {turn !== null && !isOpen && (
          <button type="button" class="plain square small" aria-label={`Edit the ${block.role} turn`}
            onClick={() => (editing.value = { session: of.id, turn })}>
            <Icon name="edit" />
          </button>
        )}
      </header>
      {isOpen && turn !== null
        ? <TurnEditor of={of} turn={turn} onClose={() => (editing.value = null)} />
        : <div class="prose">{tokens}</div>}
    </section>
  );
}

function Token({ token, entry }: { token: TokenInfo; entry: Entry }) {
  const place = token.position;
  const mark = isTemplate(token) || token.token.trim() === "";
  // Bound to the element itself: a new focus or score repaints no other token.
  const look = useComputed(() => {
    const phase = entry.phase.value;
    const result = entry.result.value;
    const shade = phase === "scored" && result ? ` shade-${grade(result.fidelity).key}` : "";
    const chosen = selection.value.has(place) ? " selected" : "";
    const here = focus.value === place ? " focused" : "";
    const pinned = pins.value.includes(place) ? " pinned" : "";
    return `token ${phase}${shade}${chosen}${here}${pinned}${mark ? " template" : ""}`;
  });
  const label = useComputed(() => `${tokenName(token.token) || "empty"}, ${stateWords(entry)}`);
  const pressed = useComputed(() => (selection.value.has(place) ? "true" : "false"));
  const tab = useComputed(() => (place === Math.max(0, focus.value) ? 0 : -1));
  return (
    <span role="button" class={look} aria-label={label} aria-pressed={pressed} tabIndex={tab} data-place={place}>
      <Shown text={faceOf(token)} />
    </span>
  );
}

/** A character spread over several tokens stands on the first; the others show their number. */
function faceOf(token: TokenInfo): string {
  if (token.fragment_index > 0) return `‹${token.fragment_index + 1}›`;
  // A line end alone is a token like any other: without a sign it could not be pointed at.
  const alone = /^\s*\n\s*$/.test(token.token);
  return settings.value.whitespace || alone ? withSpaces(token.token) : token.token;
}

function stateWords(entry: Entry): string {
  const phase = entry.phase.value;
  const result = entry.result.value;
  if (phase === "scored" && result) {
    return `fidelity ${number(result.fidelity)}, ${grade(result.fidelity).word}`;
  }
  if (phase === "failed") return `failed: ${entry.error.value}`;
  return { idle: "not read yet", queued: "queued", writing: "being written", scored: "read" }[phase];
}

// -- pointing ----------------------------------------------------------------------------------

function placeOf(target: EventTarget | null): number | null {
  const token = target instanceof Element ? target.closest<HTMLElement>("[data-place]") : null;
  return token ? Number(token.dataset["place"]) : null;
}

function pointing(box: { current: HTMLDivElement | null }) {
  const drag = useRef<{ from: number; last: number; moved: boolean } | null>(null);
  const moved = useRef(false);
  return {
    onPointerDown: (event: PointerEvent) => {
      const from = event.button === 0 && !event.shiftKey ? placeOf(event.target) : null;
      drag.current = from === null ? null : { from, last: from, moved: false };
      moved.current = false;
    },
    onPointerMove: (event: PointerEvent) => {
      const now = drag.current;
      if (now === null || event.buttons === 0) return;
      const place = placeOf(document.elementFromPoint(event.clientX, event.clientY));
      if (place === null || place === now.last) return;
      if (!now.moved) moveTo(now.from);
      drag.current = { ...now, last: place, moved: true };
      moved.current = true;
      moveTo(place, "extend");
    },
    onPointerUp: () => (drag.current = null),
    onPointerCancel: () => (drag.current = null),
    onClick: (event: MouseEvent) => {
      const place = placeOf(event.target);
      if (place === null || moved.current) return;
      const how = howOf(event);
      moveTo(place, how);
      tokenElement(box.current, place)?.focus({ preventScroll: true });
      if (how === "only" && settings.value.onClick) void explainMissing([place]);
    },
  };
}

function howOf(event: MouseEvent): "only" | "extend" | "toggle" {
  if (event.shiftKey || rangeMode.value) return "extend";
  return event.ctrlKey || event.metaKey ? "toggle" : "only";
}

// -- keys --------------------------------------------------------------------------------------

function tokenElement(box: HTMLElement | null, place: number): HTMLElement | null {
  return box?.querySelector<HTMLElement>(`[data-place="${place}"]`) ?? null;
}

function steer(event: KeyboardEvent, box: HTMLElement | null): void {
  const size = session.value?.tokens.length ?? 0;
  if (placeOf(event.target) === null || event.altKey) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return void explainMissing(selection.value.size ? selection.value : [Math.max(0, focus.value)]);
  }
  if (event.key === "Escape") return select([]);
  if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return select(Array.from({ length: size }, (_, place) => place));
  }
  if (event.key === "c" && (event.ctrlKey || event.metaKey)) return copyKey();
  const next = target(event.key, box, size);
  if (next === null) return;
  event.preventDefault();
  moveTo(next, event.shiftKey ? "extend" : "only");
  tokenElement(box, focus.value)?.focus();
}

/** The browser copies only where something is selected in its own sense. */
function copyKey(): void {
  const of = session.value;
  if (of !== null) void navigator.clipboard?.writeText(selectedText(of)).catch(() => undefined);
}

function target(key: string, box: HTMLElement | null, size: number): number | null {
  const here = Math.max(0, focus.value);
  if (key === "ArrowRight") return nextShown(box, here, 1, size);
  if (key === "ArrowLeft") return nextShown(box, here, -1, size);
  if (key === "Home") return nextShown(box, -1, 1, size);
  if (key === "End") return size - 1;
  if (key === "ArrowDown") return lineAway(box, here, 1, size);
  if (key === "ArrowUp") return lineAway(box, here, -1, size);
  return null;
}

/** The next token that is on the page: hidden template tokens are stepped over. */
function nextShown(box: HTMLElement | null, from: number, step: number, size: number): number {
  for (let place = from + step; place >= 0 && place < size; place += step) {
    if (tokenElement(box, place)?.getClientRects().length) return place;
  }
  return Math.max(0, from);
}

/** The token nearest to this one's middle on the line above or below. */
function lineAway(box: HTMLElement | null, here: number, step: number, size: number): number {
  const from = tokenElement(box, here)?.getBoundingClientRect();
  if (!from) return here;
  let best = here;
  let gap = Infinity;
  let line: number | null = null;
  for (let place = here + step; place >= 0 && place < size; place += step) {
    const rect = tokenElement(box, place)?.getBoundingClientRect();
    if (!rect || rect.height === 0 || Math.abs(rect.top - from.top) < 4) continue;
    line ??= rect.top;
    if (Math.abs(rect.top - line) > 4) break;
    const away = Math.abs(rect.left + rect.width / 2 - from.left - from.width / 2);
    if (away < gap) [best, gap] = [place, away];
  }
  return best;
}
