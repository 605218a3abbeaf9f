// The order, read from the tool calls. Pure: a call list in, items out.

/** The tool calls of one conversation; one that is taken back is forgotten, and with it what it did. */
export class Order {
  constructor() {
    this.calls = new Map(); // item id -> {name, arguments}
  }

  /** A call was made; `text` is its arguments as JSON. */
  call(itemId, name, text) {
    this.calls.set(itemId, { name, arguments: JSON.parse(text) });
  }

  /** A call never happened; returns whether there was one. */
  forget(itemId) {
    return this.calls.delete(itemId);
  }

  /** {items: [{slot: value}], placed, others: [{name, arguments}]}; others are calls that are not about an order. */
  get state() {
    return [...this.calls.values()].reduce(applied, { items: [], placed: false, others: [] });
  }
}

function applied(state, { name, arguments: values }) {
  const { items, placed, others } = state;
  switch (name) {
    case "add_items":
      return { items: [...(placed ? [] : items), ...values.items], placed: false, others };
    case "change_item":
      return { items: items.map((item, index) => (index === values.index ? values.item : item)), placed, others };
    case "remove_item":
      return { items: items.filter((item, index) => index !== values.index), placed, others };
    case "cancel_order":
      return { items: [], placed: false, others };
    case "place_order":
      return { items: values.items, placed: true, others };
    default:
      return { items, placed, others: [...others, { name, arguments: values }] };
  }
}

/** The slot that names an item, from the session's tools; null where they do not say. */
export function headSlot(tools) {
  for (const { parameters } of tools) {
    const { items, item } = parameters?.properties ?? {};
    const required = (items?.items ?? item)?.required;
    if (required?.length) return required[0];
  }
  return null;
}

/** An item in words: its name, and what else is known of it. */
export function described(item, head) {
  const name = item[head] ?? Object.values(item)[0] ?? "";
  return { name, details: Object.entries(item).filter(([slot, value]) => slot !== head && value !== name).map(([, value]) => value) };
}
