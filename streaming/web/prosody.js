// The buttons that change how the agent goes on speaking, and what became of them.

const WAITS_MS = 2_000; // for the server's answer

/**
 * @param list the element whose buttons have a token as their value
 * @param inject (token, id) sends it
 */
export class ProsodyButtons {
  constructor(list, inject) {
    this.list = list;
    this.waiting = new Map(); // id -> {button, timer}
    for (const button of this.buttons) {
      button.addEventListener("click", () => {
        const id = `prosody_${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
        button.classList.add("waiting");
        this.waiting.set(id, { button, timer: setTimeout(() => this.settle(id), WAITS_MS) });
        inject(button.value, id);
      });
    }
  }

  get buttons() {
    return [...this.list.querySelectorAll("button")];
  }

  /** They work while the agent speaks. */
  enable(speaking) {
    for (const button of this.buttons) button.disabled = !speaking;
  }

  /** What this id asked for has happened, or cannot; whether it was one of ours. */
  settle(id) {
    const asked = this.waiting.get(id);
    if (!asked) return false;
    clearTimeout(asked.timer);
    this.waiting.delete(id);
    asked.button.classList.remove("waiting");
    return true;
  }
}
