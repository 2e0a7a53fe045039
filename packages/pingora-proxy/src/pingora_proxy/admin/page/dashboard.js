// The page: asks the server every two seconds, or as often as ?every=SECONDS says, and shows what
// comes back.

const PERIOD = 1000 * Math.min(Math.max(Number(new URLSearchParams(location.search).get("every")) || 2, 0.2), 60);
const WINDOW = 10;
const MOST_ROWS = 300;
const TOKEN = "pingora-admin-token";
const THEME = "pingora-admin-theme";

let answers = [];
let points = [];
let failures = 0;
let timer = 0;
let isPaused = false;
let lastReady = null;
let lastStates = new Map();
let shown = {};

function announce(text) { byId("live").textContent = text; }
const token = () => sessionStorage.getItem(TOKEN);

async function call(method, path, body) {
  const headers = {};
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit",
    mode: "same-origin", redirect: "error", signal: AbortSignal.timeout(6000),
  });
  const answer = await response.json().catch(() => ({ error: `the server answers with ${response.status}` }));
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

// ------------------------------------------------------------------------------ asking

const pause = () => failures ? Math.max(PERIOD, Math.min(PERIOD * 2 ** failures, 20000)) : PERIOD;

async function poll() {
  clearTimeout(timer);
  if (isPaused || document.hidden) return;
  try {
    const answer = await call("GET", "overview");
    if (failures > 0) announce("Connected again");
    failures = 0;
    show(answer);
  } catch (error) {
    if (error.status === 401) { askForToken(); return; }
    failures += 1;
    lose(error);
  }
  timer = setTimeout(poll, pause());
}

function lose(error) {
  const reason = error.status ? error.message : error.name === "TimeoutError" ? "no answer in time" : "the server cannot be reached";
  status("bad", "Disconnected");
  byId("board").classList.add("stale");
    banner(`Disconnected: ${reason}. What is shown is old. Trying again in ${format("span", Math.ceil(pause() / 1000))}.`);
  if (failures === 1) announce(`Disconnected: ${reason}`);
}

function status(kind, text) {
  byId("status").dataset.kind = kind;
  put(byId("status-text"), text);
}

function banner(text, isNote = false) {
  byId("banner").hidden = !text;
  byId("banner").classList.toggle("note", isNote);
  put(byId("banner"), text);
}

function askForToken() {
  put(byId("token-error"), token() ? "The server does not accept this token." : "");
  byId("sign-out").hidden = true;
  sessionStorage.removeItem(TOKEN);
  byId("board").hidden = true;
  byId("sign-in").hidden = false;
  banner("");
  status("waiting", "Token needed");
  byId("token").focus();
}

// ------------------------------------------------------------------------------ showing

function show(answer) {
  byId("sign-in").hidden = true;
  byId("board").hidden = false;
  byId("board").classList.remove("stale");
  byId("sign-out").hidden = !token();
  banner("");
  status(answer.is_ready ? "good" : "warn", answer.is_ready ? "Ready" : "Not ready");
  if (lastReady !== null && lastReady !== answer.is_ready) announce(answer.is_ready ? "The server is ready" : "The server is not ready");
  lastReady = answer.is_ready;
  document.title = `${answer.is_ready ? "" : "Not ready · "}Pingora`;
  put(byId("process"), `process ${answer.pid} · ${answer.phase}`);
  put(byId("foot"), `Pingora for Python ${answer.version}. Every ${PERIOD / 1000} s; upstreams, caches and connections as process ${answer.pid} sees them.`);
  record(answer);
  showTiles(answer);
  showPlots(answer);
  showUpstreams(answer);
  showCaches(answer);
  showWorkers(answer);
  showPools(answer);
  const level = byId("level-choice");
  if (document.activeElement !== level && level.dataset.known !== answer.log_level) level.value = level.dataset.known = answer.log_level;
}

