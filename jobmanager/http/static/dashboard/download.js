// The file that a job made.

import { jobPath, request } from "./api.js";
import { h } from "./dom.js";
import { sayError } from "./notices.js";
import { token } from "./token.js";

/** How long the browser may take to begin to save what it was given. */
const KEPT_MILLISECONDS = 60_000;

/** Return the link to the file of a job. With a token it is asked for by script: a link cannot send one. */
export function downloadLink({ id, result }) {
  const href = jobPath(id, "/artifact");
  const download = result.filename ?? result.file;
  const onclick = (event) => {
    if (!token()) return;
    event.preventDefault();
    save(href, download).catch(sayError);
  };
  return h("a", { class: "button primary", href, download, onclick }, `Download ${download}`);
}

async function save(path, download) {
  const answer = await request(path);
  const href = URL.createObjectURL(await answer.blob());
  h("a", { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), KEPT_MILLISECONDS);
}
