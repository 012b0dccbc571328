// The download link for a job's file.

import { arrival, jobPath, request } from "./api.js";
import { h } from "./dom.js";
import { sayError } from "./notices.js";
import { token } from "./token.js";

/** How long the file is kept in memory, so that the browser can begin to save it. */
const KEPT_MILLISECONDS = 60_000;

/** Return a link to the file of a job. With a token, a script downloads the file: a link cannot send a token. */
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
  const href = URL.createObjectURL(await arrival(answer.blob()));
  h("a", { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), KEPT_MILLISECONDS);
}
