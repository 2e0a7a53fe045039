// Shows what comes back.

const WINDOW = 10;
const FEW_ROWS = 10;
const MOST_ROWS = 1000;
const GAP = Math.max(12, 3 * PERIOD / 1000);
const THEME = "pingora-admin-theme";

let answers = [];
let points = [];
let last = null;
let isAfterGap = false;
let lastReady = null;
let lastStates = new Map();
let lastWorkers = null;
let listsAll = false;
let rates = new Map();
const shown = {};
const courses = new Map();

function show(answer) {
  byId("sign-in").hidden = true;
  byId("board").hidden = false;
  byId("board").classList.remove("stale");
  byId("sign-out").hidden = !token();
  if (!noteUntil) banner("");
  const why = answer.missing.length ? `Not ready: ${answer.missing.join(", ")}` : "Not ready";
  if (isPaused) status("warn", "Paused");
  else status(answer.is_ready ? "good" : "warn", answer.is_ready ? "Ready" : why);
  if (lastReady !== null && lastReady !== answer.is_ready) happened(answer.is_ready ? "good" : "bad", answer.is_ready ? "The server is ready" : why);
  lastReady = answer.is_ready;
  document.title = `${answer.is_ready ? "" : "Not ready · "}Pingora · ${location.host}`;
  put(byId("process"), `${location.host} · ${answer.phase}`);
  put(byId("scope"), answer.traffic && !answer.is_of_all_workers && answer.worker_count > 1 ? `of process ${answer.pid} only: give AdminService WorkerMetrics` : "");
  put(byId("foot"), `Pingora for Python ${answer.version}, every ${PERIOD / 1000} s, told by process ${answer.pid}. Refused requests to this interface there: ${answer.refused}.`);
  last = answer;
  record(answer);
  showWorkers(answer);
  showTiles(answer);
  showPlots(answer);
  showUpstreams(answer);
  showCaches(answer);
  showPools(answer);
  const level = byId("level-choice");
  if (document.activeElement !== level && level.dataset.known !== answer.log_level) level.value = level.dataset.known = answer.log_level;
}

function redraw() {
  if (last) showPlots(last);
}

// --------------------------------------------------------------------------- numbers over time

function record(answer) {
  const now = seconds();
  const before = answers[answers.length - 1];
  // The same answer again: somebody else has asked within the same half second.
  if (before && before.time === answer.time && before.pid === answer.pid) return;
  isAfterGap = Boolean(before) && (now - before.heard > GAP || answer.time < before.time);
  if (isAfterGap) answers = [];
  answers = answers.filter((each) => now - each.heard <= WINDOW + PERIOD / 1000);
  if (before && !isAfterGap && answers.length === 0) answers = [before];
  answers.push({ ...answer, heard: now });
  const lastDifference = before && !isAfterGap ? difference(answer, before) : null;
  if (answer.traffic && before && !isAfterGap && !lastDifference) answers = answers.slice(-1);
  rates = before && !isAfterGap ? workerRates(answer, before) : new Map();
  const rows = Object.values(answer.backends).flat();
  const point = {
    time: now, clock: Date.now(), isAfterGap: isAfterGap || Boolean(answer.traffic && before && !lastDifference),
    active: answer.traffic?.active, connections: answer.traffic?.connections,
    cached: answers.length > 1 ? cacheShare(answer, answers[0]) : null,
    ready: rows.filter((row) => row.is_ready).length, all: rows.length,
    cpu: rates.size ? sum([...rates.values()].map((each) => each.cpu)) : null,
    busiest: rates.size ? largest([...rates.values()].map((each) => each.cpu)) : null,
    memory: sum(answer.workers.map((row) => row.memory ?? 0)),
  };
  if (before && answers.length > 1 && Object.keys(answer.caches).length) {
    const served = cacheCounts(answer.caches)[0] - cacheCounts(before.caches)[0];
    point.servedRate = served >= 0 ? served / (answer.time - before.time) : null;
  }
  if (lastDifference) fill(point, lastDifference, answers.length > 1 ? difference(answer, answers[0]) : null);
  points.push(point);
  points = points.filter((each) => now - each.time <= SPAN);
}

