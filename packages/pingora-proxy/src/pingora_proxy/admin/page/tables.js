// Tables that are changed in place: focus stays where it is.

class Table {
  // columns: [{ label, kind: "head" | "text" | "amount" | "state" | "strip" | "actions", of: (row) => value }]
  constructor(host, caption, columns) {
    this.columns = columns;
    this.rows = new Map();
    const heads = columns.map(({ label, kind }) => make("th", { scope: "col", role: "columnheader", class: kind }, kind === "actions" ? make("span", { class: "unseen" }, label) : label));
    this.body = make("tbody", { role: "rowgroup" });
    this.table = make("table", { role: "table" }, make("caption", {}, caption), make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), this.body);
    host.append(this.table);
  }

  update(rows, keyOf) {
    const seen = new Set();
    rows.forEach((row, at) => {
      const key = String(keyOf(row));
      seen.add(key);
      let known = this.rows.get(key);
      if (!known) {
        known = this.add();
        this.rows.set(key, known);
      }
      if (this.body.children[at] !== known.element) this.body.insertBefore(known.element, this.body.children[at] ?? null);
      this.columns.forEach((column, index) => this.fill(known.cells[index], column, row));
    });
    for (const [key, { element }] of this.rows) {
      if (!seen.has(key)) { element.remove(); this.rows.delete(key); }
    }
  }

  add() {
    const cells = this.columns.map(({ label, kind }) => {
      if (kind === "head") return make("th", { scope: "row", role: "rowheader" });
      const cell = make("td", { role: "cell", class: kind });
      if (kind !== "actions") cell.dataset.label = label;
      return cell;
    });
    return { element: make("tr", { role: "row" }, ...cells), cells };
  }

  fill(cell, { kind, of }, row) {
    const value = of(row);
    if (kind === "state") fillState(cell, value);
    else if (kind === "actions") fillActions(cell, value);
    else if (kind === "strip") fillStrip(cell, value);
    else put(cell, value);
  }
}

// A state is told by its word, its sign and its colour.
function fillState(cell, { text, sign, look }) {
  if (!cell.firstChild) cell.append(make("span", { class: "state" }, make("span", { class: "sign", "aria-hidden": "true" }), make("span")));
  const state = cell.firstChild;
  state.dataset.kind = look;
  put(state.firstChild, sign);
  put(state.lastChild, text);
}

// The states of the last minutes: what is worse stands higher, for who cannot tell the colours.
const HEIGHTS = { good: 0.3, off: 0.15, warn: 0.65, bad: 1 };
function fillStrip(cell, { runs, start, end, text }) {
  if (!cell.firstChild) cell.append(draw("svg", { class: "strip-plot", role: "img", viewBox: "0 0 100 10", preserveAspectRatio: "none" }));
  const svg = cell.firstChild;
  set(svg, { "aria-label": text });
  runs.forEach(({ look, from, to }, at) => {
    const bar = svg.children[at] ?? svg.appendChild(draw("rect"));
    const left = Math.max((from - start) / (end - start), 0) * 100, right = Math.min((to - start) / (end - start), 1) * 100;
    const height = HEIGHTS[look] * 10;
    set(bar, { class: `bar ${look}`, x: left.toFixed(2), width: Math.max(right - left, 0.4).toFixed(2), y: 10 - height, height });
  });
  while (svg.children.length > runs.length) svg.lastChild.remove();
}

// value: [{ text, label, needsCertainty, run }]; what could hurt is asked twice.
function fillActions(cell, actions) {
  if (!cell.firstChild) cell.append(make("div", { class: "buttons" }));
  const box = cell.firstChild;
  const signature = actions.map(({ text }) => text).join();
  const hadFocus = box.contains(document.activeElement);
  if (box.dataset.signature !== signature) {
    box.dataset.signature = signature;
    box.replaceChildren(...actions.map(() => make("button", { type: "button" })));
    if (hadFocus) box.firstChild?.focus();
  }
  actions.forEach((action, at) => {
    const button = box.children[at];
    button.onclick = () => press(button, action);
    if (button.classList.contains("sure")) return;
    put(button, action.text);
    set(button, { "aria-label": action.label });
  });
}

async function press(button, { text, label, needsCertainty, run }) {
  if (button.getAttribute("aria-disabled") === "true") return;
  if (needsCertainty && !button.classList.contains("sure")) {
    button.classList.add("sure");
    put(button, "Sure?");
    set(button, { "aria-label": `${label}: nothing else is ready. Press again if you are sure.` });
    announce(`${label}: nothing else is ready. Press again if you are sure.`);
    setTimeout(() => {
      if (!button.classList.contains("sure")) return;
      button.classList.remove("sure");
      put(button, text);
      set(button, { "aria-label": label });
    }, 5000);
    return;
  }
  button.classList.remove("sure");
  button.setAttribute("aria-disabled", "true");
  try { await run(); } finally { button.setAttribute("aria-disabled", "false"); }
}

// Facts with their names, for what has too many columns for a table.
class Facts {
  constructor(host, title, facts) {
    this.facts = facts;
    this.values = facts.map(() => make("dd"));
    this.table = make("div", { class: "group" }, make("h3", {}, title), make("dl", { class: "facts" }, ...facts.map(([label], at) => make("div", {}, make("dt", {}, label), this.values[at]))));
    host.append(this.table);
  }

  update(source) {
    this.facts.forEach(([, kind, of], at) => put(this.values[at], format(kind, of(source))));
  }
}

const STATES = {
  ready: ["●", "good"], unhealthy: ["▲", "bad"], ejected: ["◆", "bad"], "circuit open": ["◆", "warn"],
  draining: ["◐", "warn"], drained: ["○", "off"], disabled: ["○", "off"],
};
function stateOf(text) {
  const [sign, look] = STATES[text] ?? ["■", "warn"];
  return { text: text.charAt(0).toUpperCase() + text.slice(1), sign, look };
}
