// What runs on the audio thread: the microphone's side and the speaker's, both between the context's rate and 24 kHz.
// One file without imports, because not every browser lets a worklet import. The classes are pure and know no thread.

export const RATE_HZ = 24000;
const CHUNK = RATE_HZ / 50; // 20 ms of microphone audio a message
const REPORT = RATE_HZ / 25; // 40 ms of playing between two reports
const LOBES = 16; // of the resampler's sinc, each side
const CUTOFF = 0.94; // of the lower Nyquist frequency
const MARGIN = RATE_HZ / 50; // wait this much longer than the network has been seen to need
const MAX_DELAY = RATE_HZ; // never wait longer than a second
const REMEMBERED = 8; // replies whose delay is remembered
const MAX_QUEUED = 120 * RATE_HZ; // audio that may wait to be played; more is dropped and counted
const FADE = 0.94; // a sample, where the sound is cut: gone in some 3 ms

/** Streaming conversion between two rates: a windowed sinc for each of the phases that exist between them. */
export class Resampler {
  constructor(fromHz, toHz) {
    const common = greatestCommonDivisor(fromHz, toHz);
    this.up = toHz / common;
    this.down = fromHz / common;
    const width = Math.max(1, this.down / this.up);
    this.half = fromHz === toHz ? 1 : Math.ceil(LOBES * width);
    this.taps = 2 * this.half;
    this.table = fromHz === toHz ? Float32Array.of(1, 0) : sincTable(this.up, this.half, CUTOFF / width);
    this.buffer = new Float32Array(this.taps + 8192);
    this.filled = this.half - 1; // the silence before the first sample
    this.phase = 0; // of the next output, in 1 / up of an input sample after buffer[half - 1]
  }

  /** Inputs that are still missing before `count` outputs can be taken. */
  missing(count) {
    const last = Math.floor((this.phase + (count - 1) * this.down) / this.up);
    return Math.max(0, last + this.taps - this.filled);
  }

  /** Take inputs; 8,192 samples at most may wait. */
  push(samples) {
    this.buffer.set(samples, this.filled);
    this.filled += samples.length;
  }

  /** Fill `output` as far as the inputs allow; returns how many samples that were. */
  take(output) {
    let count = 0;
    let start = Math.floor(this.phase / this.up);
    for (; count < output.length && start + this.taps <= this.filled; count++) {
      const row = (this.phase % this.up) * this.taps;
      let sum = 0;
      for (let k = 0; k < this.taps; k++) sum += this.table[row + k] * this.buffer[start + k];
      output[count] = sum;
      this.phase += this.down;
      start = Math.floor(this.phase / this.up);
    }
    const used = Math.min(start, this.filled);
    this.buffer.copyWithin(0, used, this.filled);
    this.filled -= used;
    this.phase -= used * this.up;
    return count;
  }
}

function greatestCommonDivisor(a, b) {
  return b ? greatestCommonDivisor(b, a % b) : a;
}

function sincTable(phases, half, cutoff) {
  const table = new Float32Array(phases * 2 * half);
  for (let phase = 0; phase < phases; phase++) {
    const row = table.subarray(phase * 2 * half, (phase + 1) * 2 * half);
    for (let k = 0; k < row.length; k++) {
      const at = k - (half - 1) - phase / phases;
      const angle = Math.PI * at * cutoff;
      const window = Math.abs(at) < half ? 0.5 + 0.5 * Math.cos((Math.PI * at) / half) : 0;
      row[k] = (angle === 0 ? 1 : Math.sin(angle) / angle) * window;
    }
    const sum = row.reduce((total, value) => total + value, 0);
    row.forEach((value, k) => (row[k] = value / sum)); // each phase passes a constant unchanged
  }
  return table;
}

/**
 * What the speaker plays next, item after item. All times and sizes are samples at 24 kHz.
 *
 * A reply begins when what came later than its first chunk would have come in time in the latest replies; a network that
 * delivers evenly is given 20 ms. A reply that runs dry waits by the same rule and goes on. Nothing is stretched.
 */
export class JitterBuffer {
  constructor() {
    this.items = []; // {id, chunks, received, played, firstAt, lateness, ended, flowing}
    this.latenesses = []; // of the latest replies
    this.queued = 0;
    this.heldAt = null; // a sound over the reply is being weighed
    this.underruns = 0;
    this.dropped = 0;
    this.events = []; // what happened, for whoever empties it
    this.residue = 0; // fades out where the sound was cut
    this.last = 0;
  }

  /** How long a reply's first chunk waits. */
  get delay() {
    const worst = Math.max(0, ...this.latenesses, ...this.items.map((item) => item.lateness));
    return Math.min(worst + MARGIN, MAX_DELAY);
  }

  /** A chunk of an item has come. */
  push(id, samples, now) {
    if (this.queued + samples.length > MAX_QUEUED) {
      this.dropped += samples.length;
      return;
    }
    let item = this.items.find((other) => other.id === id);
    if (!item) {
      item = { id, chunks: [], received: 0, played: 0, firstAt: now, lateness: 0, ended: false, flowing: false };
      this.items.push(item);
    }
    item.lateness = Math.max(item.lateness, now - item.firstAt - item.received);
    item.chunks.push(samples);
    item.received += samples.length;
    this.queued += samples.length;
  }

  /** No more of an item will come. */
  end(id) {
    const item = this.items.find((other) => other.id === id);
    if (item) item.ended = true;
  }

  /** Fall silent, and lose nothing. */
  hold(now) {
    this.heldAt ??= now;
    this.#cut();
  }

  /** Go on where it was; what comes now is not late. */
  resume(now) {
    if (this.heldAt === null) return;
    this.items.forEach((item) => (item.firstAt += now - this.heldAt));
    this.heldAt = null;
  }