function fill(point, near, far) {
  const all = sum(Object.values(near.requests)), failed = near.requests["5xx"], cut = near.requests.none;
  Object.assign(point, {
    rate: all / near.seconds, clientFaults: near.requests["4xx"] / near.seconds,
    serverFaults: failed / near.seconds, cutOff: cut / near.seconds, faultShare: all ? (failed + cut) / all : null,
  });
  if (!far) return;
  Plot.topBound = far.bounds[far.bounds.length - 1];
  for (const [name, share] of [["p50", 0.5], ["p90", 0.9], ["p99", 0.99]]) point[name] = percentile(far.bounds, far.counts, share);
}

const most = (key) => largest(points.map((point) => point[key]));

// --------------------------------------------------------------------------- tiles and plots

function tile(label) {
  const number = make("span"), unit = make("small"), more = make("dd", { class: "more" });
  const box = make("div", { class: "tile" }, make("dt", {}, label), make("dd", { class: "number" }, number, unit), more);
  byId("tiles").append(box);
  return (kind, value, text, look = "") => {
    const [digits, name] = isKnown(value) ? formats[kind](value) : ["–", ""];
    put(number, digits); put(unit, name); put(more, text);
    box.dataset.kind = look;
  };
}
const tiles = {
  rate: tile("Requests"), faults: tile("Server errors"), slow: tile("Latency, p99"), active: tile("In flight"),
  ready: tile("Upstreams ready"), cached: tile("From cache"), workers: tile("Workers ready"),
};

function showTiles(answer) {
  const point = points[points.length - 1] ?? {};
  tiles.rate("rate", point.rate, most("rate") === null ? "no data yet" : `peak ${format("rate", most("rate"))}`);
  const share = point.faultShare;
  tiles.faults("share", share ?? (isKnown(point.rate) ? 0 : null), isKnown(point.rate) ? `${format("rate", point.serverFaults + point.cutOff)} of ${format("rate", point.rate)}` : "no data yet", share > 0.01 ? "bad" : share > 0 ? "warn" : "");
  tiles.slow("seconds", point.p99, isKnown(point.p50) ? `${point.p99 >= Plot.topBound ? "or more; " : ""}half below ${format("seconds", point.p50)}` : "no requests lately");
  tiles.active("count", answer.traffic?.active, isKnown(answer.traffic?.connections) ? `on ${format("count", answer.traffic.connections)} connections` : "connections not known");
  const rows = Object.values(answer.backends).flat();
  const ready = rows.filter((row) => row.is_ready).length;
  tiles.ready("count", rows.length ? ready : null, rows.length ? ready < rows.length ? `of ${rows.length}; ${rows.length - ready} not ready` : `of ${rows.length}` : "none are shown", rows.length && ready === 0 ? "bad" : ready < rows.length ? "warn" : "");
  const [served, asked] = cacheCounts(answer.caches);
  tiles.cached("share", point.cached, asked ? `${format("share", served / asked)} in all` : "no cache is asked");
  const here = answer.workers.filter((row) => row.is_ready).length;
  tiles.workers("count", here, `of ${answer.worker_count}${isKnown(point.cpu) ? `; CPU ${format("share", point.cpu)}` : ""}`, here === 0 ? "bad" : here < answer.worker_count ? "warn" : "");
}

