// What the user has chosen: devices and turn detection. Kept by the browser.

import { Audio } from "./audio.js";

const KEY = "repartee.settings";
const DEFAULTS = { input: "", output: "", turns: "semantic", eagerness: "auto", silence: 500 };

/** The protocol's `turn_detection` for these settings; null is push to talk. */
export function turnDetection({ turns, eagerness, silence }) {
  if (turns === "push") return null;
  if (turns === "silence") return { type: "server_vad", silence_duration_ms: silence };
  return { type: "semantic_vad", eagerness };
}

/**
 * @param dialog its form has one field for each setting
 * @param changed (settings, names) told what has changed
 */
export class Settings {
  constructor(dialog, changed) {
    this.form = dialog.querySelector("form");
    this.values = { ...DEFAULTS, ...stored() };
    this.#show();
    this.form.addEventListener("input", () => {
      const before = this.values;
      const data = Object.fromEntries(new FormData(this.form));
      this.values = { ...before, ...data, silence: Number(data.silence ?? before.silence) };
      this.#show();
      store(this.values);
      changed(this.values, Object.keys(DEFAULTS).filter((name) => before[name] !== this.values[name]));
    });
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.listDevices());
  }

  /** Offer the devices that there are. */
  async listDevices() {
    const { inputs, outputs } = await Audio.devices();
    offer(this.form.elements.input, inputs, this.values.input);
    offer(this.form.elements.output, outputs, this.values.output);
    this.form.elements.output.closest("label").hidden = !Audio.canChooseOutput || !outputs.length;
  }

  #show() {
    for (const [name, value] of Object.entries(this.values)) {
      const field = this.form.elements[name];
      if (field instanceof RadioNodeList || field.value !== String(value)) field.value = value;
    }
    this.form.elements.eagerness.closest("label").hidden = this.values.turns !== "semantic";
    this.form.elements.silence.closest("label").hidden = this.values.turns !== "silence";
    this.form.querySelector("output").value = `${this.values.silence} ms`;
  }
}

function offer(select, devices, chosen) {
  const options = devices
    .filter((device) => device.deviceId !== "default")
    .map((device) => new Option(device.label, device.deviceId));
  select.replaceChildren(new Option("System default", ""), ...options);
  select.value = chosen;
  if (select.selectedIndex < 0) select.value = "";
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {}; // storage is blocked, or holds something else
  }
}

function store(values) {
  try {
    localStorage.setItem(KEY, JSON.stringify(values));
  } catch {
    // storage is blocked: the settings last as long as the page
  }
}
