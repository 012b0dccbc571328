// Questions that have to be answered before anything goes on. The element <dialog> keeps the focus, and Escape is no.

import { h } from "./dom.js";

/**
 * Ask a question; returns what was typed as the reason, or null if the answer is no.
 * `lines` are what there is to know before; the answer no has the focus where yes cannot be taken back.
 */
export function confirm({ title, lines, yes, no = "Cancel", isFinal = false }) {
  const reason = h("input", { id: "dialog-reason", maxlength: 1000, autocomplete: "off" });
  const hint = h("span", { class: "hint" }, "optional, kept with the change");
  const label = h("label", { for: reason.id }, "Reason ", hint);
  const dialog = open(title, [lines, label, reason].flat(), [
    h("button", { type: "button", autofocus: isFinal, onclick: () => dialog.close("") }, no),
    h("button", { value: "yes", autofocus: !isFinal, class: isFinal ? "danger" : "primary" }, yes),
  ]);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? reason.value.trim() : null));
  });
}

/** Return the line that says that there is no way back, and what that means. */
export function finality(text) {
  return h("p", {}, h("strong", {}, "This is final. "), text);
}

/** Tell something that stays until it is closed. */
export function tell(title, lines) {
  open(title, lines, [h("button", { class: "primary", autofocus: true }, "Close")]);
}

/** Show a dialog, which is gone once one of its buttons has closed it; returns it. */
export function open(title, lines, buttons) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const form = h("form", { method: "dialog" }, heading, lines, h("div", { class: "choices" }, buttons));
  const dialog = h("dialog", { "aria-labelledby": heading.id }, form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
