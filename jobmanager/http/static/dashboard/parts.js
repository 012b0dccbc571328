// Parts of the page that show a job, wherever it is shown.

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

/** Have a badge show a status: by colour, by sign and by its name. */
export function setBadge(node, status) {
  node.dataset.status = status;
  setText(node.firstChild, SIGNS[status]);
  setText(node.lastChild, status);
}

/** Return what is wrong with a job that looks alive, or "". */
export function alarmOf(job) {
  if (job.forced) return "being stopped by force";
  if (job.unresponsive) return "does not answer the stop";
  return job.stuck ? "stuck: no checkpoint for too long" : "";
}

/** Have a bar show how far a job is; hidden where the job does not tell. */
export function setBar(bar, job) {
  const { done, total } = job.progress;
  bar.hidden = !(total > 0) || done == null;
  bar.max = total || 1;
  bar.value = done ?? 0;
  bar.dataset.status = job.status;
}

/** Return the button that copies an id. */
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

/** Browsers give the clipboard to secure pages only; on others there is an older way. */
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

/** Return a link to another view of this page, which app.js follows without loading it again. */
export function viewLink(query, attributes, ...children) {
  return h("a", { href: `?${query}`, "data-view": true, ...attributes }, ...children);
}

/** Return the labels of a job, each a link to the jobs that have it; the first few, or all. */
export function labelLinks({ id, labels }, most = Infinity) {
  const pairs = Object.entries(labels);
  const links = pairs.slice(0, most).map(([name, value]) => {
    const label = `${name}:${value}`;
    return viewLink(new URLSearchParams({ label }), { class: "label", title: `All jobs with ${label}` }, label);
  });
  const rest = pairs.length - links.length;
  return h("div", { class: "labels" }, links, rest > 0 && jobLink(id, { class: "label" }, `${rest} more`));
}

/** Return the link to a job. */
export function jobLink(id, attributes, ...children) {
  return viewLink(new URLSearchParams({ job: id }), attributes, ...children);
}
