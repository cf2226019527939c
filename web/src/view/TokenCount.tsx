/** How many tokens a text has, while it is typed, and what happens where they are too many. */
import { useEffect, useState } from "preact/hooks";
import { api, ApiError } from "../api/client";
import { model, sourceFields, type Source } from "../state/session";

const WAIT_MS = 350;

export function TokenCount({ source, ready }: { source: Source; ready: boolean }) {
  const [told, setTold] = useState("");
  const key = JSON.stringify(source);
  useEffect(() => {
    if (!ready) return setTold("");
    const timer = setTimeout(() => void count(source).then(setTold), WAIT_MS);
    return () => clearTimeout(timer);
  }, [key, ready]);
  return <span class="muted token-count" role="status">{told}</span>;
}

async function count(source: Source): Promise<string> {
  const most = model.value?.max_tokens;
  try {
    const { tokens } = await api.tokenize(sourceFields(source));
    return most ? `${tokens.length} of ${most} tokens` : `${tokens.length} tokens`;
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 400) return "";
    return "messages" in source
      ? `Longer than the ${most} tokens that the model reads: shorten the conversation.`
      : `Longer than the ${most} tokens that the model reads: it is read in overlapping windows.`;
  }
}
