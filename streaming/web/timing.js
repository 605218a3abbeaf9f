// When things happened in a turn. Pure: levels, positions and times in, times out. Times are milliseconds of one clock.

const RATE_PER_MS = 24;
const REMEMBERED = 750; // chunks of 20 ms: 15 s
const QUIETEST = 0.002; // RMS; below it nothing counts as speech
const OVER_NOISE = 4;
const BELOW_PEAK = 1 / 30;

/** The level of the microphone audio that was sent, to find where speech ended in it. */
export class LevelTrace {
  constructor() {
    this.chunks = []; // {end, level, time}: position in samples, RMS, when it was captured
    this.position = 0; // samples sent: the server's clock
  }

  /** A chunk was sent. */
  sent(samples, level, time) {
    this.position += samples;
    this.chunks.push({ end: this.position, level, time });
    if (this.chunks.length > REMEMBERED) this.chunks.shift();
  }

  /** When the user was last heard before a position of the server's clock (ms); null when that is not known. */
  speechEnd(positionMs) {
    const before = this.chunks.filter((chunk) => chunk.end <= positionMs * RATE_PER_MS);
    if (!before.length) return null;
    const levels = before.map((chunk) => chunk.level).sort((a, b) => a - b);
    const noise = levels[Math.floor(levels.length / 10)];
    const threshold = Math.max(QUIETEST, noise * OVER_NOISE, levels.at(-1) * BELOW_PEAK);
    return before.findLast((chunk) => chunk.level >= threshold)?.time ?? null;
  }
}

/** The marks of one turn: `end` of speech (or of typing), `decided`, first `text`, first audio `heard`. */
export class TurnMarks {
  constructor(how, end, decided) {
    this.how = how; // "spoken" | "held" | "typed"
    this.end = end;
    this.decided = decided;
    this.text = null;
    this.heard = null;
  }

  /** Set a mark unless it is set; returns whether it was new. */
  mark(name, time) {
    if (this[name] !== null) return false;
    this[name] = time;
    return true;
  }

  /** Milliseconds of each part, and of all; null until audio was heard. */
  get parts() {
    if (this.heard === null) return null;
    const text = Math.min(this.text ?? this.heard, this.heard);
    const start = this.end ?? this.decided;
    return {
      decision: Math.max(0, this.decided - start),
      text: Math.max(0, text - this.decided),
      audio: this.heard - text,
      total: this.heard - start,
    };
  }
}
