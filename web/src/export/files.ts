/** A reading as JSON, CSV or an HTML page that needs nothing else. */
import type { Result } from "../api/types";
import { toRecord } from "../state/record";
import { isChat, results, type Session } from "../state/session";
import { grade, number } from "../text/fidelity";
import { plain, tokenName } from "../text/visible";

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

export function asJson(of: Session): string {
  return `${JSON.stringify(toRecord(of), null, 2)}\n`;
}

const COLUMNS = [
  "position", "token", "sample", "explanation", "fidelity", "word", "cosine", "mse", "closed",
];

/** A line per token and sample, the columns of `Reading.to_csv`. */
export function asCsv(of: Session): string {
  const lines = results(of).flatMap((result) =>
    (result.samples?.length ? result.samples : [result]).map((sample, index) => [
      result.position, result.token, index, sample.description, sample.fidelity ?? "",
      grade(sample.fidelity).word, sample.cosine_similarity ?? "", sample.mse ?? "",
      sample.closed ?? true,
    ]));
  return [COLUMNS, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
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
  + "border-left:3px solid #8886}td,th{text-align:left;vertical-align:top;padding:.35rem .8rem .35rem 0;"
  + "border-bottom:1px solid #8884}td:nth-child(2){font-family:Georgia,serif;overflow-wrap:anywhere}"
  + "td:last-child{white-space:nowrap}";

export function asHtml(of: Session): string {
  const record = toRecord(of);
  const text = isChat(of.source)
    ? of.source.messages.map((turn) => `${turn.role}: ${turn.content}`).join("\n\n")
    : of.source.text;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escape(of.title)}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>${PAGE_STYLE}</style></head><body>
<h1>${escape(of.title)}</h1><blockquote>${escape(text)}</blockquote>
<table><thead><tr><th>token</th><th>explanation</th><th>fidelity</th></tr></thead><tbody>
${results(of).map(row).join("\n")}
</tbody></table><p><small>Read by ${escape(record.nla)}. Fidelity: 1 perfect, 0 no better than the mean
activation, negative worse. ${escape(floors(record.floors))}</small></p></body></html>
`;
}

function row(result: Result): string {
  const words = `${number(result.fidelity)} ${grade(result.fidelity).word}`;
  return `<tr><td><code>${escape(tokenName(result.token))}</code></td>`
    + `<td>${escape(result.description)}</td><td>${words}</td></tr>`;
}

function floors(of: Record<string, number>): string {
  const known = Object.entries(of).map(([name, value]) => `${name} ${number(value)}`);
  return known.length ? `Floors: ${known.join(", ")}.` : "";
}
