/** Model output as text nodes, what cannot be seen made visible. */
import { pieces } from "../text/visible";

export function Shown({ text }: { text: string }) {
  return (
    <>
      {pieces(text).map((piece) =>
        piece.mark
          ? <span class="unseen" title={piece.mark} role="img" aria-label={piece.mark}>{piece.text}</span>
          : piece.text)}
    </>
  );
}
