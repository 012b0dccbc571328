// The text that replaces an empty list.

import { h } from "./dom.js";
import { viewLink } from "./parts.js";
import { token } from "./token.js";

/** Return the text for a filter that matches no jobs, or, without a filter, how to submit the first job. */
export function emptiness(filter) {
  const isFiltered = [...filter].length > 0;
  return isFiltered ? notice("Nothing found", "No jobs match this filter.") : invitation();
}

/** Return a title, a text and a link to all jobs. */
export function notice(title, text) {
  return [h("h2", {}, title), h("p", {}, text), viewLink("", { class: "button" }, "All jobs")];
}

function invitation() {
  const authorization = token() ? " -H 'Authorization: Bearer …'" : "";
  const body = `'{"type": "Simple", "args": {"steps": 60}}'`;
  return [
    h("h2", {}, "No jobs yet"),
    h(
      "p",
      {},
      "A job is a long operation, such as an export, an import or a bulk change. ",
      "Submit one, halt it, look at it, and resume it from its checkpoint.",
    ),
    viewLink("submit", { class: "button primary" }, "Submit the first job"),
    h("p", { class: "hint" }, "or from a terminal:"),
    h("pre", {}, `curl -s ${new URL("jobs", document.baseURI)}${authorization} -d ${body}`),
  ];
}
