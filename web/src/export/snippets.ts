/** The request behind a reading, to run elsewhere. The secret is never in it. */
import { secret } from "../api/client";
import { explainBody } from "../state/explain";
import { isChat, type Session } from "../state/session";
import { settings, temperature } from "../state/settings";

export function asCurl(of: Session, positions: number[]): string {
  const body = JSON.stringify(explainBody(of, positions, false));
  const auth = secret.value === "" ? [] : [`-H "X-SECRET-KEY: $NLAKIT_SECRET"`];
  return [
    `curl -sS ${location.origin}/v1/explain`,
    `-H 'Content-Type: application/json'`,
    ...auth,
    `--data ${shellQuoted(body)}`,
  ].join(" \\\n  ");
}

function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The same reading by nlakit itself, from Python. */
export function asPython(of: Session, positions: number[]): string {
  const { samples, maxNewTokens, seed } = settings.value;
  const source = isChat(of.source) ? `json.loads(${pythonQuoted(JSON.stringify(of.source.messages))})` : pythonQuoted(of.source.text);
  const secret_ = secret.value === "" ? "" : `, secret=os.environ["NLAKIT_SECRET"]`;
  const imports = [...(isChat(of.source) ? ["import json"] : []), ...(secret.value === "" ? [] : ["import os"])];
  return `${imports.map((line) => `${line}\n`).join("")}${imports.length ? "\n" : ""}from nlakit.engines.remote import RemotePair

pair = RemotePair("${location.origin}"${secret_})
reading = pair.explain(
    ${source},
    positions=${JSON.stringify(positions)},
    samples=${samples},
    temperature=${temperature()},
    max_new_tokens=${maxNewTokens},
    seed=${seed},
)
print(reading)
`;
}

/** A JSON string is also a Python string, but for the characters past U+FFFF and DEL. */
function pythonQuoted(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (char) =>
    `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`).replace(
    /\\ud([89ab][0-9a-f]{2})\\ud([c-f][0-9a-f]{2})/g, (_, high: string, low: string) => {
      const code = 0x10000 + ((parseInt(`d${high}`, 16) - 0xd800) << 10)
        + (parseInt(`d${low}`, 16) - 0xdc00);
      return `\\U${code.toString(16).padStart(8, "0")}`;
    });
}

export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

/** Over plain HTTP from another machine there is no clipboard interface. */
function copyBySelection(text: string): boolean {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