  /** Forget everything at once; returns what had been played of each item that was not finished. */
  clear() {
    const cut = this.items.map(({ id, played }) => ({ id, played }));
    this.items.forEach((item) => this.#remember(item));
    this.items = [];
    this.queued = 0;
    this.heldAt = null;
    this.#cut();
    return cut;
  }

  /** Fill `output` with what is to be heard now, silence where there is nothing. */
  pull(output, now) {
    const fading = this.residue !== 0;
    let filled = 0;
    while (this.heldAt === null && filled < output.length && this.items.length) {
      const item = this.items[0];
      if (!item.flowing && !this.#begin(item, now + filled)) break;
      filled = this.#play(item, output, filled);
      if (filled < output.length && !this.#drained(item)) break;
    }
    output.fill(0, filled);
    for (let k = fading ? 0 : filled; this.residue !== 0 && k < output.length; k++) {
      output[k] += this.residue;
      this.residue = Math.abs(this.residue) < 1e-4 ? 0 : this.residue * FADE;
    }
    this.last = output.length ? output[output.length - 1] : this.last;
  }

  #begin(item, now) {
    if (!item.chunks.length && !item.ended) return false;
    if (!item.ended && now < item.firstAt + item.played + this.delay) return false;
    if (!item.played && item.chunks.length) this.events.push({ type: "started", id: item.id });
    item.flowing = true;
    return true;
  }

  #play(item, output, filled) {
    while (filled < output.length && item.chunks.length) {
      const chunk = item.chunks[0];
      const part = chunk.subarray(0, output.length - filled);
      output.set(part, filled);
      filled += part.length;
      item.played += part.length;
      this.queued -= part.length;
      this.last = part[part.length - 1];
      if (part.length === chunk.length) item.chunks.shift();
      else item.chunks[0] = chunk.subarray(part.length);
    }
    return filled;
  }

  /** The item has no more samples; returns whether the next one may follow. */
  #drained(item) {
    if (item.ended) {
      this.#remember(item);
      this.items.shift();
      this.events.push({ type: "finished", id: item.id, played: item.played });
      return true;
    }
    item.flowing = false;
    this.underruns++;
    this.#cut();
    return false;
  }

  #cut() {
    this.residue = this.last;
  }

  #remember(item) {
    this.latenesses.push(item.lateness);
    if (this.latenesses.length > REMEMBERED) this.latenesses.shift();
  }
}

function rms(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.sqrt(sum / Math.max(1, samples.length));
}

function toPcm16(samples) {
  return Int16Array.from(samples, (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768))));
}

function fromPcm16(buffer) {
  return Float32Array.from(new Int16Array(buffer), (sample) => sample / 32768);
}

if (globalThis.AudioWorkletProcessor) {
  /** Microphone -> {pcm, level} messages of 20 ms. */
  class Capture extends AudioWorkletProcessor {
    resampler = new Resampler(sampleRate, RATE_HZ);
    chunk = new Float32Array(CHUNK);
    filled = 0;

    process([channels]) {
      if (!channels.length) return true;
      const mono = new Float32Array(channels[0].length);
      for (const channel of channels) channel.forEach((sample, k) => (mono[k] += sample / channels.length));
      this.resampler.push(mono);
      let taken;
      while ((taken = this.resampler.take(this.chunk.subarray(this.filled)))) {
        this.filled += taken;
        if (this.filled < CHUNK) continue;
        const pcm = toPcm16(this.chunk).buffer;
        this.port.postMessage({ pcm, level: rms(this.chunk) }, [pcm]);
        this.filled = 0;
      }
      return true;
    }
  }

  /** {type audio | end | hold | resume | clear} messages -> speaker; reports what was played. */
  class Playout extends AudioWorkletProcessor {
    resampler = new Resampler(RATE_HZ, sampleRate);
    buffer = new JitterBuffer();
    unreported = new Float32Array(REPORT);
    filled = 0;

    constructor() {
      super();
      this.port.onmessage = ({ data }) => this.#take(data);
    }

    get now() {
      return (currentFrame * RATE_HZ) / sampleRate;
    }

    #take(message) {
      if (message.type === "audio") this.buffer.push(message.id, fromPcm16(message.pcm), this.now);
      else if (message.type === "end") this.buffer.end(message.id);
      else if (message.type === "hold") this.buffer.hold(this.now);
      else if (message.type === "resume") this.buffer.resume(this.now);
      else if (message.type === "clear") {
        this.port.postMessage({ type: "cleared", cut: this.buffer.clear() });
        this.#report();
      }
    }

    process(inputs, [[output]]) {
      const source = new Float32Array(this.resampler.missing(output.length));
      this.buffer.pull(source, this.now);
      this.resampler.push(source);
      this.resampler.take(output);
      this.buffer.events.splice(0).forEach((event) => this.port.postMessage(event));
      this.#measure(source);
      return true;
    }

    #measure(source) {
      const part = source.subarray(0, REPORT - this.filled);
      this.unreported.set(part, this.filled);
      this.filled += part.length;
      if (this.filled === REPORT) this.#report();
    }

    #report() {
      const { items, underruns, dropped, delay } = this.buffer;
      const level = rms(this.unreported.subarray(0, this.filled));
      this.filled = 0;
      if (!items.length && level === 0 && this.silent) return; // nothing has changed since the last report
      this.silent = !items.length && level === 0;
      const [item] = items;
      this.port.postMessage({ type: "progress", id: item?.id, played: item?.played, level, underruns, dropped, delay });
    }
  }

  registerProcessor("capture", Capture);
  registerProcessor("playout", Playout);
}
