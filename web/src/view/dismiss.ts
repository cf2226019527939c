/** Closes something that opened over the page: by Escape, or by pressing outside of it. */
import type { RefObject } from "preact";
import { useLayoutEffect } from "preact/hooks";

export function useDismiss(open: boolean, box: RefObject<HTMLElement | null>, close: () => void): void {
  // Before the paint: who sees it open can already close it.
  useLayoutEffect(() => {
    if (!open) return;
    const away = (event: Event) => {
      if (event.target instanceof Node && !box.current?.contains(event.target)) close();
    };
    const escape = (event: KeyboardEvent) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
      box.current?.querySelector("button")?.focus();
    };
    document.addEventListener("pointerdown", away);
    document.addEventListener("keydown", escape, true);
    return () => {
      document.removeEventListener("pointerdown", away);
      document.removeEventListener("keydown", escape, true);
    };
  }, [open]);
}
