// Who said what, as it arrives.

const MAX_ENTRIES = 200; // the oldest leave
const NEAR_PX = 40; // this close to its end, the list follows what is added

/**
 * @param list the element that holds the entries
 * @param announce (text) says a finished entry to assistive technology
 */
export class Transcript {
  constructor(list, announce) {
    this.list = list;
    this.announce = announce;
    this.entries = new Map(); // item id -> {role, element, text, note}
    this.following = true; // until the user scrolls back
    list.addEventListener("scroll", () => (this.following = this.#atEnd()));
    new ResizeObserver(() => this.#follow()).observe(list);
  }

  /** An entry begins; once. */
  begin(role, id) {
    if (this.entries.has(id)) return;
    const element = document.createElement("li");
    const [who, text, note] = ["b", "p", "small"].map((name) => document.createElement(name));
    element.className = `${role} waiting`;
    who.textContent = role === "user" ? "You" : "Agent";
    element.append(who, text, note);
    this.entries.set(id, { role, element, text, note });
    this.list.append(element);
    this.#follow();
    while (this.entries.size > MAX_ENTRIES) this.drop(this.entries.keys().next().value);
  }

  /** Words arrive. `at` is the sample of the reply's audio they go with; without it they count as heard. */
  add(id, words, at) {
    const entry = this.entries.get(id);
    if (!entry) return;
    const piece = document.createElement("span");
    piece.textContent = words;
    if (at !== undefined) {
      piece.dataset.at = at;
      piece.className = "ahead";
    }
    entry.element.classList.remove("waiting");
    entry.text.append(piece);
    this.#follow();
  }

  /** What a user's entry says in the end. */
  complete(id, text) {
    const entry = this.entries.get(id);
    if (!entry) return;
    entry.element.classList.remove("waiting");
    entry.text.textContent = text || "…";
    if (!text) entry.note.textContent = "nothing was understood";
    this.announce(`You: ${text || "nothing was understood"}`);
    this.#follow();
  }

  /** A reply is made; it may still be played. */
  finish(id, status) {
    const entry = this.entries.get(id);
    if (!entry) return;
    entry.element.classList.remove("waiting");
    if (status === "completed") this.announce(`Agent: ${entry.text.textContent}`);
    else if (!entry.text.textContent) this.drop(id);
    else if (status === "incomplete") entry.note.textContent = "cut off";
  }

  /** A reply was played up to this sample. */
  heard(id, samples) {
    for (const piece of this.entries.get(id)?.text.querySelectorAll(".ahead") ?? []) {
      if (Number(piece.dataset.at) < samples) piece.className = "";
    }
  }

  /** A reply was interrupted after this sample: the rest was never heard. */
  cut(id, samples) {
    const entry = this.entries.get(id);
    if (!entry) return;
    this.heard(id, samples);
    entry.element.classList.add("cut");
    entry.note.textContent = samples > 0 ? "interrupted" : "not heard";
    this.#follow();
  }

  /** The agent takes a reply back: the user had not finished. */
  takeBack(id) {
    const entry = this.entries.get(id);
    if (!entry) return;
    entry.element.classList.add("cut", "back");
    entry.note.textContent = "taken back: you went on";
  }

  /** An entry was a mistake. */
  drop(id) {
    this.entries.get(id)?.element.remove();
    this.entries.delete(id);
  }

  /** A new conversation begins below. */
  divide(text) {
    if (!this.entries.size) return;
    const element = document.createElement("li");
    element.className = "divider";
    element.textContent = text;
    for (const { element: entry } of this.entries.values()) entry.classList.remove("waiting");
    this.list.append(element);
    this.#follow();
  }

  #follow() {
    if (this.following) this.list.scrollTop = this.list.scrollHeight;
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.list;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }
}
