// How numbers, times and jobs are written.

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

/** Milliseconds by which the server's clock is ahead of ours: ages are told by the clock that the times are from. */
let ahead = 0;

/** Keep the server's clock, as an answer tells it. */
export function heedClock(date) {
  if (date) ahead = Date.parse(date) - Date.now();
}

/** Return a number with separators. */
export function number(value) {
  return NUMBER.format(value);
}

/** Return a duration in its two largest units, as in "1 h 4 min". */
export function duration(seconds) {
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${NUMBER.format(Math.round(seconds * 10) / 10)} s`;
  const place = UNITS.findIndex(([size]) => seconds >= size);
  const [[size, unit], [smaller, rest] = [Infinity]] = UNITS.slice(place);
  const small = Math.floor((seconds % size) / smaller);
  return `${number(Math.floor(seconds / size))} ${unit}${small ? ` ${small} ${rest}` : ""}`;
}

/** Return how far a time is from now, as in "3 min ago". */
export function distance(at) {
  const seconds = (Date.now() + ahead - Date.parse(at)) / 1000;
  if (Math.abs(seconds) < 2) return "just now";
  const text = duration(Math.floor(Math.abs(seconds))).replace(/(\d+ (?:d|h|min)) .*/, "$1");
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

/** Tell whether a time is still to come. */
export function isToCome(at) {
  return Date.parse(at) > Date.now() + ahead;
}

/** Have an element tell a time, kept up to date by `tick`; the exact one is its title. */
export function setTime(node, at) {
  node.dateTime = node.title = at;
  const text = distance(at);
  if (node.textContent !== text) node.textContent = text;
}

/** Return an element that tells a time; see setTime. */
export function time(at) {
  const node = document.createElement("time");
  setTime(node, at);
  return node;
}

/** Bring all times on the page up to date. */
export function tick() {
  for (const node of document.querySelectorAll("time")) setTime(node, node.dateTime);
}

/** Return the beginning of an id, long enough for a search to find the job by it. */
export function short(id) {
  return id.slice(0, 13);
}

/** Return what a job is called in a sentence. */
export function nameOf(job) {
  return `${job.type} ${short(job.id)}`;
}

/** Return how much is done, as in "12,000 of 60,000"; "" where the job does not tell. */
export function doneOf({ done, total }) {
  if (done == null) return "";
  return total == null ? `${number(done)} done` : `${number(done)} of ${number(total)}`;
}

/** Return all that is known of a job's progress, in one line. */
export function figures(job) {
  const { done, total, rate, eta_seconds: eta } = job.progress;
  const percent = done != null && total > 0 ? Math.floor((1000 * done) / total) / 10 : null;
  const isAtWork = job.status === "running" || job.status === "halting";
  return [
    doneOf(job.progress),
    percent != null && `${percent < 10 ? percent : Math.floor(percent)}%`,
    isAtWork && rate >= 0.005 && `${number(rate < 10 ? rate : Math.round(rate))}/s`,
    isAtWork && eta != null && `${duration(Math.ceil(eta))} left`,
    job.status === "halted" && "everything is kept",
    job.status === "stopped" && job.attempt > 0 && "rolled back",
  ]
    .filter(Boolean)
    .join(" · ");
}
