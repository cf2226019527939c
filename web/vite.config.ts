import { defineConfig } from "vite";

// The API that `npm run dev` talks to: a running `nlakit serve --no-browser`.
const API = "http://127.0.0.1:8000";
const PATHS = ["/v1", "/tokenize", "/completion", "/explain", "/score", "/compare", "/metrics"];

export default defineConfig({
  base: "/static/",
  build: {
    outDir: "../src/nlakit/serve/static",
    emptyOutDir: true,
    target: "es2022",
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    // Nothing inline: the page runs under a CSP that allows files of its own origin only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: Object.fromEntries(PATHS.map((path) => [path, { target: API, changeOrigin: true }])),
  },
});