function record(answer) {
  answers.push(answer);
  answers = answers.filter((each) => answer.time - each.time <= WINDOW + 1);
  const before = answers[answers.length - 2];
  if (!before) return;
  const last = difference(answer, before);
  const oldest = answers.find((each) => difference(answer, each));
  const longer = oldest && difference(answer, oldest);
  if (!last) answers = [answer];
  const point = { time: answer.time, active: answer.traffic?.active ?? null, connections: answer.traffic?.connections ?? null, cached: cacheShare(answer, answers[0]) };
  if (last) {
    const all = sum(Object.values(last.requests));
    point.rate = all / last.seconds;
    point.clientFaults = last.requests["4xx"] / last.seconds;
    point.serverFaults = (last.requests["5xx"] + last.requests.none) / last.seconds;
    point.faultShare = all ? (last.requests["5xx"] + last.requests.none) / all : null;
  }
  if (longer) {
    for (const [name, share] of [["p50", 0.5], ["p90", 0.9], ["p99", 0.99]]) point[name] = percentile(longer.bounds, longer.counts, share);
  }
  points.push(point);
  points = points.filter((each) => answer.time - each.time <= SPAN);
}

function tile(key, label) {
  const number = make("span"), unit = make("small"), more = make("dd", { class: "more" });
  const box = make("div", { class: "tile" }, make("dt", {}, label), make("dd", { class: "number" }, number, unit), more);
  byId("tiles").append(box);
  return (kind, value, text, look = "") => {
    const isKnown = value !== null && value !== undefined;
    const [digits, name] = isKnown ? formats[kind](value) : ["–", ""];
    put(number, digits); put(unit, name); put(more, text);
    box.dataset.kind = look;
  };
}
const tiles = {
  rate: tile("rate", "Requests"), faults: tile("faults", "Server errors"), slow: tile("slow", "Latency, p99"),
  active: tile("active", "In flight"), connections: tile("connections", "Connections"), ready: tile("ready", "Upstreams ready"), cached: tile("cached", "From cache"),
};

function most(key) {
  const known = points.map((point) => point[key]).filter((value) => value !== null && value !== undefined);
  return known.length ? Math.max(...known) : null;
}

function showTiles(answer) {
  const point = points[points.length - 1] ?? {};
  const noted = (kind, key) => most(key) === null ? "no data yet" : `peak ${format(kind, most(key))}`;
  tiles.rate("rate", point.rate, noted("rate", "rate"));
  const share = point.faultShare;
  tiles.faults("share", share, point.serverFaults === undefined ? "no data yet" : `${format("rate", point.serverFaults)}`, share > 0.01 ? "bad" : share > 0 ? "warn" : "");
  tiles.slow("seconds", point.p99, point.p50 === null || point.p50 === undefined ? "no requests lately" : `half below ${format("seconds", point.p50)}`);
  tiles.active("count", point.active ?? answer.traffic?.active, noted("count", "active"));
  tiles.connections("count", answer.traffic?.connections, noted("count", "connections"));
  const rows = Object.values(answer.backends).flat();
  const ready = rows.filter((row) => row.is_ready).length;
  tiles.ready("count", rows.length ? ready : null, rows.length ? `of ${rows.length}` : "none are shown", rows.length && ready === 0 ? "bad" : ready < rows.length ? "warn" : "");
  const [served, asked] = cacheCounts(answer.caches);
  tiles.cached("share", point.cached, asked ? `${format("share", served / asked)} in all` : "no cache is asked");
}

let plots = null;
function showPlots(answer) {
  const hint = byId("no-traffic");
  hint.hidden = answer.traffic !== null && sum(Object.values(answer.traffic.requests)) > 0;
  put(hint, answer.traffic === null ? "There are no numbers of requests. Give AdminService its metrics, and the proxy its ProxyMetrics." : "Waiting for the first request.");
  plots ??= [
    [new Plot(byId("plots"), { title: "Requests", kind: "rate", top: 1, series: [{ key: "rate", label: "all", look: "blue" }, { key: "clientFaults", label: "4xx", look: "purple dashed" }, { key: "serverFaults", label: "5xx", look: "orange dotted" }] })],
    [new Plot(byId("plots"), { title: "Latency", kind: "seconds", top: 0.001, series: [{ key: "p50", label: "p50", look: "blue" }, { key: "p90", label: "p90", look: "purple dashed" }, { key: "p99", label: "p99", look: "orange dotted" }] })],
    [new Plot(byId("plots"), { title: "Concurrency", kind: "count", top: 4, series: [{ key: "active", label: "requests in flight", look: "blue" }, { key: "connections", label: "connections", look: "purple dashed" }] })],
    [new Plot(byId("plots"), { title: "From cache", kind: "share", top: 1, limit: 1, series: [{ key: "cached", label: "of all asked", look: "green" }] })],
  ].flat();
  for (const plot of plots) plot.update(points);
}