const PLOTS = {
  rate: ["traffic", { title: "Requests", kind: "rate", top: 1, series: [{ key: "rate", label: "all", look: "blue" }, { key: "servedRate", label: "from cache", look: "green dashed" }] }],
  faults: ["traffic", { title: "Errors", kind: "rate", top: 1, series: [{ key: "serverFaults", label: "5xx", look: "orange" }, { key: "clientFaults", label: "4xx", look: "purple dashed" }, { key: "cutOff", label: "no answer", look: "blue dotted" }] }],
  slow: ["traffic", { title: "Latency", kind: "seconds", top: 0.001, note: "of the last 10 s", series: [{ key: "p50", label: "p50", look: "blue" }, { key: "p90", label: "p90", look: "purple dashed" }, { key: "p99", label: "p99", look: "orange dotted" }] }],
  active: ["traffic", { title: "Concurrency", kind: "count", top: 4, series: [{ key: "active", label: "in flight", look: "blue" }, { key: "connections", label: "connections", look: "purple dashed" }] }],
  ready: ["backends", { title: "Upstreams", kind: "count", top: 3, series: [{ key: "ready", label: "ready", look: "green", isStep: true }, { key: "all", label: "all", look: "purple dashed", isStep: true }] }],
  cached: ["caches", { title: "From cache", kind: "share", top: 1, limit: 1, note: "of the last 10 s", series: [{ key: "cached", label: "of all asked", look: "green" }] }],
  cpu: ["workers", { title: "CPU of the workers", kind: "share", top: 0.1, series: [{ key: "cpu", label: "all", look: "blue" }, { key: "busiest", label: "busiest", look: "orange dotted" }] }],
  memory: ["workers", { title: "Memory of the workers", kind: "bytes", top: 1048576, series: [{ key: "memory", label: "resident", look: "blue" }] }],
};
const plots = new Map();
function showPlots(answer) {
  const hint = byId("no-traffic");
  hint.hidden = answer.traffic !== null && sum(Object.values(answer.traffic.requests)) > 0;
  put(hint, answer.traffic === null ? "There are no numbers of requests. Give AdminService its metrics, and the proxy its ProxyMetrics." : "Waiting for the first request.");
  for (const [name, [source, options]] of Object.entries(PLOTS)) {
    if (!plots.has(name)) plots.set(name, new Plot(byId("plots"), options));
    const plot = plots.get(name);
    const value = answer[source];
    plot.figure.hidden = value === null || Object.keys(value).length === 0;
    plot.update(points, seconds());
  }
}

// --------------------------------------------------------------------------- tables

function table(host, key, made) {
  shown[host] ??= new Map();
  if (!shown[host].has(key)) shown[host].set(key, made());
  return shown[host].get(key);
}
function prune(host, keys) {
  for (const [key, { table: element }] of shown[host] ?? []) {
    if (!keys.includes(key)) { element.remove(); shown[host].delete(key); }
  }
}

// The states that each backend has had while the page looked, as runs; none older than the plots.
function keepCourses(states) {
  const now = seconds();
  for (const [key, state] of states) {
    const runs = courses.get(key) ?? [];
    const current = runs[runs.length - 1];
    if (current && current.state === state && !isAfterGap) current.to = now;
    else {
      if (current && !isAfterGap) current.to = now;
      runs.push({ state, look: stateOf(state).look, from: now, to: now });
    }
    while (runs.length > 1 && (now - runs[0].to > SPAN || runs.length > 60)) runs.shift();
    courses.set(key, runs);
  }
  for (const key of courses.keys()) if (!states.has(key)) courses.delete(key);
}
function stripOf(key) {
  const now = seconds();
  const runs = courses.get(key) ?? [];
  const span = spanOf(points, now);
  const changes = runs.slice(-4).map(({ state, from }, at) => at === 0 ? state : `${state} since ${format("span", now - from)}`);
  return { runs, start: now - span, end: now, text: `Of the last ${format("span", span)}: ${changes.join(", then ")}` };
}

// Of several workers some may see it otherwise than the others.
function describe(row) {
  const { text, sign, look } = stateOf(row.state);
  const counts = Object.entries(row.states ?? {});
  const all = sum(counts.map(([, count]) => count));
  return { sign, look, text: counts.length > 1 ? `${text} in ${row.states[row.state] ?? 0} of ${all}` : text };
}

