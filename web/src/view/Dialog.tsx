/** A modal window: the browser's own dialog, so that focus, Escape and the backdrop just work. */
import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { signal } from "@preact/signals";
import { Icon } from "./Icon";

export type DialogName = "search" | "history" | "settings" | "vector" | "about" | "secret" | "share"
  | "latents" | "latent-map" | "reading-map";
export const opened = signal<DialogName | null>(null);

interface Props {
  title: string;
  wide?: boolean;
  onClose?: () => void;
  children: ComponentChildren;
}

export function Dialog({ title, wide = false, onClose, children }: Props) {
  const box = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  const close = () => (onClose ? onClose() : (opened.value = null));
  useLayoutEffect(() => {
    const from = document.activeElement;
    box.current?.showModal();
    return () => from instanceof HTMLElement && from.focus();
  }, []);
  return (
    <dialog
      ref={box}
      class={wide ? "dialog wide" : "dialog"}
      aria-labelledby={titleId}
      onClose={close}
      onClick={(event) => event.target === box.current && box.current?.close()}
    >
      <div class="dialog-body">
        <header class="dialog-head">
          <h2 id={titleId}>{title}</h2>
          <button type="button" class="plain square" aria-label="Close" onClick={() => box.current?.close()}>
            <Icon name="close" />
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}
