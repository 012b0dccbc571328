// The entry point of the dashboard: select the view from the address, and navigate without loading the page again.

import { showConnection } from "./connection.js";
import { h, visible } from "./dom.js";
import { tick } from "./format.js";
import { JobPage } from "./job.js";
import { ListPage } from "./list.js";
import { askForToken, showToken } from "./signin.js";
import { SubmitPage } from "./submit.js";
import { keepToken } from "./token.js";

const main = document.querySelector("main");
let page = null;

/** Show the view that the address selects. */
function show() {
  for (const dialog of document.querySelectorAll("dialog")) dialog.close(""); // it may concern a job of the old view
  const query = new URLSearchParams(location.search);
  if (query.has("job")) {
    if (page?.id !== query.get("job")) enter(new JobPage(query.get("job")));
  } else if (query.has("submit")) {
    if (!(page instanceof SubmitPage)) enter(new SubmitPage(go));
    page.show(query.get("submit"));
  } else {
    if (!(page instanceof ListPage)) enter(new ListPage(go));
    page.show(query);
  }
}

function enter(next) {
  const isFirst = page === null;
  page?.leave();
  page = next;
  document.title = visible(`${page.title} · Job manager`);
  main.replaceChildren(page.element);
  if (!isFirst) main.focus(); // the element that had the focus was removed
}

/** Navigate to a view. Adds an entry to the browser's history, or replaces the current one. */
function go(query, replace = false) {
  const address = query.size ? `?${query}` : ".";
  history[replace ? "replaceState" : "pushState"](null, "", address);
  show();
}

/** Redraw the view, because the token or its rights have changed. Keeps a form that is being filled in. */
function again() {
  showToken();
  if (!(page instanceof SubmitPage)) close();
  show();
}

function close() {
  page?.leave();
  page = null;
}

/** Ask for a token, and hide the view until there is one. Keeps a form that is being filled in. */
function askWho(wrong) {
  if (!(page instanceof SubmitPage)) {
    close();
    const enterToken = h("button", { class: "primary", onclick: () => askForToken("", again) }, "Enter a token");
    const text = [h("h2", {}, "Sign in to continue"), enterToken];
    main.replaceChildren(h("section", { class: "empty" }, text));
  }
  showConnection("over");
  showToken();
  askForToken(wrong, again);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-view]");
  if (!link || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(new URL(link.href).searchParams);
  main.focus();
  scrollTo(0, 0);
});
document.addEventListener("token-needed", ({ detail }) => askWho(detail));
document.addEventListener("refused", again);
document.getElementById("forget").addEventListener("click", () => {
  keepToken(null);
  askWho("");
});
addEventListener("popstate", show);
setInterval(tick, 1000);
showToken();
show();
