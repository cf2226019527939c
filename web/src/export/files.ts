/** A reading as JSON, CSV or an HTML page that needs nothing else. */
import type { Claim, Result } from "../api/types";
import type { Remark } from "../state/link";
import { toRecord } from "../state/record";
import { isChat, results, type Session } from "../state/session";
import { grade, number, scale } from "../text/fidelity";
import { plain, tokenName } from "../text/visible";
import { asReading } from "./reading";

export function download(name: string, content: Blob): void {
  const address = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export function fileName(of: Session, ending: string): string {
  const stem = of.title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `${stem || "reading"}.${ending}`;
}

/** What `nlakit.Reading.from_json` reads back. */
export function asJson(of: Session): string {
  return `${JSON.stringify(asReading(of), null, 2)}\n`;
}

const COLUMNS = [
  "position", "token", "sample", "explanation", "fidelity", "word", "cosine", "mse", "closed", "claims",
];

/** A line per token and sample, the columns of `Reading.to_csv`. */
export function asCsv(of: Session): string {
  const lines = results(of).flatMap((result) =>
    (result.samples?.length ? result.samples : [result]).map((sample, index) => [
      result.position, result.token, index, sample.description, sample.fidelity ?? "",
      grade(sample.fidelity).word, sample.cosine_similarity ?? "", sample.mse ?? "",
      sample.closed ?? true, claimsCell(sample.claims),
    ]));
  return [COLUMNS, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

/** `mood=sad (true, 0.97); topic=sea`: verdict and confidence where they are known. */
function claimsCell(claims: Claim[] | null | undefined): string {
  return (claims ?? []).map(({ kind, value, verdict, confidence }) => {
    const known = [verdict, confidence?.toFixed(2)].filter((each) => each != null).join(", ");
    return `${kind}=${value}${known ? ` (${known})` : ""}`;
  }).join("; ");
}

function cell(value: string | number | boolean): string {
  if (typeof value !== "string") return String(value);
  // A spreadsheet would run a cell that starts so; the apostrophe makes it text.
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n']/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function escape(text: string): string {
  return plain(text).replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

const PAGE_STYLE =
  "body{font:16px/1.55 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;"
  + "color-scheme:light dark}blockquote{white-space:pre-wrap;margin:1rem 0;padding-left:1rem;"
  + "border-left:3px solid #8886;line-height:1.9}td,th{text-align:left;vertical-align:top;padding:.35rem .8rem .35rem 0;"
  + "border-bottom:1px solid #8884}td:nth-child(2){font-family:Georgia,serif;overflow-wrap:anywhere}"
  + "td:last-child{white-space:nowrap}a{color:inherit;text-decoration:none}"
  + ".f{background:#94c5e6;color:#111}.p{background:#c3dff1;color:#111}.w{background:#e6f1f9;color:#111}"
  + ".d{background:#fae0c6;color:#111}.x{background:#f4c9a8;color:#111}.n{background:none}"
  + ".said{outline:2px solid #1c5d80}.note{padding:.75rem 1rem;border:1px solid #1c5d80;border-radius:8px}"
  + "small.c{display:block;color:#666}";
const SHADES = { faithful: "f", partly: "p", weak: "w", doubtful: "d", worse: "x", none: "n" };

/** A page that needs no server: the shaded text, every explanation with its claims, a comment. */
export function asHtml(of: Session, said: Remark | null = null): string {
  const record = toRecord(of);
  const note = said?.text ? `<p class="note">${escape(said.text)}</p>` : "";
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escape(of.title)}</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>${PAGE_STYLE}</style></head><body>
<h1>${escape(of.title)}</h1>${note}<blockquote>${shaded(of, new Set(said?.positions))}</blockquote>
<table><thead><tr><th>token</th><th>explanation</th><th>fidelity</th></tr></thead><tbody>
${results(of).map(row).join("\n")}
</tbody></table><p><small>Read by ${escape(record.nla)}. ${escape((scale()?.about ?? []).join(" "))}
${escape(floors(record.floors))}</small></p></body></html>
`;
}

/** The text with each token that was read shaded, and linked to its row. */
function shaded(of: Session, said: ReadonlySet<number>): string {
  return of.tokens.filter((token) => token.fragment_index === 0).map((token) => {
    const result = of.entries[token.position]?.result.peek();
    const start = isChat(of.source) && token.section === "header" ? `<b>${escape(token.token)}</b>` : escape(token.token);
    const mark = said.has(token.position) ? " said" : "";
    if (!result) return mark ? `<span class="said">${start}</span>` : start;
    return `<a href="#t${token.position}" class="${SHADES[grade(result.fidelity).key]}${mark}">${start}</a>`;
  }).join("");
}

function row(result: Result): string {
  const words = `${number(result.fidelity)} ${grade(result.fidelity).word}`;
  const claims = claimsCell(result.claims);
  return `<tr id="t${result.position}"><td><code>${escape(tokenName(result.token))}</code></td>`
    + `<td>${escape(result.description)}${claims ? `<small class="c">${escape(claims)}</small>` : ""}</td><td>${words}</td></tr>`;
}

function floors(of: Record<string, number>): string {
  const known = Object.entries(of).map(([name, value]) => `${name} ${number(value)}`);
  return known.length ? `Floors: ${known.join(", ")}.` : "";
}
