/** The bar at the top: what reads, and the ways to what was read before. */
import { goTo, place as desk, projects } from "../desk/state";
import { busy } from "../state/explain";
import { composing, model, session } from "../state/session";
import { change, settings } from "../state/settings";
import { opened, type DialogName } from "./Dialog";
import { Icon, type IconName } from "./Icon";
import { beginTour } from "./Tour";

export function Header() {
  return (
    <header class="top">
      <h1 class="brand">
        <span class="brand-mark" data-busy={busy.value} aria-hidden="true" />
        nlakit
      </h1>
      {model.value && (
        <button type="button" class="plain model" onClick={() => (opened.value = "about")} title="About the NLA">
          <span class="sr-only">About the NLA</span>
          <span class="model-name">{model.value.name}</span>
          <span class="model-layer">layer {model.value.layer}</span>
        </button>
      )}
      <nav class="top-tools" aria-label="Page">
        {desk.value !== null && (
          <button type="button" class="plain square" aria-label="Back to reading" title="Back to reading"
            onClick={() => (desk.value = null)}>
            <Icon name="close" />
          </button>
        )}
        {projects.value.length > 0 && desk.value === null && (
          <button type="button" class="plain square" aria-label="Projects" title="Projects" onClick={() => void goTo(NOWHERE)}>
            <Icon name="projects" />
          </button>
        )}
        {session.value && !composing.value && (
          <button type="button" class="plain" onClick={() => (composing.value = true)}>
            <Icon name="add" /><span class="wide-only">New text</span>
            <span class="sr-only narrow-only">New text</span>
          </button>
        )}
        <Opener name="search" icon="search" label="Search explanations" />
        {model.value?.has_latents && <Opener name="latents" icon="latents" label="Latents" />}
        {model.value?.has_reading_map && <Opener name="reading-map" icon="map" label="Two NLAs' readings on one map" />}
        <Opener name="history" icon="history" label="History" />
        <Opener name="settings" icon="settings" label="How to read" />
        <ThemeButton />
        <button type="button" class="plain square" aria-label="Tour of the page" title="Tour of the page"
          onClick={beginTour}>
          <Icon name="tour" />
        </button>
      </nav>
    </header>
  );
}

function Opener({ name, icon, label }: { name: DialogName; icon: IconName; label: string }) {
  return (
    <button type="button" class="plain square" aria-label={label} title={label} data-tour={name}
      onClick={() => (opened.value = name)}>
      <Icon name={icon} />
    </button>
  );
}

const NOWHERE = { project: "", transcript: "", position: -1, beside: "" };

const NEXT_THEME = { system: "light", light: "dark", dark: "system" } as const;

function ThemeButton() {
  const { theme } = settings.value;
  const label = `Theme: ${theme === "system" ? "as the system" : theme}`;
  return (
    <button type="button" class="plain square" aria-label={label} title={label}
      onClick={() => change({ theme: NEXT_THEME[theme] })}>
      <Icon name={theme} />
    </button>
  );
}
