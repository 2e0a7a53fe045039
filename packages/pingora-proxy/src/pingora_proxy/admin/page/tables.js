// Tables that are changed in place: focus stays where it is.

class Table {
  // columns: [{ label, kind: "head" | "text" | "amount" | "state" | "actions", of: (row) => value }]
  constructor(host, caption, columns) {
    this.columns = columns;
    this.rows = new Map();
    const heads = columns.map(({ label, kind }) => make("th", { scope: "col", role: "columnheader", class: kind === "amount" ? "amount" : "" }, kind === "actions" ? make("span", { class: "unseen" }, label) : label));
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
      const cell = make("td", { role: "cell", class: kind === "amount" ? "amount" : kind === "actions" ? "actions-cell" : "" });
      if (kind !== "actions") cell.dataset.label = label;
      return cell;
    });
    return { element: make("tr", { role: "row" }, ...cells), cells };
  }

  fill(cell, { kind, of }, row) {
    const value = of(row);
    if (kind === "state") fillState(cell, value);
    else if (kind === "actions") fillActions(cell, value);
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

// value: [{ text, label, needsCertainty, run }]; what could hurt is asked twice.
function fillActions(cell, actions) {
  if (!cell.firstChild) cell.append(make("div", { class: "actions" }));
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
    button.setAttribute("aria-label", action.label);
  });
}

async function press(button, { text, label, needsCertainty, run }) {
  if (button.getAttribute("aria-disabled") === "true") return;
  if (needsCertainty && !button.classList.contains("sure")) {
    button.classList.add("sure");
    put(button, "Sure?");
    button.setAttribute("aria-label", `${label}: nothing else is ready. Press again if you are sure.`);
    announce(`${label}: nothing else is ready. Press again if you are sure.`);
    setTimeout(() => { button.classList.remove("sure"); put(button, text); button.setAttribute("aria-label", label); }, 5000);
    return;
  }
  button.classList.remove("sure");
  button.setAttribute("aria-disabled", "true");
  try { await run(); } finally { button.setAttribute("aria-disabled", "false"); }
}

const STATES = {
  ready: ["●", "good"], unhealthy: ["▲", "bad"], ejected: ["◆", "bad"], "circuit open": ["◆", "warn"],
  draining: ["◐", "warn"], drained: ["○", "off"], disabled: ["○", "off"],
};
function stateOf(text) {
  const [sign, look] = STATES[text] ?? ["■", "warn"];
  return { text: text.charAt(0).toUpperCase() + text.slice(1), sign, look };
}
