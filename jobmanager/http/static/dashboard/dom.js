// Build and change the page. Text is set as text: nothing from the API is parsed as HTML.

/**
 * Control and format characters (Unicode's Cc and Cf), except newline and tab. They are invisible, and can hide text or
 * reverse the direction in which it is read (Trojan Source, 2021).
 */
const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}]/gu;

/** Attributes that a browser shows, reads aloud, or uses as a file name. */
const SHOWN = new Set(["title", "aria-label", "placeholder", "alt", "download"]);

/** Return a text with each invisible character replaced by its control picture (U+2400 …), or by U+FFFD. */
export function visible(text) {
  return text.replace(UNSEEN, (character) => {
    const code = character.codePointAt(0);
    return String.fromCharCode(code < 0x20 ? 0x2400 + code : code === 0x7f ? 0x2421 : 0xfffd);
  });
}

/** Return a new element. Attributes that are functions become listeners; null and false children are skipped. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) setAttribute(node, name, value);
  }
  for (const child of children.flat()) {
    if (child != null && child !== false) node.append(typeof child === "string" ? visible(child) : child);
  }
  return node;
}

/** Set an attribute. Replaces invisible characters if browsers show the attribute. */
export function setAttribute(node, name, value) {
  node.setAttribute(name, SHOWN.has(name) ? visible(String(value)) : value);
}

/** Set the text of an element. Does nothing if the text is the same, so that a selection in it survives. */
export function setText(node, text) {
  const shown = visible(text);
  if (node.textContent !== shown) node.textContent = shown;
}

/** Give an element these children, in this order. Does not touch children that are in their place already. */
export function arrange(parent, children) {
  // Remove the others first, so that fewer children have to move: a child that moves loses the focus.
  for (const child of [...parent.children]) if (!children.includes(child)) child.remove();
  children.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
}

/** Return a throttled `work`: calls do not overlap, and begin at least `milliseconds` after the end of the last one. */
export function throttled(work, milliseconds) {
  let timer = null;
  let isWanted = false;
  let doneAt = -Infinity;
  return function soon() {
    isWanted = true;
    timer ??= setTimeout(
      async () => {
        isWanted = false;
        try {
          await work();
        } finally {
          doneAt = performance.now();
          timer = null;
          if (isWanted) soon();
        }
      },
      Math.max(0, doneAt + milliseconds - performance.now()),
    );
  };
}

/** Return an empty list of terms; see setTerms. */
export function terms() {
  return h("dl", { class: "terms" });
}

/** Show pairs of a term and its text or element, in place. Skips pairs without a value. */
export function setTerms(list, pairs) {
  const there = new Map([...list.children].map((item) => [item.dataset.term, item]));
  const items = pairs
    .filter(([, value]) => value != null && value !== false && value !== "")
    .map(([term, value]) => {
      const item = there.get(term) ?? h("div", { "data-term": term }, h("dt", {}, term), h("dd"));
      if (value instanceof Node) arrange(item.lastElementChild, [value]);
      else setText(item.lastElementChild, String(value));
      return item;
    });
  arrange(list, items);
}