function showUpstreams(answer) {
  const pools = Object.entries(answer.backends);
  prune("upstreams", Object.keys(answer.backends));
  byId("no-upstreams").hidden = pools.length > 0;
  const states = new Map();
  for (const [pool, rows] of pools) for (const row of rows) states.set(`${pool} ${row.address}`, row.state);
  keepCourses(states);
  let hidden = 0, isLong = false;
  for (const [pool, rows] of pools) {
    readiness.set(pool, rows.filter((row) => row.is_ready).length);
    // Of many those that are not ready come first, and only some are listed.
    isLong ||= rows.length > FEW_ROWS;
    const sorted = rows.length > FEW_ROWS ? [...rows.filter((row) => !row.is_ready), ...rows.filter((row) => row.is_ready)] : rows;
    const listed = sorted.slice(0, listsAll ? MOST_ROWS : FEW_ROWS);
    hidden += rows.length - listed.length;
    table("upstreams", pool, () => new Table(byId("upstreams"), pool, upstreamColumns(pool))).update(listed, (row) => row.address);
  }
  const all = pools.flatMap(([, rows]) => rows);
  put(byId("upstreams-sum"), all.length ? `${all.filter((row) => row.is_ready).length} of ${all.length} ready${hidden ? `, ${hidden} not listed` : ""}` : "");
  const more = byId("all-upstreams");
  more.hidden = !isLong;
  put(more, listsAll ? "List only some" : `List ${Math.min(all.length, MOST_ROWS)} upstreams`);
  tellChanges(states);
}
function tellChanges(states) {
  const changed = [...states].filter(([key, state]) => lastStates.has(key) && lastStates.get(key) !== state);
  for (const [key, state] of changed.slice(0, 10)) happened(stateOf(state).look === "off" ? "note" : stateOf(state).look, `${key.slice(key.indexOf(" ") + 1)} is ${state}`, false);
  if (changed.length > 10) happened("warn", `${changed.length - 10} more upstreams have changed`, false);
  if (changed.length > 3) announce(`${changed.length} upstreams have changed`);
  else if (changed.length) announce(changed.map(([key, state]) => `${key.slice(key.indexOf(" ") + 1)} is ${state}`).join(", "));
  lastStates = states;
}
function upstreamColumns(pool) {
  const actions = (row) => (row.is_enabled ? ["Drain", "Disable"] : ["Enable"]).map((text) => ({
    text, label: `${text} ${row.address}`,
    needsCertainty: text !== "Enable" && row.is_ready && (readiness.get(pool) ?? 0) <= 1,
    run: () => act(`backends/${text.toLowerCase()}`, { pool, address: row.address }, `${text} ${row.address}`),
  }));
  return [
    { label: "Address", kind: "head", of: (row) => row.address },
    { label: "State", kind: "state", of: describe },
    { label: "The last minutes", kind: "strip", of: (row) => stripOf(`${pool} ${row.address}`) },
    { label: "In flight", kind: "amount", of: (row) => format("count", row.in_flight) },
    { label: "Latency", kind: "amount", of: (row) => format("seconds", row.latency) },
    { label: "Weight", kind: "amount", of: (row) => String(row.weight) },
    { label: "Change", kind: "actions", of: actions },
  ];
}
const readiness = new Map();

const CACHE_FACTS = [
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
  prune("caches", names);
  for (const [name, cache] of Object.entries(answer.caches)) table("caches", name, () => new Facts(byId("caches"), name, CACHE_FACTS)).update(cache);
}

