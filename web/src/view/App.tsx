/** The page as a whole. */
import { useLayoutEffect } from "preact/hooks";
import { api, secretWanted } from "../api/client";
import { Desk } from "../desk/Desk";
import { leaveWithReadings, loadProjects, place as desk } from "../desk/state";
import { attempted, notice } from "../state/notice";
import { loadLatents } from "../state/latents";
import { followAddress, openAddress } from "../state/link";
import { loadPassages } from "../state/passages";
import { composing, models, session } from "../state/session";
import { grades, rangeOf } from "../text/fidelity";
import { Composer } from "./Composer";
import { opened } from "./Dialog";
import { AboutDialog, SecretDialog, SettingsDialog, VectorDialog } from "./dialogs";
import { Header } from "./Header";
import { DualMapDialog } from "./DualMap";
import { LatentsDialog } from "./Latents";
import { HistoryDialog, SearchDialog } from "./library";
import { Reading } from "./Reading";
import { ShareDialog } from "./Share";
import { Warnings } from "./Start";
import { Stopped } from "./Stopped";
import { Timeline } from "./Timeline";
import { Heading, Toolbar } from "./Toolbar";
import { Tour } from "./Tour";
import { Transcript } from "./Transcript";

async function begin(): Promise<void> {
  const answer = await attempted(api.models);
  if (answer === null) return;
  models.value = answer.models;
  await Promise.all([loadPassages(), loadProjects(), openAddress(), loadLatents()]);
  leaveWithReadings();
}

export function App() {
  useLayoutEffect(() => {
    void begin().then(followAddress);
    document.addEventListener("keydown", shortcut);
    return () => document.removeEventListener("keydown", shortcut);
  }, []);
  const of = session.value;
  return (
    <>
      <Header />
      <Stopped />
      <Warnings />
      <main>
        {desk.value !== null
          ? <Desk />
          : of === null || composing.value
          ? <Composer key={of?.id ?? "first"} />
          : (
            <div class="workspace">
              <div class="left">
                <Heading of={of} />
                <Toolbar of={of} />
                <div class="sheet" data-tour="transcript">
                  <Transcript key={of.id} of={of} />
                </div>
                <Legend />
                <Timeline of={of} />
              </div>
              <Reading of={of} />
            </div>
          )}
      </main>
      <Windows />
      <Tour />
      <div class="notices" role="status" aria-live="polite">
        {notice.value && <p class={`notice notice-${notice.value.tone}`}>{notice.value.text}</p>}
      </div>
    </>
  );
}

function Windows() {
  if (secretWanted.value) return <SecretDialog onDone={() => void begin()} />;
  switch (opened.value) {
    case "search": return <SearchDialog />;
    case "history": return <HistoryDialog />;
    case "settings": return <SettingsDialog />;
    case "vector": return <VectorDialog />;
    case "about": return <AboutDialog />;
    case "share": return <ShareDialog />;
    case "latents": return <LatentsDialog />;
    case "latent-map": return <DualMapDialog of="latents" />;
    case "reading-map": return <DualMapDialog of="readings" />;
    default: return null;
  }
}

function Legend() {
  return (
    <ul class="legend" aria-label="What the shading means">
      {grades().map((each) => (
        <li key={each.key} title={each.meaning}>
          <span class={`token scored swatch shade-${each.key}`} aria-hidden="true">Aa</span>
          {each.word}
          <small>{rangeOf(each)}</small>
        </li>
      ))}
    </ul>
  );
}

function shortcut(event: KeyboardEvent): void {
  const target = event.target;
  if (target instanceof HTMLElement && target.closest("input, textarea, select, dialog")) return;
  const find = event.key === "/" || (event.key === "k" && (event.ctrlKey || event.metaKey));
  if (!find || opened.value !== null) return;
  event.preventDefault();
  opened.value = "search";
}