function table(host, key, caption, columns) {
  shown[host] ??= new Map();
  if (!shown[host].has(key)) shown[host].set(key, new Table(byId(host), caption, columns()));
  return shown[host].get(key);
}
function prune(host, keys) {
  for (const [key, { table: element }] of shown[host] ?? []) {
    if (!keys.includes(key)) { element.remove(); shown[host].delete(key); }
  }
}

function showUpstreams(answer) {
  const pools = Object.entries(answer.backends);
  prune("upstreams", Object.keys(answer.backends));
  byId("no-upstreams").hidden = pools.length > 0;
  const states = new Map();
  let hidden = 0;
  for (const [pool, rows] of pools) {
    readiness.set(pool, rows.filter((row) => row.is_ready).length);
    const actions = (row) => (row.is_enabled ? ["Drain", "Disable"] : ["Enable"]).map((text) => ({
      text, label: `${text} ${row.address}`,
      needsCertainty: text !== "Enable" && row.is_ready && readyIn(pool) <= 1,
      run: () => act(`backends/${text.toLowerCase()}`, { pool, address: row.address }, `${text} ${row.address}`),
    }));
    table("upstreams", pool, pool, () => [
      { label: "Address", kind: "head", of: (row) => row.address },
      { label: "State", kind: "state", of: (row) => stateOf(row.state) },
      { label: "In flight", kind: "amount", of: (row) => format("count", row.in_flight) },
      { label: "Latency", kind: "amount", of: (row) => format("seconds", row.latency) },
      { label: "Weight", kind: "amount", of: (row) => String(row.weight) },
      { label: "Change", kind: "actions", of: actions },
    ]).update(rows.slice(0, MOST_ROWS), (row) => row.address);
    hidden += Math.max(0, rows.length - MOST_ROWS);
    for (const row of rows) states.set(`${pool} ${row.address}`, row.state);
  }
  const all = pools.flatMap(([, rows]) => rows);
  put(byId("upstreams-sum"), all.length ? `${all.filter((row) => row.is_ready).length} of ${all.length} ready${hidden ? `, ${hidden} not listed` : ""}` : "");
  const changed = [...states].filter(([key, state]) => lastStates.has(key) && lastStates.get(key) !== state);
  if (changed.length > 3) announce(`${changed.length} upstreams have changed`);
  else if (changed.length) announce(changed.map(([key, state]) => `${key.slice(key.indexOf(" ") + 1)} is ${state}`).join(", "));
  lastStates = states;
}
const readiness = new Map();
const readyIn = (pool) => readiness.get(pool) ?? 0;

const CACHE_ROWS = [
  ["Objects", "count", (cache) => cache.storage?.objects], ["Size", "bytes", (cache) => cache.storage?.used_bytes],
  ["Requests", "count", (cache) => cache.requests?.requests], ["Hits", "count", (cache) => cache.requests?.hits],
  ["Misses", "count", (cache) => cache.requests?.misses], ["Evictions", "count", (cache) => cache.storage?.evictions],
  ["Errors", "count", (cache) => cache.storage?.errors],
];
function showCaches(answer) {
  const names = Object.keys(answer.caches);
  byId("no-caches").hidden = names.length > 0;
  byId("purge").hidden = names.length === 0;
  const choice = byId("purge-cache");
  if ([...choice.options].map((option) => option.value).join("\n") !== names.join("\n")) choice.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  if (!names.length) return;
  table("caches", "all", "What the caches hold and did", () => [
    { label: "Cache", kind: "head", of: ([name]) => name },
    ...CACHE_ROWS.map(([label, kind, of]) => ({ label, kind: "amount", of: ([, cache]) => format(kind, of(cache)) })),
  ]).update(Object.entries(answer.caches), ([name]) => name);
}

