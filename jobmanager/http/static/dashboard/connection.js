// The state of the connection: a word in the page header, and a banner if the page may be out of date.

import { setText } from "./dom.js";

const WORDS = {
  connecting: "Connecting",
  live: "Live",
  lost: "Connection lost",
  polling: "Every 10 seconds",
  over: "Ended",
};

/** Show the state of the connection. If it is lost, also show the error and the time of the last event. */
export function showConnection(state, error, heardAt) {
  const sign = document.getElementById("connection");
  sign.dataset.state = state;
  setText(sign.querySelector("span"), WORDS[state]);
  // Keep the banner while connecting: the page is still out of date.
  if (state === "connecting") return;
  document.body.toggleAttribute("data-old", state === "lost");
  const banner = document.getElementById("banner");
  setText(banner, sentence(state, error, heardAt));
  banner.hidden = !banner.textContent;
}

function sentence(state, error, heardAt) {
  if (state === "polling") return "Live updates are not available. This page refreshes every 10 seconds instead.";
  if (state !== "lost") return "";
  const then = heardAt.toLocaleTimeString("en-GB");
  return `Connection lost. This page shows the state at ${then}. ${error.message} Reconnecting…`;
}
