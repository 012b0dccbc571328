// The sign-in dialog, and the parts of the page that depend on the token.

import { ask } from "./api.js";
import { heedRefusal } from "./control.js";
import { open } from "./dialogs.js";
import { h } from "./dom.js";
import { sayError } from "./notices.js";
import { keepToken, refusal, token } from "./token.js";

let dialog = null;

/** Ask for a token; `wrong` says why the last one was refused. Then calls `onChange`, unless this one is refused. */
export function askForToken(wrong, onChange) {
  if (dialog) return;
  const secret = h("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    placeholder: "jm_…",
    required: true,
    pattern: "\\s*[!-~]+\\s*", // a header cannot contain other characters
    title: "A token has only printable ASCII characters, and no spaces",
  });
  const lines = [
    h("p", {}, "The service's operator creates one: ", h("code", {}, "jobmanager token add NAME --role operator")),
    h("label", { for: "token" }, "Token"),
    secret,
    wrong && h("p", { class: "error", role: "alert" }, wrong),
    h("p", { class: "hint" }, "The token is kept until this tab is closed."),
  ];
  dialog = open("This service requires a token", lines, [h("button", { class: "primary", value: "yes" }, "Sign in")]);
  dialog.addEventListener("close", async ({ target }) => {
    dialog = null;
    if (target.returnValue !== "yes") return;
    keepToken(secret.value.trim());
    await findRole();
    if (token()) onChange();
  });
}

/** Submit an empty batch, to find out whether the token may change anything. Stores the refusal if it may not. */
async function findRole() {
  try {
    await ask("jobs/batch", { body: [] });
  } catch (error) {
    heedRefusal(error);
    if (error.status !== 403) sayError(error);
  }
}

/** Show the button to sign out if there is a token, and a note if the token may not change anything. */
export function showToken() {
  document.getElementById("forget").hidden = !token();
  const note = document.getElementById("refusal");
  note.hidden = !refusal();
  note.textContent = refusal() && `Read-only access. ${refusal()}`;
}
