// What the page says about what was done: seen in a corner, and read out by screen readers.

import { h } from "./dom.js";

const SHOWN_MILLISECONDS = 8_000;
const MOST = 4;

/** Say something. It goes by itself; what went wrong stays until it is dismissed. */
export function say(text, { isError = false } = {}) {
  const corner = document.getElementById(isError ? "errors" : "notices");
  if ([...corner.children].some((notice) => notice.firstElementChild.textContent === text)) return;
  const dismiss = h("button", { class: "quiet", "aria-label": "Dismiss", onclick: () => notice.remove() }, "×");
  const notice = h("div", { class: "notice" }, h("span", {}, text), dismiss);
  corner.append(notice);
  if (corner.children.length > MOST) corner.firstElementChild.remove();
  if (!isError) setTimeout(() => notice.remove(), SHOWN_MILLISECONDS);
}

/** Say what went wrong; not that a token is needed, which is asked for. */
export function sayError(error) {
  if (error.status !== 401) say(error.message, { isError: true });
}
