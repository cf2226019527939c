// Writes the hash of what was generated from, so that a test without Node can tell a stale file.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";

const SOURCES = ["src", "public", "index.html", "vite.config.ts", "package-lock.json"];
const STAMPS = { build: "../src/nlakit/serve/static/sources.sha256", types: "src/api/schema.sha256" };

function filesOf(path) {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).flatMap((name) => filesOf(join(path, name)));
}

/** One hash over names and contents, in the order of the names. */
function hashOf(paths, root) {
  const hash = createHash("sha256");
  const named = paths.flatMap(filesOf).map((path) => relative(root, path).replaceAll("\\", "/"));
  for (const name of named.sort()) hash.update(name).update("\0").update(readFileSync(join(root, name)));
  return hash.digest("hex");
}

const kind = process.argv[2];
const sources = kind === "types" ? ["../src/nlakit/serve/openapi.json"] : SOURCES;
writeFileSync(STAMPS[kind], `${hashOf(sources, kind === "types" ? "../src/nlakit/serve" : ".")}\n`);
