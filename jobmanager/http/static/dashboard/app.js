// The dashboard: which view the address means, and the way from one to another without loading the page again.

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

/** Show what the address means. */
function show() {
  for (const dialog of document.querySelectorAll("dialog")) dialog.close(""); // what it is about is out of sight
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
  if (!isFirst) main.focus(); // what had the focus is gone
}

/** Lead to a view: to a new place in the browser's history, or in place of the present one. */
function go(query, replace = false) {
  const address = query.size ? `?${query}` : ".";
  history[replace ? "replaceState" : "pushState"](null, "", address);
  show();
}

/** Show it all anew, for somebody else may be asking now; what was typed into a form is kept. */
function again() {
  showToken();
  if (!(page instanceof SubmitPage)) close();
  show();
}

function close() {
  page?.leave();
  page = null;
}

/** Ask for a token; until there is one, nothing is shown. */
function askWho(wrong) {
  if (!(page instanceof SubmitPage)) {
    close();
    const enterToken = h("button", { class: "primary", onclick: () => askForToken("", again) }, "Enter a token");
    const text = [h("h2", {}, "Without a token nothing can be shown"), enterToken];
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
