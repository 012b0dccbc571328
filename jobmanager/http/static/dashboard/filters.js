// The filter of the list. It is the query of the page's address, with the parameters of GET /jobs.

import { LIFE, STATUSES } from "./control.js";
import { h, setText } from "./dom.js";
import { number } from "./format.js";
import { badge, viewLink } from "./parts.js";

const TYPING_MILLISECONDS = 300;
/** Parameters whose values are shown as tags that can be removed. */
const TAGGED = ["label", "submitted_after", "submitted_before"];

/** Return the statuses that match a filter and allow an action. */
export function openTo(action, filter) {
  const statuses = filter.has("status") ? filter.getAll("status") : STATUSES;
  return statuses.filter((status) => LIFE[status]?.includes(action));
}

/** Return a filter without its statuses, and without the parameters that select a page of the list. */
export function besidesStatus(filter) {
  return new URLSearchParams([...filter].filter(([name]) => !["status", "cursor", "limit"].includes(name)));
}

/** The controls of the filter. `go(filter, replace)` is called with each new filter. */
export class Filters {
  #filter = new URLSearchParams();
  #go;
  #search;
  #typing;
  #type;
  #label;
  #tags = h("span", { class: "tags" });
  #chips;

  constructor(go) {
    this.#go = go;
    this.#search = h("input", { type: "search", placeholder: "Search id, type or label", "aria-label": "Search" });
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#change("q", [], true), TYPING_MILLISECONDS);
    });
    this.#type = h("select", { "aria-label": "Type", onchange: () => this.#change("type", [this.#type.value]) });
    this.#label = h("input", { name: "label", placeholder: "label:value", "aria-label": "Label, as name:value" });
    const add = h("form", { onsubmit: (event) => this.#addLabel(event) }, this.#label);
    this.#chips = new Map(STATUSES.map((status) => [status, this.#chip(status)]));
    const chips = [...this.#chips.values()].map(({ node }) => node);
    this.element = h("section", { class: "filters", "aria-label": "Filter" }, [
      h("div", { class: "fields" }, this.#search, this.#type, add, this.#tags),
      h("div", { class: "chips", role: "group", "aria-label": "Status" }, chips),
    ]);
  }

  /** Offer these job types. Also offers the selected type if it is not one of them. */
  offer(types) {
    const names = new Set(types);
    if (this.#filter.get("type")) names.add(this.#filter.get("type"));
    const options = [...names].map((name) => h("option", { value: name }, name));
    this.#type.replaceChildren(h("option", { value: "" }, "All types"), ...options);
    this.#type.value = this.#filter.get("type") ?? "";
  }

  /** Show a filter in the controls. */
  show(filter) {
    this.#filter = filter;
    if (this.#search.value.trim() !== (filter.get("q") ?? "")) this.#search.value = filter.get("q") ?? "";
    this.offer([...this.#type.options].map((option) => option.value).filter(Boolean));
    for (const [status, { node }] of this.#chips) {
      node.setAttribute("aria-pressed", filter.getAll("status").includes(status));
    }
    this.#tags.replaceChildren(
      ...[...filter].filter(([name]) => TAGGED.includes(name)).map((pair) => tag(filter, pair)),
    );
  }

  /** Show the number of jobs in each status; `counts` is null if they are not known. */
  count(counts) {
    for (const [status, { count }] of this.#chips) setText(count, counts ? number(counts[status] ?? 0) : "");
  }

  /** Cancel a search that was typed but has not started yet. */
  leave() {
    clearTimeout(this.#typing);
  }

  #chip(status) {
    const count = h("span", { class: "count" });
    return { count, node: h("button", { class: "chip", onclick: () => this.#toggle(status) }, badge(status), count) };
  }

  #toggle(status) {
    const chosen = new Set(this.#filter.getAll("status"));
    if (!chosen.delete(status)) chosen.add(status);
    this.#change("status", [...chosen]);
  }

  #addLabel(event) {
    event.preventDefault();
    const label = this.#label.value.trim();
    if (!label) return;
    this.#label.value = "";
    this.#change("label", [...new Set([...this.#filter.getAll("label"), label])]);
  }

  /** Navigate to the filter with other values for one parameter, and with the current text of the search field. */
  #change(name, values, replace = false) {
    this.leave();
    const filter = new URLSearchParams([...this.#filter].filter(([each]) => !["cursor", "q", name].includes(each)));
    if (this.#search.value.trim()) filter.set("q", this.#search.value.trim());
    for (const value of values.filter(Boolean)) filter.append(name, value);
    this.#go(filter, replace);
  }
}

/** Return the tag of one parameter: a link to the filter without it. */
function tag(filter, [name, value]) {
  const others = new URLSearchParams(filter);
  others.delete("cursor");
  others.delete(name, value);
  const text = name === "label" ? value : `${name.replace("_", " ")} ${value}`;
  return viewLink(others, { class: "tag", "aria-label": `Remove ${text}` }, `${text} ×`);
}
