/** Line icons, 20 × 20. They say nothing themselves: the button around them has the label. */
const PATHS = {
  search: "M9 3.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11ZM13.2 13.2 17 17",
  history: "M3.5 10a6.5 6.5 0 1 0 2-4.7M3.5 3.5v3h3M10 6.5V10l2.5 1.8",
  latents: "M3.5 16.5v-4M7.8 16.5v-9M12.2 16.5v-6M16.5 16.5v-13",
  map: "M5 6v.1M8.5 4.5v.1M7 9v.1M12.5 12v.1M15.5 10.5v.1M14 15.5v.1M3.5 3v14h13.5",
  settings: "M3 6h8M15 6h2M3 14h2M9 14h8M13 4.2v3.6M7 12.2v3.6",
  light: "M10 6.6a3.4 3.4 0 1 0 0 6.8 3.4 3.4 0 0 0 0-6.8ZM10 2v1.6M10 16.4V18M2 10h1.6M16.4 10H18M4.3 4.3l1.2 1.2M14.5 14.5l1.2 1.2M4.3 15.7l1.2-1.2M14.5 5.5l1.2-1.2",
  dark: "M16 11.6A6.6 6.6 0 0 1 8.4 4a6.5 6.5 0 1 0 7.6 7.6Z",
  system: "M3 4h14v9H3zM7 16.5h6M10 13v3.5",
  tour: "M7.6 7.4a2.5 2.5 0 1 1 3.5 2.6c-.8.4-1.1.9-1.1 1.8M10 14.4v.1M10 2.8a7.2 7.2 0 1 0 0 14.4 7.2 7.2 0 0 0 0-14.4Z",
  pin: "M10 12v5M6.5 3h7M7.5 3v4.5L5.5 12h9l-2-4.5V3",
  projects: "M3.5 5.5h5l1.5 2h6.5v8h-13zM3.5 5.5v10",
  copy: "M7 7h9v9H7zM4 13V4h9",
  share: "M8.3 11.7 11.7 8.3M9 6.2l1.6-1.6a3.4 3.4 0 0 1 4.8 4.8L13.8 11M11 13.8l-1.6 1.6a3.4 3.4 0 0 1-4.8-4.8L6.2 9",
  save: "M4 3.5h9.5L16.5 6.5v10H4zM7 3.5V8h5.5V3.5M7 16.5v-5h6.5v5",
  export: "M10 3v9M6.5 8.5 10 12l3.5-3.5M3.5 14v2.5h13V14",
  edit: "M4 16l.8-3.4L13 4.4a1.6 1.6 0 0 1 2.3 0l.3.3a1.6 1.6 0 0 1 0 2.3L7.4 15.2 4 16Z",
  add: "M10 4v12M4 10h12",
  close: "M5 5l10 10M15 5 5 15",
  remove: "M4 6h12M8 6V4h4v2M6 6l.6 10h6.8L14 6",
  again: "M16.5 10a6.5 6.5 0 1 1-2-4.7M16.5 3.5v3h-3",
  next: "M4 10h11M11 5.5l4.5 4.5-4.5 4.5",
  back: "M16 10H5M9 5.5 4.5 10 9 14.5",
  info: "M10 9v5M10 6.2v.1M10 2.8a7.2 7.2 0 1 0 0 14.4 7.2 7.2 0 0 0 0-14.4Z",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
