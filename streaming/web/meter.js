// A level meter: quick to rise, slow to fall, drawn only while something can be heard.

const QUIETEST_DB = -54;
const LOUDEST_DB = -9;
const FALL = 0.9; // a frame
const SAY_EVERY_MS = 500; // to assistive technology

/**
 * @param element has role="meter"; its style gets `--level`, 0 to 1
 * @param name of the same value on the body, for what else moves with the voice
 */
export class Meter {
  constructor(element, name) {
    this.element = element;
    this.name = name;
    this.level = 0; // RMS, set by whoever hears
    this.shown = 0;
    this.running = false;
    this.said = 0;
  }

  /** Draw, or stop to. */
  run(running) {
    if (running === this.running) return;
    this.running = running;
    if (running) requestAnimationFrame((time) => this.#draw(time));
    else this.#set(0, Infinity);
  }

  #draw(time) {
    if (!this.running) return;
    const db = 20 * Math.log10(Math.max(this.level, 1e-6));
    const value = Math.min(1, Math.max(0, (db - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB)));
    this.#set(Math.max(value, this.shown * FALL), time);
    this.level *= FALL; // when no more reports come
    requestAnimationFrame((next) => this.#draw(next));
  }

  #set(value, time) {
    const shown = value < 0.005 ? 0 : value;
    if (Math.abs(shown - this.shown) > 0.002 || (shown === 0 && this.shown !== 0)) {
      this.element.style.setProperty("--level", shown.toFixed(3));
      document.body.style.setProperty(this.name, shown.toFixed(3));
    }
    this.shown = shown;
    if (time - this.said < SAY_EVERY_MS) return;
    this.said = time === Infinity ? 0 : time;
    this.element.setAttribute("aria-valuenow", Math.round(100 * shown));
  }
}
