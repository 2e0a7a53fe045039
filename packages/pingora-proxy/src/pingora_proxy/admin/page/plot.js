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
  set(element, attributes);
  if (text) element.textContent = text;
  return element;
}
function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const SPAN = 300;
const SPANS = [30, 60, 90, 120, 180, 240, SPAN];

// The end of an axis and its step: 1, 2 or 5 times a power of ten (of two, for bytes).
function ticks(highest, kind) {
  const unit = kind === "bytes" ? 1024 ** Math.floor(Math.log(Math.max(highest, 1)) / Math.log(1024)) : 1;
  const rough = highest / unit / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.9999) * power * unit;
  if (kind === "count") step = Math.max(1, step);
  const marks = [];
  for (let at = 0; marks.length < 6; at += 1) {
    marks.push(at * step);
    if (at * step >= highest * 0.9999) break;
  }
  return marks;
}

const ago = (seconds) => seconds < 120 ? `−${seconds}${THIN}s` : `−${String(seconds / 60)}${THIN}min`;

// One moment is pointed at in all plots.
const pointer = { time: null, now: 0, plots: new Set() };
function pointAt(time) {
  if (pointer.time === time) return;
  pointer.time = time;
  for (const plot of pointer.plots) plot.render();
}

// It grows with what is known, so that there is something to see from the start.
function spanOf(points, now) {
  const known = points.length ? now - points[0].time : 0;
  return SPANS.find((span) => known <= span + 1) ?? SPAN;
}

class Plot {
  // series: [{ key, label, look, isStep }]; kind: how its numbers are written; top: the least that
  // the axis ends at; limit: what it always ends at.
  constructor(host, { title, series, kind, top, limit, note }) {
    Object.assign(this, { title, series, kind, top, limit, points: [], drawn: "" });
    this.legend = make("ul", { class: "legend" });
    this.values = series.map(({ label, look }) => {
      const swatch = draw("svg", { "aria-hidden": "true" });
      swatch.append(draw("line", { class: `curve ${look}`, x1: 0, y1: "50%", x2: "100%", y2: "50%" }));
      const value = make("b", {}, "–");
      this.legend.append(make("li", {}, swatch, make("span", {}, label), value));
      return value;
    });
    this.svg = draw("svg", { "aria-hidden": "true" });
    this.frame = draw("g");
    this.areas = series.map(({ look }, at) => draw("path", { class: `area ${look}`, visibility: at === 0 ? "visible" : "hidden" }));
    this.curves = series.map(({ look }) => draw("path", { class: `curve ${look}` }));
    this.line = draw("line", { class: "cursor" });
    this.dots = series.map(({ look }) => draw("circle", { class: `dot ${look}` }));
    this.svg.append(this.frame, ...this.areas, ...this.curves, this.line, ...this.dots);
    this.moment = make("span", { class: "moment", "aria-hidden": "true" });
    this.empty = make("span", { class: "nothing", "aria-hidden": "true" }, "no data yet");
    this.canvas = make("div", { class: "canvas", role: "slider", tabindex: "0", "aria-label": `${title}: moment`, "aria-valuemin": -SPAN, "aria-valuemax": 0, "aria-valuenow": 0, "aria-orientation": "horizontal" }, this.svg, this.moment, this.empty);
    const heading = make("h3", {}, title);
    if (note) heading.append(make("small", { class: "quiet" }, note));
    this.figure = make("figure", { class: "card plot" }, make("figcaption", {}, heading, this.legend), this.canvas);
    host.append(this.figure);
    for (const kind of ["pointermove", "pointerdown"]) this.canvas.addEventListener(kind, (event) => this.point(event));
    for (const kind of ["pointerleave", "pointercancel", "blur"]) this.canvas.addEventListener(kind, () => pointAt(null));
    this.canvas.addEventListener("keydown", (event) => this.step(event));
    pointer.plots.add(this);
    new ResizeObserver(() => this.render()).observe(this.canvas);
  }

  update(points, now) {
    this.points = points;
    pointer.now = now;
    this.render();
  }

  point(event) {
    const { x, width } = this.area();
    const share = (event.clientX - this.canvas.getBoundingClientRect().left - x) / width;
    if (share < 0 || this.points.length === 0) { pointAt(null); return; }
    const wanted = pointer.now - this.span() * (1 - share);
    pointAt(this.points.reduce((best, each) => Math.abs(each.time - wanted) < Math.abs(best.time - wanted) ? each : best).time);
  }

