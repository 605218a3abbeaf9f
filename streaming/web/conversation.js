// One conversation in the GA Realtime protocol: server events, microphone and playout in; messages and what to show out.

import { LevelTrace, TurnMarks } from "./timing.js";
import { Order } from "./order.js";

const SAMPLES_PER_MS = 24;
const TAIL_MS = 120; // of push to talk: people let go before the last sound has come
const MIN_HELD_MS = 200;
const MIN_AUDIO_MS = 100; // less cannot be committed
const SLOW = "The network is too slow for the microphone: the agent does not hear all that you say.";
const HARMLESS = new Set(["response_cancel_not_active", "item_not_found"]); // we were overtaken by the server

/**
 * @param connection sends events
 * @param audio plays and is silent
 * @param transcript shows who said what
 * @param on.activity () who is speaking may have changed
 * @param on.order (state, tools) the order has changed
 * @param on.turn (parts, how) how long a turn took
 * @param on.problem (message) the server objected
 * @param on.textRefused (message, text) it does not take what was typed
 * @param on.prosodyTold (id) a prosody token that was asked for has entered, or cannot; returns whether it is known
 */
export class Conversation {
  constructor(connection, audio, transcript, on) {
    Object.assign(this, { connection, audio, transcript, on });
    this.turnDetection = { type: "semantic_vad" };
    this.#reset();
  }

