// Asks the server, every two seconds or as often as ?every=SECONDS says, and knows how old the last
// answer is.

const PERIOD = 1000 * Math.min(Math.max(Number(new URLSearchParams(location.search).get("every")) || 2, 0.2), 60);
const LONGEST_PAUSE = 20000;
const TOKEN = "pingora-admin-token";

// Where a browser forbids storage, what is kept is kept until the page is left.
function storage(name) {
  try {
    window[name].getItem("");
    return window[name];
  } catch {
    const kept = new Map();
    return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
  }
}
const session = storage("sessionStorage"), local = storage("localStorage");
const token = () => session.getItem(TOKEN);

let failures = 0;
let timer = 0;
let asking = null;
let isPaused = false;
let heardAt = null;
let noteUntil = 0;

const seconds = () => performance.now() / 1000;
function announce(text) { byId("live").textContent = text; }

async function call(method, path, body) {
  const headers = {};
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit",
    mode: "same-origin", redirect: "error", signal: AbortSignal.timeout(method === "GET" ? 6000 : 15000),
  });
  const answer = await response.json().catch(() => ({ detail: `the server answers with ${response.status}` }));
  if (!response.ok) throw Object.assign(new Error(answer.detail), { status: response.status });
  return answer;
}

// After failures less often, and not all pages at the same moment.
function pause() {
  if (!failures) return PERIOD;
  return Math.max(PERIOD, Math.min(PERIOD * 2 ** failures, LONGEST_PAUSE) * (0.8 + 0.2 * Math.random()));
}

// One question at a time: who asks meanwhile waits for the same answer.
function poll() {
  clearTimeout(timer);
  if (isPaused || document.hidden) return Promise.resolve();
  asking ??= ask().finally(() => { asking = null; });
  return asking;
}

async function ask() {
  try {
    const answer = await call("GET", "overview");
    if (failures > 0) happened("good", "Connected again");
    failures = 0;
    heardAt = seconds();
    show(answer);
  } catch (error) {
    if (error.status === 401 || error.status === 429) { askForToken(error); return; }
    if (error instanceof TypeError && !error.message.includes("fetch")) console.error(error);
    failures += 1;
    lose(error);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, pause());
}

function lose(error) {
  const reason = error.status ? error.message : error.name === "TimeoutError" ? "no answer in time" : "the server cannot be reached";
  if (failures === 1) happened("bad", `Disconnected: ${reason}`);
  status("bad", "Disconnected");
  byId("board").classList.add("stale");
  const since = heardAt === null ? "" : ` What is shown is of ${clockTime(Date.now() - 1000 * (seconds() - heardAt))}.`;
  banner(`Disconnected: ${reason}.${since} Trying again in ${format("span", Math.ceil(pause() / 1000))}.`);
}

// How old what is shown is, told as soon as it is older than it should be.
function tick() {
  if (heardAt === null || byId("board").hidden) { put(byId("age"), ""); return; }
  const age = seconds() - heardAt;
  const isLate = age > 2 * PERIOD / 1000 + 1;
  put(byId("age"), isLate ? `${format("span", age)} old` : "");
  if (isLate && !isPaused) byId("board").classList.add("stale");
  if (isLate && !document.hidden) redraw();
  if (noteUntil && seconds() > noteUntil && failures === 0) banner("");
}

function status(kind, text) {
  byId("status").dataset.kind = kind;
  put(byId("status-text"), text);
}

function banner(text, isNote = false) {
  noteUntil = isNote ? seconds() + 8 : 0;
  byId("banner").hidden = !text;
  byId("banner").classList.toggle("note", isNote);
  put(byId("banner"), text);
}
function note(text) {
  banner(text, true);
  announce(text);
}

function askForToken(error) {
  put(byId("token-error"), error?.status === 429 ? `There were ${error.message}.` : token() ? "The server does not accept this token." : "");
  byId("sign-out").hidden = true;
  session.removeItem(TOKEN);
  byId("board").hidden = true;
  byId("sign-in").hidden = false;
  heardAt = null;
  banner("");
  status("waiting", "Token needed");
  byId("token").focus();
}

// What goes on is kept for whoever looks later, the last of it.
const MOST_EVENTS = 100;
const SIGNS = { good: "●", warn: "■", bad: "▲", note: "·" };
function happened(kind, text, isSaid = true) {
  const list = byId("events");
  byId("no-events").hidden = true;
  list.hidden = false;
  const now = new Date();
  const time = make("time", { datetime: now.toISOString() }, clockTime(now));
  list.prepend(make("li", { "data-kind": kind }, time, make("span", { class: "sign", "aria-hidden": "true", "data-kind": kind }, SIGNS[kind]), make("span", {}, text)));
  while (list.children.length > MOST_EVENTS) list.lastChild.remove();
  if (isSaid) announce(text);
}
