// Modal dialogs. The element <dialog> keeps the focus inside; Escape counts as no.

import { h } from "./dom.js";

/**
 * Ask a question. Resolves to the reason that was typed, or to null if the answer is no.
 * `lines` are shown above the reason. If `isFinal`, the button for no has the focus.
 */
export function confirm({ title, lines, yes, no = "Cancel", isFinal = false }) {
  const reason = h("input", { id: "dialog-reason", maxlength: 1000, autocomplete: "off" });
  const hint = h("span", { class: "hint" }, "optional, stored with the change");
  const label = h("label", { for: reason.id }, "Reason ", hint);
  const dialog = open(title, [lines, label, reason].flat(), [
    h("button", { type: "button", autofocus: isFinal, onclick: () => dialog.close("") }, no),
    h("button", { value: "yes", autofocus: !isFinal, class: isFinal ? "danger" : "primary" }, yes),
  ]);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? reason.value.trim() : null));
  });
}

/** Return a warning that an action cannot be undone; `text` states the consequence. */
export function finality(text) {
  return h("p", {}, h("strong", {}, "This is final. "), text);
}

/** Show a message until it is closed. */
export function tell(title, lines) {
  open(title, lines, [h("button", { class: "primary", autofocus: true }, "Close")]);
}

/** Open a modal dialog, and return it. Closing it removes it from the page. */
export function open(title, lines, buttons) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const form = h("form", { method: "dialog" }, heading, lines, h("div", { class: "choices" }, buttons));
  const dialog = h("dialog", { "aria-labelledby": heading.id }, form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