  #reset() {
    this.tools = [];
    this.order = new Order();
    this.trace = new LevelTrace();
    this.heardUser = null; // the item that the user is speaking
    this.holding = null; // push to talk: {at, letGo, samples}
    this.expecting = false; // a reply was asked for and has not begun
    this.response = null; // {id, item, marks}, until it is done
    this.playing = null; // the item that is heard
    this.received = new Map(); // item -> samples of audio that came
    this.marks = new Map(); // item -> TurnMarks, until it is heard
    this.pending = null; // marks of the turn whose reply has not begun
    this.typed = null; // {id, text, at}, until the server has taken it
    this.silenced = new Set(); // items that must not be played any more
    this.unsent = 0; // chunks that were not sent because the network was behind
    this.truncated = new Set(); // items that we have truncated ourselves
  }

  /** "hearing" | "thinking" | "speaking" | "listening" */
  get activity() {
    if (this.heardUser || this.holding) return "hearing";
    if (this.playing) return "speaking";
    return this.expecting || this.response ? "thinking" : "listening";
  }

  /** Whether a reply is being made, so that its delivery can be changed. */
  get replying() {
    return this.response !== null;
  }

  /** Put a prosody token into the reply; `id` comes back in `on.prosodyTold`. */
  inject(token, id) {
    this.connection.send({ type: "repartee.prosody.inject", event_id: id, tokens: [token] });
  }

  /** The connection has ended, and with it what the agent knew. */
  ended() {
    if (this.heardUser) this.transcript.drop(this.heardUser);
    this.audio.clear();
    this.#reset();
    this.on.activity();
  }

  /** Detect turns in another way from now on; null is push to talk. */
  detectTurns(turnDetection) {
    this.turnDetection = turnDetection;
    this.#configure();
  }

  #configure() {
    const input = { transcription: { model: "local" }, turn_detection: this.turnDetection };
    this.connection.send({ type: "session.update", session: { type: "realtime", audio: { input } } });
  }

  // --- what the user does ----------------------------------------------------------------------------------------------

  /** 20 ms of microphone audio. */
  microphone({ pcm, level }) {
    if (this.turnDetection === null && !this.holding) return;
    const samples = pcm.byteLength / 2;
    if (!this.connection.sendAudio(pcm)) {
      if (this.connection.behind && this.unsent++ === 0) this.on.problem(SLOW);
      return;
    }
    this.trace.sent(samples, level, performance.now());
    if (this.holding) this.holding.samples += samples;
  }

  /** Push to talk: the button went down. */
  press() {
    if (this.holding || this.connection.state !== "open") return;
    this.#interrupt();
    this.connection.send({ type: "input_audio_buffer.clear" });
    this.holding = { at: performance.now(), letGo: null, samples: 0 };
    this.on.activity();
  }

  /** Push to talk: the button came up. */
  release() {
    const { holding } = this;
    if (!holding || holding.letGo) return;
    holding.letGo = performance.now();
    setTimeout(() => this.holding === holding && this.#commit(holding), TAIL_MS);
  }

  #commit({ at, letGo, samples }) {
    this.holding = null;
    if (letGo - at < MIN_HELD_MS || samples < MIN_AUDIO_MS * SAMPLES_PER_MS) {
      this.connection.send({ type: "input_audio_buffer.clear" });
      this.on.problem("That was too short. Hold the button while you speak.");
    } else {
      this.connection.send({ type: "input_audio_buffer.commit" });
      this.connection.send({ type: "response.create" });
      this.#expect(new TurnMarks("held", letGo, performance.now()));
    }
    this.on.activity();
  }

  /** Say something in writing; the connection must be open. */
  type(text) {
    this.#interrupt();
    if (this.heardUser) this.connection.send({ type: "input_audio_buffer.clear" });
    const id = `item_${crypto.getRandomValues(new Uint32Array(3)).join("")}`;
    this.typed = { id, text, at: performance.now() };
    this.transcript.begin("user", id);
    this.transcript.complete(id, text);
    const item = { id, type: "message", role: "user", content: [{ type: "input_text", text }] };
    this.connection.send({ type: "conversation.item.create", event_id: id, item });
  }

  #interrupt() {
    if (this.response || this.expecting) this.connection.send({ type: "response.cancel" });
    this.expecting = false;
    this.#silence();
  }

  #silence() {
    if (this.response?.item) this.silenced.add(this.response.item);
    this.audio.clear();
  }

  #expect(marks) {
    this.pending = marks;
    this.expecting = true;
  }

  // --- what the server says ---------------------------------------------------------------------------------------------

  /** Take one server event. */
  take(event) {
    const { type, item_id: item } = event;
    if (type === "session.created") event.resumed ? this.#goOn(event.resumed) : this.#begin(event.session);
    else if (type === "error") this.#objected(event.error);
    else if (type.startsWith("input_audio_buffer.")) this.#heard(type.split(".")[1], event);
    else if (type === "repartee.prosody.entered") this.on.prosodyTold(event.request_event_id);
    else if (type === "repartee.reply.held") this.audio.hold();
    else if (type === "repartee.reply.resumed") this.audio.resume();
    else if (type.startsWith("response.")) this.#replied(type.slice("response.".length), event);
    else if (type === "conversation.item.added") this.#added(event.item);
    else if (type.endsWith("input_audio_transcription.delta")) this.transcript.add(item, event.delta);
    else if (type.endsWith("input_audio_transcription.completed")) this.transcript.complete(item, event.transcript);
    else if (type === "conversation.item.truncated") this.#tookBack(item);
    else if (type === "conversation.item.deleted" && this.order.forget(item)) this.on.order(this.order.state, this.tools);
    this.on.activity();
  }

  /** The connection was lost, and here is the session again; with what was missed, if that is `complete`. */
  #goOn({ complete }) {
    this.holding = null;
    if (complete) return;
    if (this.heardUser) this.transcript.drop(this.heardUser);
    this.heardUser = this.response = null;
    this.expecting = false;
  }

  #begin(session) {
    this.ended();
    this.tools = session.tools ?? [];
    this.on.order(this.order.state, this.tools);
    this.#configure();
  }

  #objected({ code, message, event_id: id }) {
    if (id && this.on.prosodyTold(id)) return; // the reply was over
    if (this.typed && id === this.typed.id) {
      const { text } = this.typed;
      this.typed = null;
      this.transcript.drop(id);
      this.on.textRefused(message, text);
    } else if (!HARMLESS.has(code)) {
      this.expecting = false;
      this.on.problem(message);
    }
  }

  #heard(what, event) {
    if (what === "speech_started") {
      this.heardUser = event.item_id;
      this.transcript.begin("user", event.item_id);
      this.expecting = false;
      this.#silence();
    } else if (what === "speech_stopped") {
      this.heardUser = null;
      this.pending = new TurnMarks("spoken", this.trace.speechEnd(event.audio_end_ms), performance.now());
    } else if (what === "committed") {
      this.heardUser = null;
      this.transcript.begin("user", event.item_id);
      if (this.turnDetection !== null) this.expecting = true;
    } else if (what === "cleared" && this.heardUser) {
      this.transcript.drop(this.heardUser);
      this.heardUser = null;
    }
  }

  #added({ id }) {
    if (id !== this.typed?.id) return;
    this.#expect(new TurnMarks("typed", this.typed.at, this.typed.at));
    this.typed = null;
    this.connection.send({ type: "response.create" });
  }

  #replied(what, event) {
    const item = event.item_id;
    if (what === "created") {
      this.response = { id: event.response.id, item: null, marks: this.pending };
      this.pending = null;
      this.expecting = false;
    } else if (what === "output_item.added" && event.item.type === "message") {
      if (this.response) this.response.item = event.item.id;
      if (this.response?.marks) this.marks.set(event.item.id, this.response.marks);
      this.received.set(event.item.id, 0);
      this.transcript.begin("agent", event.item.id);
    } else if (what === "output_audio_transcript.delta" || what === "output_text.delta") {
      this.marks.get(item)?.mark("text", performance.now());
      const spoken = what !== "output_text.delta";
      this.transcript.add(item, event.delta, spoken ? this.received.get(item) : undefined);
    } else if (what === "output_audio.delta") {
      this.#play(item, event.delta);
    } else if (what === "output_audio.done") {
      this.audio.end(item);
    } else if (what === "function_call_arguments.done") {
      this.order.call(item, event.name, event.arguments);
      this.on.order(this.order.state, this.tools);
    } else if (what === "done") {
      this.#done(event.response);
    }
  }

  #play(item, delta) {
    if (this.silenced.has(item)) return;
    const pcm = Uint8Array.from(atob(delta), (character) => character.charCodeAt(0)).buffer;
    this.received.set(item, (this.received.get(item) ?? 0) + pcm.byteLength / 2);
    this.audio.play(item, pcm);
  }

  #done({ id, status, status_details: details, output }) {
    if (id === this.response?.id) this.response = null;
    const spoken = output.find((item) => item.type === "message");
    if (spoken) this.transcript.finish(spoken.id, status);
    if (spoken && status !== "completed") this.marks.delete(spoken.id);
    if (status === "failed") this.on.problem(`The agent could not answer (${details?.reason ?? "no reason given"}).`);
  }

  #tookBack(item) {
    if (this.truncated.has(item)) return;
    this.truncated.add(item);
    this.transcript.takeBack(item);
  }

  // --- what the speaker reports -----------------------------------------------------------------------------------------

  /** Take one report of the playout. */
  playout(report) {
    const { type, id } = report;
    if (type === "started") {
      this.playing = id;
      const marks = this.marks.get(id);
      if (marks?.mark("heard", performance.now() + this.audio.outputDelayMs)) this.on.turn(marks.parts, marks.how);
      this.marks.delete(id);
    } else if (type === "finished") {
      this.playing = null;
      this.transcript.heard(id, Infinity);
      this.received.delete(id);
    } else if (type === "progress" && id !== undefined) {
      this.transcript.heard(id, report.played);
    } else if (type === "cleared") {
      this.playing = null;
      report.cut.forEach((item) => this.#truncate(item));
    }
    this.on.activity();
  }

  #truncate({ id, played }) {
    if (!this.received.has(id)) return; // of a session that is over
    const heardMs = Math.floor(Math.max(0, played / SAMPLES_PER_MS - this.audio.outputDelayMs));
    this.received.delete(id);
    this.marks.delete(id);
    if (this.truncated.has(id)) return;
    this.truncated.add(id);
    this.transcript.cut(id, heardMs * SAMPLES_PER_MS);
    const place = { item_id: id, content_index: 0, audio_end_ms: heardMs };
    this.connection.send({ type: "conversation.item.truncate", ...place });
  }
}