function showWorkers(answer) {
  const rows = answer.workers;
  byId("no-workers").hidden = rows.length > 0;
  byId("workers").hidden = rows.length === 0;
  const { killed = 0, ended = 0 } = answer.worker_ends;
  put(byId("workers-sum"), `${rows.filter((row) => isKnown(row.uptime)).length} of ${answer.worker_count} answer${killed + ended ? `; ${killed + ended} replaced so far, ${killed} of them killed` : ""}`);
  table("workers", "all", () => new Table(byId("workers"), "Worker processes", [
    { label: "Process", kind: "head", of: (row) => String(row.pid) },
    { label: "State", kind: "state", of: (row) => !isKnown(row.uptime) ? { text: "No answer", sign: "▲", look: "bad" } : row.is_ready ? stateOf("ready") : { text: "Not ready", sign: "■", look: "warn" } },
    { label: "Requests", kind: "amount", of: (row) => format("rate", rates.get(row.pid)?.rate) },
    { label: "CPU", kind: "amount", of: (row) => format("share", rates.get(row.pid)?.cpu) },
    { label: "Memory", kind: "amount", of: (row) => format("bytes", row.memory) },
    { label: "Up for", kind: "amount", of: (row) => format("span", row.uptime) },
  ])).update(rows, (row) => row.pid);
  const pids = new Set(rows.filter((row) => isKnown(row.uptime)).map((row) => row.pid));
  if (lastWorkers) {
    for (const pid of pids) if (!lastWorkers.has(pid)) happened("note", `Worker ${pid} has begun`);
    for (const pid of lastWorkers) if (!pids.has(pid)) happened("warn", `Worker ${pid} ${rows.some((row) => row.pid === pid) ? "does not answer" : "has ended"}`);
  }
  lastWorkers = pids;
}

const POOL_FACTS = [
  ["HTTP/1 idle", "count", (pool) => pool.http1_idle], ["HTTP/2", "count", (pool) => pool.http2_connections], ["HTTP/2 idle", "count", (pool) => pool.http2_idle],
];
function showPools(answer) {
  const pools = Object.entries(answer.pools);
  byId("no-pools").hidden = pools.length > 0;
  prune("pools", Object.keys(answer.pools));
  for (const [name, pool] of pools) table("pools", name, () => new Facts(byId("pools"), name, POOL_FACTS)).update(pool);
}

// --------------------------------------------------------------------------- doing

async function act(path, body, what, method = "POST") {
  try {
    const answer = await call(method, path, body);
    const failed = Object.keys(answer.workers.failed);
    const extra = answer.purged === undefined ? "" : answer.purged === null ? ", how many is not known" : `, ${answer.purged} found`;
    const text = failed.length ? `${what}: done, but not by workers ${failed.join(", ")}` : `${what}: done${extra}`;
    // An answer that is on its way may be older than the change.
    await asking;
    await poll();
    happened(failed.length ? "warn" : "note", text, false);
    note(text);
  } catch (error) {
    if (error.status === 401 || error.status === 429) { askForToken(error); return; }
    note(`${what}: ${error.status ? error.message : "the server cannot be reached"}`);
  }
}

byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  session.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  poll().then(() => { if (!byId("board").hidden) byId("main").focus({ preventScroll: true }); });
});
byId("sign-out").addEventListener("click", () => {
  session.removeItem(TOKEN);
  clearTimeout(timer);
  askForToken();
});
byId("all-upstreams").addEventListener("click", () => {
  listsAll = !listsAll;
  byId("all-upstreams").setAttribute("aria-expanded", String(listsAll));
  if (last) showUpstreams(last);
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
    const { source, values, application } = await call("GET", "config");
    put(byId("config-text"), `from ${source}\n${JSON.stringify({ ...values, ...application }, null, 2)}`);
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
addEventListener("online", poll);

const THEMES = ["system", "light", "dark"];
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  put(byId("theme"), `Theme: ${theme}`);
}
let theme = THEMES.includes(local.getItem(THEME)) ? local.getItem(THEME) : "system";
setTheme(theme);
byId("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  local.setItem(THEME, theme);
  setTheme(theme);
});

setInterval(tick, 1000);
poll();
