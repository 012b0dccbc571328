// Elements that the list and the page of a job share.

import { h, setText } from "./dom.js";
import { say, sayError } from "./notices.js";

const SIGNS = {
  submitted: "○",
  running: "▸",
  halting: "◐",
  halted: "‖",
  stopping: "◑",
  stopped: "■",
  completed: "✓",
  failed: "✕",
};

/** Return the badge of a status; see setBadge. */
export function badge(status) {
  const node = h("span", { class: "badge" }, h("span", { class: "sign", "aria-hidden": "true" }), h("span"));
  setBadge(node, status);
  return node;
}

/** Show a status in a badge: by colour, sign and name. */
export function setBadge(node, status) {
  node.dataset.status = status;
  setText(node.firstChild, SIGNS[status]);
  setText(node.lastChild, status);
}

/** Return the warning for a job that is stuck, ignores a stop or is being forced to stop; "" for any other job. */
export function alarmOf(job) {
  if (job.forced) return "being stopped by force";
  if (job.unresponsive) return "does not respond to the stop";
  return job.stuck ? "stuck: no checkpoint for too long" : "";
}

/** Show the progress of a job in a bar. Hides the bar unless the job reports `done` and `total`. */
export function setBar(bar, job) {
  const { done, total } = job.progress;
  bar.hidden = !(total > 0) || done == null;
  bar.max = total || 1;
  bar.value = done ?? 0;
  bar.dataset.status = job.status;
}

/** Return a button that copies an id. */
export function copyButton(id) {
  return h(
    "button",
    {
      class: "quiet copy",
      title: `Copy ${id}`,
      "aria-label": `Copy the id ${id}`,
      onclick: () => copy(id).catch(sayError),
    },
    "Copy",
  );
}

/** Copy a text. Browsers offer navigator.clipboard on secure pages only; other pages need execCommand. */
async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else {
    const field = h("textarea", { class: "unseen" }, text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say(`Copied ${text}`);
}

/** Return a link to another view. app.js follows it without loading the page again. */
export function viewLink(query, attributes, ...children) {
  return h("a", { href: `?${query}`, "data-view": true, ...attributes }, ...children);
}

/** Return the first `most` labels of a job. Each links to the jobs that have it. */
export function labelLinks({ id, labels }, most = Infinity) {
  const pairs = Object.entries(labels);
  const links = pairs.slice(0, most).map(([name, value]) => {
    const label = `${name}:${value}`;
    return viewLink(new URLSearchParams({ label }), { class: "label", title: `All jobs with ${label}` }, label);
  });
  const rest = pairs.length - links.length;
  return h("div", { class: "labels" }, links, rest > 0 && jobLink(id, { class: "label" }, `${rest} more`));
}

/** Return a link to a job. */
export function jobLink(id, attributes, ...children) {
  return viewLink(new URLSearchParams({ job: id }), attributes, ...children);
}