function showWorkers(answer) {
  table("workers", "all", `${answer.workers.length} of ${answer.worker_count} answer`, () => [
    { label: "Process", kind: "head", of: (row) => `${row.pid}${row.is_this && answers.at(-1)?.workers.length > 1 ? " (this answer)" : ""}` },
    { label: "State", kind: "state", of: (row) => row.uptime === undefined ? { text: "No answer", sign: "▲", look: "bad" } : row.is_ready ? stateOf("ready") : { text: "Not ready", sign: "■", look: "warn" } },
    { label: "Up for", kind: "amount", of: (row) => format("span", row.uptime) },
    { label: "Requests", kind: "amount", of: (row) => format("count", row.requests) },
    { label: "Memory", kind: "amount", of: (row) => format("bytes", row.memory) },
  ]).update(answer.workers, (row) => row.pid);
  put(shown.workers.get("all").table.caption, `${answer.workers.filter((row) => row.uptime !== undefined).length} of ${answer.worker_count} answer`);
}

function showPools(answer) {
  const pools = Object.entries(answer.pools);
  byId("no-pools").hidden = pools.length > 0;
  if (!pools.length) return;
  table("pools", "all", "Kept for the next requests", () => [
    { label: "Proxy", kind: "head", of: ([name]) => name },
    { label: "HTTP/1 idle", kind: "amount", of: ([, pool]) => format("count", pool.http1_idle) },
    { label: "HTTP/2", kind: "amount", of: ([, pool]) => format("count", pool.http2_connections) },
    { label: "HTTP/2 idle", kind: "amount", of: ([, pool]) => format("count", pool.http2_idle) },
  ]).update(pools, ([name]) => name);
}

// ------------------------------------------------------------------------------ doing

async function act(path, body, what, method = "POST") {
  try {
    const answer = await call(method, path, body);
    const failed = Object.keys(answer.workers.failed);
    const extra = answer.purged === undefined ? "" : answer.purged === null ? ", how many is not known" : `, ${answer.purged} found`;
    const text = failed.length ? `${what}: done, but not by workers ${failed.join(", ")}` : `${what}: done${extra}`;
    await poll();
    note(text);
  } catch (error) {
    if (error.status === 401) { askForToken(); return; }
    note(`${what}: ${error.status ? error.message : "the server cannot be reached"}`);
  }
}
function note(text) {
  banner(text, true);
  announce(text);
}

byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  poll().then(() => { if (!byId("board").hidden) byId("main").focus({ preventScroll: true }); });
});
byId("sign-out").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  clearTimeout(timer);
  askForToken();
});
byId("purge").addEventListener("submit", async (event) => {
  event.preventDefault();
  const by = byId("purge-by").value, what = byId("purge-what").value.trim();
  await act("cache/purge", { cache: byId("purge-cache").value, [by]: what, soft: byId("purge-soft").checked }, `Purge ${what}`);
});
byId("purge-by").addEventListener("change", () => {
  byId("purge-what").placeholder = byId("purge-by").value === "url" ? "https://example.com/logo.png" : "products";
});
byId("level").addEventListener("submit", async (event) => {
  event.preventDefault();
  const level = byId("level-choice").value;
  await act("log-level", { level }, `Log level ${level}`, "PUT");
});
byId("config").addEventListener("toggle", async () => {
  if (!byId("config").open) return;
  try {
    const { source, values } = await call("GET", "config");
    put(byId("config-text"), `from ${source}\n${JSON.stringify(values, null, 2)}`);
  } catch (error) {
    put(byId("config-text"), error.message);
  }
});
byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) status("warn", "Paused");
  poll();
});
document.addEventListener("visibilitychange", poll);

const THEMES = ["system", "light", "dark"];
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  put(byId("theme"), `Theme: ${theme}`);
}
let theme = THEMES.includes(localStorage.getItem(THEME)) ? localStorage.getItem(THEME) : "system";
setTheme(theme);
byId("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  localStorage.setItem(THEME, theme);
  setTheme(theme);
});

poll();
