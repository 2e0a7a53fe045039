// Small elements, and line plots in SVG.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const SPAN = 300;
const LEAST_SPAN = 60;

// The end of an axis and its step: 1, 2 or 5 times a power of ten.
function ticks(highest) {
  const rough = highest / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const marks = [];
  for (let at = 0; marks.length < 6; at += 1) {
    marks.push(at * step);
    if (at * step >= highest) break;
  }
  return marks;
}

const ago = (seconds) => seconds < 120 ? `−${seconds}${THIN}s` : `−${seconds / 60}${THIN}min`;

class Plot {
  // series: [{ key, label, look }]; kind: how its numbers are written; top: the least that the axis
  // ends at.
  constructor(host, { title, series, kind, top, limit }) {
    Object.assign(this, { title, series, kind, top, limit, points: [], cursor: null });
    this.legend = make("ul", { class: "legend" });
    this.values = series.map(({ label, look }) => {
      const swatch = draw("svg", { "aria-hidden": "true" });
      swatch.append(draw("line", { class: `curve ${look}`, x1: 0, y1: "50%", x2: "100%", y2: "50%" }));
      const value = make("b", {}, "–");
      this.legend.append(make("li", {}, swatch, label, value));
      return value;
    });
    this.svg = draw("svg", { role: "img", "aria-label": title });
    this.moment = make("span", { class: "moment", "aria-hidden": "true" });
    this.canvas = make("div", { class: "canvas" }, this.svg, this.moment);
    host.append(make("figure", { class: "card plot" }, make("figcaption", {}, make("h3", {}, title), this.legend), this.canvas));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => { this.cursor = null; this.render(); });
    new ResizeObserver(() => this.render()).observe(this.canvas);
  }

  update(points) {
    this.points = points;
    this.render();
  }

  point(event) {
    const { x, width } = this.area();
    const share = (event.clientX - this.canvas.getBoundingClientRect().left - x) / width;
    const wanted = this.end() - this.span() * (1 - share);
    this.cursor = share < 0 || this.points.length === 0 ? null : this.points.reduce(
      (best, each) => Math.abs(each.time - wanted) < Math.abs(best.time - wanted) ? each : best);
    this.render();
  }

  end() {
    return this.points.length ? this.points[this.points.length - 1].time : 0;
  }

  // It grows with what is known, a minute at a time, so that there is something to see from the start.
  span() {
    const known = this.points.length ? this.end() - this.points[0].time : 0;
    return Math.min(Math.max(Math.ceil(known / LEAST_SPAN), 1) * LEAST_SPAN, SPAN);
  }

  area() {
    const em = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const x = 4.25 * em, bottom = 1.5 * em;
    return { em, x, y: 0.5 * em, width: Math.max(this.canvas.clientWidth - x - 0.25 * em, 10), height: Math.max(this.canvas.clientHeight - bottom - 0.5 * em, 10) };
  }

  render() {
    const area = this.area();
    const { em, x, y, width, height } = area;
    const all = this.points.flatMap((point) => this.series.map(({ key }) => point[key] ?? 0));
    const highest = Math.max(this.top, ...all);
    const marks = this.limit ? [0, this.limit / 2, this.limit] : ticks(highest);
    const last = marks[marks.length - 1];
    const span = this.span();
    const across = (time) => x + width * (1 - (this.end() - time) / span);
    const up = (value) => y + height * (1 - Math.min(value, last) / last);
    const parts = [];
    for (const mark of marks) {
      parts.push(draw("line", { class: "grid", x1: x, x2: x + width, y1: up(mark), y2: up(mark) }));
      parts.push(draw("text", { class: "axis", x: x - 0.5 * em, y: up(mark) + 0.25 * em, "text-anchor": "end" }, format(this.kind, mark).replace(/\.0+(?=\D)/, "")));
    }
    for (const [share, text, anchor] of [[0, ago(span), "start"], [0.5, ago(span / 2), "middle"], [1, "now", "end"]]) {
      parts.push(draw("text", { class: "axis", x: x + width * share, y: y + height + 1.25 * em, "text-anchor": anchor }, text));
    }
    this.series.forEach(({ key, look }, at) => {
      const lines = this.runs(key).map((run) => run.map((point) => `${across(point.time).toFixed(1)} ${up(point[key]).toFixed(1)}`));
      if (at === 0) {
        for (const line of lines.filter((each) => each.length > 1)) {
          const begin = line[0].split(" ")[0], end = line[line.length - 1].split(" ")[0];
          parts.push(draw("path", { class: `area ${look}`, d: `M${begin} ${up(0)}L${line.join("L")}L${end} ${up(0)}Z` }));
        }
      }
      for (const line of lines) {
        const path = line.length > 1 ? `M${line.join("L")}` : `M${line[0]}h0.01`;
        parts.push(draw("path", { class: `curve ${look}`, d: path }));
      }
    });
    if (this.cursor) parts.push(...this.crosshair(across, up, area));
    this.svg.replaceChildren(...parts);
    this.tell();
  }

  // Points that hang together: a gap is a moment of which nothing is known.
  runs(key) {
    const runs = [[]];
    let before = null;
    for (const point of this.points) {
      const isKnown = point[key] !== null && point[key] !== undefined;
      if (!isKnown || (before !== null && point.time - before > 12)) runs.push([]);
      if (isKnown) runs[runs.length - 1].push(point);
      before = point.time;
    }
    return runs.filter((run) => run.length > 0);
  }

  crosshair(across, up, { y, height, em }) {
    const at = across(this.cursor.time);
    const dots = this.series.filter(({ key }) => this.cursor[key] !== null && this.cursor[key] !== undefined)
      .map(({ key, look }) => draw("circle", { class: `dot ${look}`, cx: at, cy: up(this.cursor[key]), r: 0.25 * em }));
    return [draw("line", { class: "cursor", x1: at, x2: at, y1: y, y2: y + height }), ...dots];
  }

  tell() {
    const point = this.cursor ?? this.points[this.points.length - 1] ?? {};
    this.series.forEach(({ key }, at) => put(this.values[at], format(this.kind, point[key])));
    put(this.moment, this.cursor ? `${Math.round(this.end() - this.cursor.time)}${THIN}s ago` : "");
    const words = this.series.map(({ key, label }) => {
      const known = this.points.map((each) => each[key]).filter((value) => value !== null && value !== undefined);
      const most = known.length ? Math.max(...known) : null;
      return `${label} ${format(this.kind, this.points.at(-1)?.[key])}, at most ${format(this.kind, most)}`;
    });
    this.svg.setAttribute("aria-label", `${this.title} in the last five minutes: ${words.join("; ")}`);
  }
}
