// Format numbers, times and jobs as text.

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

/** Milliseconds by which the server's clock is ahead of the browser's. Ages refer to the server's clock. */
let ahead = 0;

/** Store the offset of the server's clock; `date` is the Date header of an answer. */
export function heedClock(date) {
  if (date) ahead = Date.parse(date) - Date.now();
}

/** Return a number with thousands separators. */
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

/** Return true if a time is in the future. */
export function isToCome(at) {
  return Date.parse(at) > Date.now() + ahead;
}

/** Show the distance to a time in an element, with the exact time as its title. `tick` keeps it up to date. */
export function setTime(node, at) {
  node.dateTime = node.title = at;
  const text = distance(at);
  if (node.textContent !== text) node.textContent = text;
}

/** Return an element that shows a time; see setTime. */
export function time(at) {
  const node = document.createElement("time");
  setTime(node, at);
  return node;
}

/** Update all times on the page. */
export function tick() {
  for (const node of document.querySelectorAll("time")) setTime(node, node.dateTime);
}

/** Return the beginning of an id: enough characters to find the job by a search. */
export function short(id) {
  return id.slice(0, 13);
}

/** Return the name of a job for use in a sentence. */
export function nameOf(job) {
  return `${job.type} ${short(job.id)}`;
}

/** Return how much is done, as in "12,000 of 60,000"; "" if the job does not report it. */
export function doneOf({ done, total }) {
  if (done == null) return "";
  return total == null ? `${number(done)} done` : `${number(done)} of ${number(total)}`;
}

/** Return everything known about a job's progress, in one line. */
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
