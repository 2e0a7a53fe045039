// Numbers for people, and the arithmetic behind them.

const THIN = "\u202f";

function significant(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 || size === 0 ? 0 : size >= 9.995 ? 1 : 2);
}

// Each of these returns the number and its unit apart: they are set in different sizes.
function split(value, base, units) {
  let at = 0;
  while (Math.abs(value) >= base * 0.9995 && at < units.length - 1) { value /= base; at += 1; }
  return [at === 0 && Number.isInteger(value) ? String(value) : significant(value), units[at]];
}
const formats = {
  count: (value) => split(value, 1000, ["", "k", "M", "G"]),
  rate: (value) => { const [number, unit] = split(value, 1000, ["", "k", "M", "G"]); return [number, unit + "/s"]; },
  bytes: (value) => split(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]),
  share: (value) => [significant(value * 100), "%"],
  seconds: (value) => {
    if (value === 0) return ["0", "ms"];
    if (value < 0.9995e-3) return [significant(value * 1e6), "µs"];
    return value < 0.9995 ? [significant(value * 1e3), "ms"] : [significant(value), "s"];
  },
  span: (value) => {
    if (value < 60) return [String(Math.floor(value)), "s"];
    if (value < 3600) return [String(Math.floor(value / 60)), "min"];
    if (value < 86400) return [`${Math.floor(value / 3600)}${THIN}h${THIN}${Math.floor(value % 3600 / 60)}`, "min"];
    return [`${Math.floor(value / 86400)}${THIN}d${THIN}${Math.floor(value % 86400 / 3600)}`, "h"];
  },
};
const isKnown = (value) => value !== null && value !== undefined && !Number.isNaN(value);
function format(kind, value) {
  if (!isKnown(value)) return "–";
  const [number, unit] = formats[kind](value);
  return unit ? number + THIN + unit : number;
}
const clockTime = (moment) => new Date(moment).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

// The value below which a share of what was counted lies, taken to be even within each range; the
// end of the last range for what lies beyond it.
function percentile(bounds, counts, share) {
  const total = sum(counts);
  if (total === 0) return null;
  let left = share * total;
  for (let at = 0; at < bounds.length; at += 1) {
    if (counts[at] > 0 && left <= counts[at]) {
      const low = at === 0 ? 0 : bounds[at - 1];
      return low + (bounds[at] - low) * left / counts[at];
    }
    left -= counts[at];
  }
  return bounds[bounds.length - 1];
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const largest = (numbers) => numbers.reduce((most, number) => isKnown(number) && (most === null || number > most) ? number : most, null);
const minus = (later, earlier) => later.map((number, at) => number - (earlier[at] ?? 0));

// What of the caches together came from the store, and how much was asked.
function cacheCounts(caches) {
  let served = 0, asked = 0;
  for (const { requests } of Object.values(caches)) {
    if (!requests) continue;
    served += requests.hits + requests.revalidated + requests.stale + requests.stale_updating;
    asked += requests.requests;
  }
  return [served, asked];
}

// What lies between two answers of the server; null where they cannot be compared, because
// another process has answered or it has begun to count anew.
function difference(now, before) {
  const traffic = now.traffic, old = before.traffic;
  const seconds = now.time - before.time;
  if (!traffic || !old || seconds <= 0) return null;
  if (now.pid !== before.pid && !now.is_of_all_workers) return null;
  const kinds = Object.keys(traffic.requests);
  const requests = Object.fromEntries(kinds.map((kind) => [kind, traffic.requests[kind] - (old.requests[kind] ?? 0)]));
  const counts = minus(traffic.counts, old.counts);
  if (Object.values(requests).some((number) => number < 0) || counts.some((number) => number < 0)) return null;
  return { seconds, requests, counts, bounds: traffic.bounds };
}

function cacheShare(now, before) {
  const [served, asked] = minus(cacheCounts(now.caches), cacheCounts(before.caches));
  return asked > 0 && served >= 0 ? Math.min(served / asked, 1) : null;
}

// What each worker has done since the answer before: shares of a CPU, requests a second.
function workerRates(now, before) {
  const rates = new Map();
  const seconds = now.time - before.time;
  const old = new Map(before.workers.map((row) => [row.pid, row]));
  for (const row of now.workers) {
    const earlier = old.get(row.pid);
    if (!earlier || seconds <= 0 || !isKnown(row.cpu) || !isKnown(earlier.cpu)) continue;
    const cpu = (row.cpu - earlier.cpu) / seconds, rate = (row.requests - earlier.requests) / seconds;
    if (cpu >= 0 && rate >= 0) rates.set(row.pid, { cpu, rate });
  }
  return rates;
}
