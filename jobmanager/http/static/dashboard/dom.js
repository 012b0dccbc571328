// How the page is built and changed. Text is set as text: nothing that comes from the API is ever read as HTML.

/**
 * Control and format characters (Unicode's Cc and Cf), except newline and tab. They have no sign of their own: they hide
 * text, or reverse the direction in which it is read (Trojan Source, 2021).
 */
const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}]/gu;

/** Attributes that a browser shows, reads aloud, or names a file after. */
const SHOWN = new Set(["title", "aria-label", "placeholder", "alt", "download"]);

/** Return a text with a sign for every character that has none: its picture, or the sign for an unreadable one. */
export function visible(text) {
  return text.replace(UNSEEN, (character) => {
    const code = character.codePointAt(0);
    return String.fromCharCode(code < 0x20 ? 0x2400 + code : code === 0x7f ? 0x2421 : 0xfffd);
  });
}

/** Return a new element; functions among its attributes are listeners, and children that are null are left out. */
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

/** Set an attribute; one that is shown has no unseen characters. */
export function setAttribute(node, name, value) {
  node.setAttribute(name, SHOWN.has(name) ? visible(String(value)) : value);
}

/** Set the text of an element, unless it is there: what is selected in it stays selected. */
export function setText(node, text) {
  const shown = visible(text);
  if (node.textContent !== shown) node.textContent = shown;
}

/** Put these children into an element, and leave alone those that are in their place already. */
export function arrange(parent, children) {
  // First, for what is moved loses the focus.
  for (const child of [...parent.children]) if (!children.includes(child)) child.remove();
  children.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
}

/** Return a function that has the work done soon: with so many milliseconds between, however long it takes. */
export function throttled(work, milliseconds) {
  let timer = null;
  let isWanted = false;
  let doneAt = -Infinity;
  return function soon() {
    isWanted = true;
    timer ??= setTimeout(
      async () => {
        isWanted = false;
        await work();
        doneAt = performance.now();
        timer = null;
        if (isWanted) soon();
      },
      Math.max(0, doneAt + milliseconds - performance.now()),
    );
  };
}

/** Return a list of terms that is updated in place; see setTerms. */
export function terms() {
  return h("dl", { class: "terms" });
}

/** Show these pairs of a term and its text or element; those without a value are left out. */
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
