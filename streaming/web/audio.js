// The microphone and the speaker of this browser, through one AudioContext.

import { RATE_HZ } from "./worklet.js";

/** Something the user can act on; the message is for them. */
export class AudioProblem extends Error {}

export const INSECURE = "Browsers allow microphone and sound on https pages and on localhost only. You can still type.";

const SILENT = "No sound can be played: there is no speaker, or another program holds it.";
const PATIENCE_MS = 3000; // without a speaker, some browsers never say so

const PROBLEMS = {
  NotAllowedError: "The microphone is blocked. Allow it in the browser's site settings, then start again.",
  NotFoundError: "There is no microphone. Connect one, or type instead.",
  NotReadableError: "Another program holds the microphone. Close it, then start again.",
  OverconstrainedError: "The chosen microphone is not there any more. Choose another one in the settings.",
};

/**
 * @param on.microphone ({pcm, level}) 20 ms of 24 kHz PCM16 (ArrayBuffer), and its RMS
 * @param on.playing ({type, ...}) what the playout reports: started, progress, finished, cleared
 * @param on.trouble (message) the devices changed under us
 */
export class Audio {
  constructor(on) {
    this.on = on;
    this.context = null;
    this.playout = null;
    this.stream = null;
    this.capture = null;
    this.muted = false;
    this.output = "";
    this.opening = null;
    this.resting = false;
  }

  /** Milliseconds between what the playout has given away and what is heard. */
  get outputDelayMs() {
    const { outputLatency, baseLatency } = this.context ?? {};
    return 1000 * (outputLatency || baseLatency || 0);
  }

  /** Make sound possible. Call it first thing in a click or key press: phones unlock audio there and nowhere else. */
  async unlock() {
    if (!isSecureContext) throw new AudioProblem(INSECURE);
    this.resting = false;
    if (!this.context) this.opening = this.#open(RATE_HZ);
    try {
      await this.opening;
    } catch (error) {
      this.context = null;
      throw new AudioProblem(`This browser cannot play the agent's voice: ${error.message}`);
    }
    await Promise.race([this.context.resume(), new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
    if (this.context.state !== "running") throw new AudioProblem(SILENT);
  }

  /** Nothing will be played or heard until the next unlock. */
  rest() {
    this.resting = true;
    this.context?.suspend();
  }

  async #open(sampleRate) {
    if (navigator.audioSession) navigator.audioSession.type = "play-and-record";
    const context = new AudioContext({ sampleRate, latencyHint: "interactive" });
    this.context = context;
    context.resume(); // inside the click, before anything is waited for
    await context.audioWorklet.addModule("worklet.js");
    this.playout = new AudioWorkletNode(context, "playout", { numberOfInputs: 0, outputChannelCount: [1] });
    this.playout.port.onmessage = ({ data }) => this.on.playing(data);
    this.playout.connect(context.destination);
    context.onstatechange = () => {
      if (context === this.context && !this.resting && ["suspended", "interrupted"].includes(context.state)) {
        this.on.trouble("The browser has paused the sound. Tap anywhere to go on.");
        addEventListener("pointerdown", () => context.resume(), { once: true });
      }
    };
    await this.#useOutput();
  }

  /** Open the microphone, or another one. `device` "" is the system's choice. */
  async listen(device) {
    this.closeMicrophone();
    const wanted = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    if (device) wanted.deviceId = { exact: device };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    } catch (error) {
      throw new AudioProblem(PROBLEMS[error.name] ?? `The microphone cannot be opened: ${error.message}`);
    }
    const [track] = this.stream.getAudioTracks();
    track.enabled = !this.muted;
    track.onended = () => {
      this.closeMicrophone();
      this.on.trouble("The microphone has gone. Choose another one in the settings, or start again.");
    };
    await this.#connectMicrophone();
  }

  async #connectMicrophone() {
    let source;
    try {
      source = this.context.createMediaStreamSource(this.stream);
    } catch {
      await this.#reopen(); // this browser wants the context to run at the device's rate; the worklets convert
      source = this.context.createMediaStreamSource(this.stream);
    }
    this.capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    this.capture.port.onmessage = ({ data }) => this.on.microphone(data);
    source.connect(this.capture);
    this.source = source;
  }

  async #reopen() {
    const old = this.context;
    await this.#open(undefined);
    await old.close();
  }

  /** Send silence instead of the microphone, or the microphone again. */
  mute(muted) {
    this.muted = muted;
    this.stream?.getAudioTracks().forEach((track) => (track.enabled = !muted));
  }

  closeMicrophone() {
    this.stream?.getAudioTracks().forEach((track) => {
      track.onended = null;
      track.stop();
    });
    this.source?.disconnect();
    if (this.capture) this.capture.port.onmessage = null;
    this.stream = this.source = this.capture = null;
  }

  /** Queue audio of an item, PCM16 at 24 kHz (ArrayBuffer). */
  play(id, pcm) {
    this.playout?.port.postMessage({ type: "audio", id, pcm }, [pcm]);
  }

  /** No more audio of this item will come. */
  end(id) {
    this.playout?.port.postMessage({ type: "end", id });
  }

  /** Be silent for a while; nothing is lost. */
  hold() {
    this.playout?.port.postMessage({ type: "hold" });
  }

  /** Go on with the very next sample. */
  resume() {
    this.playout?.port.postMessage({ type: "resume" });
  }

  /** Be silent now; what was played of the items comes back as `cleared`. */
  clear() {
    this.playout?.port.postMessage({ type: "clear" });
  }

  /** Whether the speaker can be chosen here. */
  static get canChooseOutput() {
    return "setSinkId" in AudioContext.prototype;
  }

  /** Choose the speaker; "" is the system's choice. */
  async speakThrough(device) {
    this.output = device;
    await this.#useOutput();
  }

  async #useOutput() {
    if (!this.context || !Audio.canChooseOutput || (this.context.sinkId ?? "") === this.output) return;
    try {
      await this.context.setSinkId(this.output);
    } catch {
      this.on.trouble("The chosen speaker cannot be used; the sound goes to the system's one.");
    }
  }

  /** The devices by kind; names are known once the microphone was allowed. */
  static async devices() {
    const all = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    const named = (kind) => all.filter((device) => device.kind === kind && device.deviceId && device.label);
    return { inputs: named("audioinput"), outputs: named("audiooutput") };
  }
}
