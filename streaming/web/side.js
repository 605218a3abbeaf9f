// Beside the conversation: the order, and how long the turns took.

import { described, headSlot } from "./order.js";

const MAX_TURNS = 4;
const HOW = { spoken: "after end of speech", held: "after letting go", typed: "after sending" };
const NAMES = { decision: "turn end", text: "words", audio: "voice" };

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Show the order in its section, or hide the section when there is nothing. */
export function showOrder(section, { items, placed, others }, tools) {
  section.hidden = !items.length && !others.length;
  section.classList.toggle("placed", placed);
  section.querySelector("h2").textContent = placed ? "Order placed" : items.length || !others.length ? "Order" : "Done";
  const head = headSlot(tools);
  const lines = items.map((item) => {
    const { name, details } = described(item, head);
    const line = element("li");
    line.append(element("strong", "", name), element("span", "", details.join(" · ")));
    return line;
  });
  const done = others.map(({ name, arguments: values }) => {
    const line = element("li");
    line.append(element("strong", "", name), element("span", "", JSON.stringify(values)));
    return line;
  });
  section.querySelector("ol").replaceChildren(...lines, ...done);
}

/** Say how playing goes: times and amounts in samples at 24 kHz. */
export function showPlayback(note, { delay, underruns, dropped }) {
  const gaps = `${underruns} ${underruns === 1 ? "gap" : "gaps"}`;
  const lost = dropped ? `, ${(dropped / 24000).toFixed(1)} s lost` : "";
  const text = `Playback: ${Math.round(delay / 24)} ms buffer, ${gaps}${lost}`;
  if (note.textContent !== text) note.textContent = text;
}

/** Add a turn on top: from the end of what the user said to the first sound that is heard. */
export function showTurn(list, parts, how) {
  list.closest("section").hidden = false;
  const line = element("li");
  line.append(element("strong", "", `${Math.round(parts.total)} ms`));
  line.append(element("span", "from", HOW[how]));
  const bar = element("span", "bar");
  bar.setAttribute("aria-hidden", "true");
  const legend = element("span", "legend");
  for (const name of Object.keys(NAMES).filter((part) => parts[part] > 0)) {
    const part = element("i", name);
    part.style.setProperty("--part", parts[name]);
    bar.append(part);
    legend.append(element("span", name, `${NAMES[name]} ${Math.round(parts[name])}`));
  }
  line.append(bar, legend);
  list.prepend(line);
  while (list.children.length > MAX_TURNS) list.lastElementChild.remove();
}
