// A list of entries, and the elements that show them.

/**
 * Brings the elements of a list in step with its entries. `make` returns an element for an event, and
 * `update` shows the entry's marks in it. An element that stays is the same one, and keeps the focus.
 * Returns the elements by the keys of their entries; `known` has those from before.
 */
export function inStep(list, known, entries, make, update) {
  const items = entries.map((entry) => {
    const key = `${entry.event.topic}/${entry.event.sequence}`;
    const item = known.get(key) ?? make(entry.event);
    update(item, entry);
    return [key, item];
  });
  const elements = items.map(([, item]) => item);
  const isSame =
    elements.length === list.children.length &&
    elements.every((element, at) => element === list.children[at]);
  if (!isSame) {
    list.replaceChildren(...elements);
  }
  return new Map(items);
}