  step(event) {
    if (!this.points.length) return;
    const last = this.points.length - 1;
    const at = pointer.time === null ? last : Math.max(this.points.findIndex((each) => each.time === pointer.time), 0);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowDown: at - 1, ArrowUp: at + 1, PageDown: at - 10, PageUp: at + 10, Home: 0, End: last }[event.key];
    if (event.key === "Escape") { pointAt(null); return; }
    if (to === undefined) return;
    event.preventDefault();
    pointAt(this.points[Math.min(Math.max(to, 0), last)].time);
  }

  span() {
    return spanOf(this.points, pointer.now);
  }

  area() {
    const em = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const x = 3.75 * em, bottom = 1.5 * em;
    return { em, x, y: 0.5 * em, width: Math.max(this.canvas.clientWidth - x - 0.375 * em, 10), height: Math.max(this.canvas.clientHeight - bottom - 0.5 * em, 10) };
  }

  render() {
    if (this.figure.hidden) return;
    const area = this.area();
    const { x, y, width, height } = area;
    const highest = Math.max(this.top, largest(this.points.flatMap((point) => this.series.map(({ key }) => point[key]))) ?? 0);
    const marks = this.limit ? [0, this.limit / 2, this.limit] : ticks(highest, this.kind);
    const last = marks[marks.length - 1];
    const span = this.span();
    const across = (time) => x + width * (1 - (pointer.now - time) / span);
    const up = (value) => y + height * (1 - Math.min(value, last) / last);
    this.renderFrame(area, marks, span, up);
    this.series.forEach(({ key, isStep }, at) => {
      let curve = "", filled = "";
      for (const run of this.runs(key)) {
        const spots = run.map((point) => [across(point.time).toFixed(1), up(point[key]).toFixed(1)]);
        const path = spots.map(([left, top], index) => index === 0 ? `M${left} ${top}` : isStep ? `H${left}V${top}` : `L${left} ${top}`).join("");
        curve += run.length > 1 ? path : `${path}h0.01`;
        if (run.length > 1) filled += `${path}L${spots[spots.length - 1][0]} ${up(0)}L${spots[0][0]} ${up(0)}Z`;
      }
      set(this.curves[at], { d: curve });
      if (at === 0) set(this.areas[at], { d: filled });
    });
    this.tell(across, up, area);
  }

  // The lines and labels behind, which seldom change.
  renderFrame({ em, x, y, width, height }, marks, span, up) {
    const drawn = [em, width, height, span, ...marks].join();
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const parts = [];
    for (const mark of marks) {
      parts.push(draw("line", { class: "grid", x1: x, x2: x + width, y1: up(mark), y2: up(mark) }));
      parts.push(draw("text", { class: "axis", x: x - 0.5 * em, y: up(mark) + 0.25 * em, "text-anchor": "end" }, format(this.kind, mark).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "")));
    }
    for (const [share, text, anchor] of [[0, ago(span), "start"], [0.5, ago(span / 2), "middle"], [1, "now", "end"]]) {
      parts.push(draw("text", { class: "axis", x: x + width * share, y: y + height + 1.25 * em, "text-anchor": anchor }, text));
    }
    this.frame.replaceChildren(...parts);
  }

  // Points that hang together: a gap is a moment of which nothing is known.
  runs(key) {
    const runs = [[]];
    for (const point of this.points) {
      if (!isKnown(point[key]) || point.isAfterGap) runs.push([]);
      if (isKnown(point[key])) runs[runs.length - 1].push(point);
    }
    return runs.filter((run) => run.length > 0);
  }

  value(kind, value) {
    const isBeyond = kind === "seconds" && isKnown(value) && value >= Plot.topBound;
    return (isBeyond ? "> " : "") + format(kind, value);
  }

  tell(across, up, { y, height, em }) {
    const pointed = pointer.time === null ? undefined : this.points.find((each) => each.time === pointer.time);
    const point = pointed ?? this.points[this.points.length - 1] ?? {};
    this.empty.hidden = this.points.some((each) => this.series.some(({ key }) => isKnown(each[key])));
    this.series.forEach(({ key }, at) => {
      put(this.values[at], this.value(this.kind, point[key]));
      const isShown = pointed && isKnown(pointed[key]);
      set(this.dots[at], isShown ? { cx: across(pointed.time), cy: up(pointed[key]), r: 0.25 * em, visibility: "visible" } : { visibility: "hidden" });
    });
    set(this.line, pointed ? { x1: across(pointed.time), x2: across(pointed.time), y1: y, y2: y + height, visibility: "visible" } : { visibility: "hidden" });
    const back = Math.round(pointer.now - (point.time ?? pointer.now));
    const when = pointed ? `${clockTime(point.clock)}, ${format("span", back)} ago` : "";
    put(this.moment, when);
    const words = this.series.map(({ key, label }) => `${label} ${this.value(this.kind, point[key])}, at most ${this.value(this.kind, largest(this.points.map((each) => each[key])))}`);
    set(this.canvas, { "aria-valuenow": back === 0 ? 0 : -Math.min(back, SPAN), "aria-valuetext": `${when || "now"}: ${words.join("; ")}` });
  }
}
Plot.topBound = Infinity;
