// How the page is built and changed. Text is set as text: nothing that comes from the API is ever read as HTML.

/** Return a new element; functions among its attributes are listeners, and children that are null are left out. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false && child !== ""));
  return node;
}

/** Set the text of an element, unless it is there: what is selected in it stays selected. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Put these children into an element, and leave alone those that are in their place already. */
export function arrange(parent, children) {
  children.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
}

/** Return a function that has the work done soon, but not more often than every so many milliseconds. */
export function throttled(work, milliseconds) {
  let timer = null;
  let doneAt = -Infinity;
  return () => {
    timer ??= setTimeout(
      () => {
        timer = null;
        doneAt = performance.now();
        work();
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
