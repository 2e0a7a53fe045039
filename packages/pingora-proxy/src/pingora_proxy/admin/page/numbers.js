// Numbers for people, and the arithmetic behind them.

const THIN = "\u202f";

function significant(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : 2);
}

// Each of these returns the number and its unit apart: they are set in different sizes.
function split(value, base, units) {
  let at = 0;
  while (Math.abs(value) >= base && at < units.length - 1) { value /= base; at += 1; }
  return [at === 0 && Number.isInteger(value) ? String(value) : significant(value), units[at]];
}
const formats = {
  count: (value) => split(value, 1000, ["", "k", "M", "G"]),
  rate: (value) => { const [number, unit] = split(value, 1000, ["", "k", "M", "G"]); return [number, unit + "/s"]; },
  bytes: (value) => split(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]),
  share: (value) => [significant(value * 100), "%"],
  seconds: (value) => {
    if (value === 0) return ["0", "ms"];
    if (value < 1e-3) return [significant(value * 1e6), "µs"];
    return value < 1 ? [significant(value * 1e3), "ms"] : [significant(value), "s"];
  },
  span: (value) => {
    if (value < 60) return [String(Math.floor(value)), "s"];
    if (value < 3600) return [String(Math.floor(value / 60)), "min"];
    if (value < 86400) return [`${Math.floor(value / 3600)}${THIN}h${THIN}${Math.floor(value % 3600 / 60)}`, "min"];
    return [`${Math.floor(value / 86400)}${THIN}d${THIN}${Math.floor(value % 86400 / 3600)}`, "h"];
  },
};
function format(kind, value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const [number, unit] = formats[kind](value);
  return unit ? number + THIN + unit : number;
}

// The value below which a share of what was counted lies, taken to be even within each range.
function percentile(bounds, counts, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
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
  if (now.pid !== before.pid) return null;
  const [served, asked] = minus(cacheCounts(now.caches), cacheCounts(before.caches));
  return asked > 0 && served >= 0 ? served / asked : null;
}
