/** One banner for a server that stopped, instead of a failure at every token. */
import { useEffect } from "preact/hooks";
import { reconnect, reconnecting, stopped } from "../state/server";
import { session } from "../state/session";

const EVERY_MS = 5000;

export function Stopped() {
  const gone = stopped.value;
  useEffect(() => {
    if (!gone) return;
    const timer = setInterval(() => void reconnect(session.value?.id ?? null), EVERY_MS);
    return () => clearInterval(timer);
  }, [gone]);
  if (!gone) return null;
  return (
    <div class="banner" role="alert">
      <p><b>The server stopped.</b> What was read stays here. Start <code>nlakit serve</code> again; the rest is then read.</p>
      <button type="button" class="small" disabled={reconnecting.value}
        onClick={() => void reconnect(session.value?.id ?? null)}>
        {reconnecting.value ? "Trying…" : "Reconnect and continue"}
      </button>
    </div>
  );
}
