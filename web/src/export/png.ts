/** A picture of the transcript with its shading, and of the explanation in focus. */
import { focus, model, type Session } from "../state/session";
import { grade, grades, number, scale } from "../text/fidelity";
import { plain } from "../text/visible";

const WIDTH = 1000;
const MARGIN = 48;
const SCALE = 2;
const MOST_HEIGHT = 8000;
const SANS = "system-ui, -apple-system, 'Segoe UI', sans-serif";
const SERIF = "Charter, 'Bitstream Charter', 'Iowan Old Style', Georgia, serif";

interface Ink {
  paper: string;
  text: string;
  muted: string;
  shade: (key: string) => string;
}

function ink(): Ink {
  const style = getComputedStyle(document.documentElement);
  // A probe resolves light-dark() into the colour in force.
  const probe = document.createElement("span");
  document.body.append(probe);
  const resolve = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color || style.color;
  };
  const shades = new Map(grades().map((each) => [each.key as string, resolve(`--shade-${each.key}`)]));
  const found = {
    paper: resolve("--paper"), text: resolve("--ink"), muted: resolve("--muted"),
    shade: (key: string) => shades.get(key) ?? "transparent",
  };
  probe.remove();
  return found;
}

/** Draws words with wrapping; returns the y below them. With no `draw` it only measures. */
class Pen {
  x = MARGIN;
  constructor(
    readonly context: CanvasRenderingContext2D,
    readonly colours: Ink,
    readonly draw: boolean,
    public y = MARGIN,
  ) {}

  font(font: string, colour: string): void {
    this.context.font = font;
    this.context.fillStyle = colour;
  }

  line(height: number): void {
    this.x = MARGIN;
    this.y += height;
  }

  /** One unbreakable run; starts a new line where it does not fit. */
  run(text: string, height: number, shade: string | null): void {
    const width = this.context.measureText(text).width;
    if (this.x > MARGIN && this.x + width > WIDTH - MARGIN) this.line(height);
    if (this.draw && shade) this.patch(width, height, shade);
    if (this.draw) this.context.fillText(text, this.x, this.y);
    this.x += width;
  }

  words(text: string, height: number): void {
    for (const [index, row] of text.split("\n").entries()) {
      if (index > 0) this.line(height);
      for (const word of row.split(/(?<=\s)/)) this.run(word.slice(0, 90), height, null);
    }
  }

  private patch(width: number, height: number, shade: string): void {
    const before = this.context.fillStyle;
    this.context.fillStyle = shade;
    this.context.fillRect(this.x, this.y - height * 0.7, width, height * 0.88);
    this.context.fillStyle = before;
  }
}

function paint(of: Session, pen: Pen): number {
  const { text, muted } = pen.colours;
  pen.font(`600 24px ${SANS}`, text);
  pen.line(20);
  pen.words(plain(of.title), 30);
  pen.line(44);
  pen.font(`18px ${SANS}`, text);
  for (const token of of.tokens) paintToken(of, pen, token.position);
  pen.line(40);
  legend(pen);
  const result = of.entries[focus.value]?.result.value;
  if (result) {
    pen.font(`600 16px ${SANS}`, muted);
    pen.words(`“${plain(result.token).trim()}”  ${number(result.fidelity)} ${grade(result.fidelity).word}`, 26);
    pen.line(30);
    pen.font(`20px ${SERIF}`, text);
    pen.words(plain(result.description).slice(0, 4000), 30);
    pen.line(44);
  }
  pen.font(`13px ${SANS}`, muted);
  pen.words(`Read by ${plain(model.value?.name ?? "nlakit")}. Fidelity: 1 is a perfect match; knowing nothing reaches ${number(scale()?.knowing_nothing)}.`, 20);
  return pen.y + MARGIN;
}

function paintToken(of: Session, pen: Pen, position: number): void {
  const token = of.tokens[position];
  if (!token || token.fragment_index > 0) return;
  const result = of.entries[position]?.result.value;
  const shade = result ? pen.colours.shade(grade(result.fidelity).key) : null;
  for (const [index, row] of plain(token.token).split("\n").entries()) {
    if (index > 0) pen.line(32);
    if (row !== "") pen.run(row, 32, shade);
  }
}

function legend(pen: Pen): void {
  pen.font(`14px ${SANS}`, pen.colours.text);
  for (const each of grades()) {
    pen.run(` ${each.word} `, 24, pen.colours.shade(each.key));
    pen.run("   ", 24, null);
  }
  pen.line(44);
}

/** The PNG; long readings are cut at the foot. */
export async function asPng(of: Session): Promise<Blob | null> {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  if (!context) return null;
  const colours = ink();
  const height = Math.min(MOST_HEIGHT, paint(of, new Pen(context, colours, false)));
  canvas.width = WIDTH * SCALE;
  canvas.height = height * SCALE;
  context.scale(SCALE, SCALE);
  context.fillStyle = colours.paper;
  context.fillRect(0, 0, WIDTH, height);
  paint(of, new Pen(context, colours, true));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
