/** A button that opens a short list of actions. */
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { useDismiss } from "./dismiss";

export interface Action {
  label: string;
  hint?: string;
  run: () => void;
}

interface Props {
  label: string;
  children: ComponentChildren;
  actions: Action[];
  class?: string;
}

export function Menu({ label, children, actions, class: name = "plain" }: Props) {
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    if (open) box.current?.querySelector<HTMLElement>('[role="menuitem"]')?.focus();
  }, [open]);
  useDismiss(open, box, () => setOpen(false));
  const leave = () => {
    setOpen(false);
    box.current?.querySelector("button")?.focus();
  };
  return (
    <div class="menu" ref={box} onKeyDown={(event) => open && steer(event, leave)}>
      <button type="button" class={name} aria-label={label} title={label} aria-haspopup="menu"
        aria-expanded={open} onClick={() => setOpen(!open)}>
        {children}
      </button>
      {open && (
        <div class="menu-list" role="menu" aria-label={label}>
          {actions.map((action) => (
            <button key={action.label} type="button" role="menuitem" onClick={() => {
              leave();
              action.run();
            }}>
              <span>{action.label}</span>
              {action.hint && <small>{action.hint}</small>}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}

function steer(event: KeyboardEvent, leave: () => void): void {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Tab") return leave();
  if (step === undefined || !(event.currentTarget instanceof HTMLElement)) return;
  event.preventDefault();
  const items = [...event.currentTarget.querySelectorAll<HTMLElement>('[role="menuitem"]')];
  const at = items.indexOf(document.activeElement as HTMLElement);
  items[(at + step + items.length) % items.length]?.focus();
}
