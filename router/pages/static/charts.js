// Small pictures: lines over time, bars, and the map of the KV cache.

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 240;

function svg(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** Lines over the last points, one for each of `names`. */
export class LineChart {
  constructor(container, names, format) {
    this.names = names;
    this.format = format;
    this.values = names.map(() => []);
    this.picture = svg("svg", { class: "chart", viewBox: `0 0 ${POINTS} 100`, preserveAspectRatio: "none", role: "img" });
    this.lines = names.map((_, index) => svg("polyline", { class: `line-${index}` }));
    this.picture.append(svg("line", { x1: 0, y1: 99, x2: POINTS, y2: 99 }), ...this.lines);
    this.scale = document.createElement("div");
    this.scale.className = "scale";
    container.append(this.picture, this.scale);
  }

  /** Add a point to each line; null continues the last value. */
  add(values) {
    for (const [index, value] of values.entries()) {
      const line = this.values[index];
      line.push(value ?? line.at(-1) ?? 0);
      if (line.length > POINTS) line.shift();
    }
    this.draw(values);
  }

  draw(values) {
    const top = Math.max(1e-9, ...this.values.flat());
    for (const [index, line] of this.values.entries()) {
      const points = line.map((value, x) => `${POINTS - line.length + x},${99 - (94 * value) / top}`);
      this.lines[index].setAttribute("points", points.join(" "));
    }
    const labels = this.names.map((name, index) => `${name} ${this.format(values[index])}`);
    this.picture.setAttribute("aria-label", labels.join(", "));
    this.scale.replaceChildren(
      ...this.names.map((name, index) => label(`key-${index}`, name, this.format(values[index]))),
      label("", "top", this.format(top)),
    );
  }
}

function label(className, name, value) {
  const node = document.createElement("span");
  node.className = className;
  const strong = document.createElement("b");
  strong.textContent = value;
  node.append(`${name} `, strong);
  return node;
}

/** Bars of shares from 0 to 1, numbered from 1. */
export function drawBars(container, shares, format) {
  const bars = document.createElement("div");
  bars.className = "bars";
  bars.setAttribute("role", "img");
  bars.setAttribute("aria-label", shares.map((share, index) => `${index + 1}: ${format(share)}`).join(", ") || "none");
  for (const [index, share] of shares.entries()) {
    const column = document.createElement("div");
    const bar = document.createElement("i");
    bar.style.height = `${75 * share}%`;
    column.append(format(share), bar, String(index + 1));
    bars.append(column);
  }
  container.replaceChildren(bars);
}

/** The pages of the KV cache as cells: each request in a color of its own, then cached ones. */
export class KvMap {
  constructor(container) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "kv";
    this.canvas.setAttribute("role", "img");
    this.scale = document.createElement("div");
    this.scale.className = "scale";
    container.append(this.canvas, this.scale);
  }

  /** Show the pages of `state`. */
  update({ kv_cache: kv, requests }) {
    this.scale.replaceChildren(
      ...["used", "shared", "cached", "free"].map((name) => label(`pages-${name}`, name, String(kv[name]))),
      ...(kv.swap_total ? [label("", "swapped", `${kv.swap_used} of ${kv.swap_total}`)] : []),
    );
    this.canvas.setAttribute("aria-label", `${kv.used} of ${kv.total} pages used, ${kv.cached} cached`);
    this.draw(kv, requests);
  }

  draw(kv, requests) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const size = Math.max(4, Math.floor(Math.sqrt((width * height) / kv.total)) - 1);
    const columns = Math.floor(width / size) || 1;
    const cells = columns * Math.floor(height / size);
    const pages = Math.max(1, kv.total / cells);
    const cell = (index, color) => {
      context.fillStyle = color;
      context.fillRect((index % columns) * size, Math.floor(index / columns) * size, size - 1, size - 1);
    };
    for (const [index, color] of cellColors(kv, requests, pages)) cell(index, color);
  }
}

/** Index and color of each cell, if a cell stands for `pages` pages. */
function* cellColors(kv, requests, pages) {
  const style = getComputedStyle(document.documentElement);
  let page = 0;
  for (const request of requests) {
    const end = Math.min(page + request.pages, kv.used);
    const color = `hsl(${(request.number * 137) % 360} 60% 55%)`;
    for (; page < end; page += pages) yield [Math.floor(page / pages), color];
  }
  const groups = [[kv.used, "--dim"], [kv.used + kv.cached, "--violet"], [kv.total, "--line"]];
  for (const [end, name] of groups) {
    const color = style.getPropertyValue(name);
    for (; page < end; page += pages) yield [Math.floor(page / pages), color];
  }
}
