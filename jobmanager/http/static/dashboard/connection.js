// The sign of how fresh the page is: in its head a word, and a banner where what it shows is old.

import { setText } from "./dom.js";

const WORDS = {
  connecting: "Connecting",
  live: "Live",
  lost: "Connection lost",
  polling: "Every 10 seconds",
  over: "Ended",
};

/** Show the state of the connection; what went wrong, and when the service was heard last, if it is lost. */
export function showConnection(state, error, heardAt) {
  const sign = document.getElementById("connection");
  sign.dataset.state = state;
  setText(sign.querySelector("span"), WORDS[state]);
  // While it is tried again, what is shown is as old as it was.
  if (state === "connecting") return;
  document.body.toggleAttribute("data-old", state === "lost");
  const banner = document.getElementById("banner");
  setText(banner, sentence(state, error, heardAt));
  banner.hidden = !banner.textContent;
}

function sentence(state, error, heardAt) {
  if (state === "polling") return "No stream of events can be had now: this page looks every 10 seconds instead.";
  if (state !== "lost") return "";
  const then = heardAt.toLocaleTimeString("en-GB");
  return `Connection lost. What you see is how things stood at ${then}. ${error.message} Trying again…`;
}
