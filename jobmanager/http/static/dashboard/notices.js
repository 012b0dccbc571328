// Notices about actions and errors: shown in a corner, and read out by screen readers.

import { h } from "./dom.js";

const SHOWN_MILLISECONDS = 8_000;
const MOST = 4;

/** Show a notice for a few seconds; an error stays until it is dismissed. Does nothing if the text is shown already. */
export function say(text, { isError = false } = {}) {
  const corner = document.getElementById(isError ? "errors" : "notices");
  if ([...corner.children].some((notice) => notice.firstElementChild.textContent === text)) return;
  const dismiss = h("button", { class: "quiet", "aria-label": "Dismiss", onclick: () => notice.remove() }, "×");
  const notice = h("div", { class: "notice" }, h("span", {}, text), dismiss);
  corner.append(notice);
  if (corner.children.length > MOST) corner.firstElementChild.remove();
  if (!isError) setTimeout(() => notice.remove(), SHOWN_MILLISECONDS);
}

/** Show an error. Ignores a 401, for which the sign-in dialog opens. */
export function sayError(error) {
  if (error.status !== 401) say(error.message, { isError: true });
}
