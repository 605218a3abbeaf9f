// The WebSocket to the server that this page came from; it comes back by itself where that makes sense, to the same
// session when the connection was lost.

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 15;
const SOON_S = 0.2; // after a connection that was lost
const DEAD_MS = 4_000; // so long the network takes nothing: it is gone, though nobody has said so
const LOST = 4000; // close code: this side will be back
const MAX_UNSENT = 96_000; // bytes: about 1.5 s of microphone audio

/**
 * The address of the session, and what is offered as subprotocols; the token is the page's `#token=...`.
 * `session` is one to come back to: {id, last}, of which `last` is the id of the last event that came.
 */
export function address(page, session = null) {
  const token = new URLSearchParams(page.hash.slice(1)).get("token");
  const query = session ? `&session_id=${session.id}&after=${session.last}` : "";
  const url = `${page.protocol === "https:" ? "wss" : "ws"}://${page.host}/v1/realtime?holds=true&prosody=true${query}`;
  return { url, protocols: token ? ["realtime", `openai-insecure-api-key.${token}`] : ["realtime"] };
}

/** What a close means for the user, and whether to try again. `said` is the error before it, if any: code and message. */
export function explain(code, reason, said, opened, health) {
  const detail = said?.message || reason;
  if (said?.code === "session_idle") return { message: sentence(detail), again: false }; // nobody is there
  if (code === 1013) return { message: sentence(detail || "The server is full"), again: true };
  if (code === 1008) return { message: sentence(`The server refused: ${detail || "no reason given"}`), again: false };
  if (opened && code === 1000) return { message: sentence(detail || "The server ended the conversation"), again: false };
  if (opened) return { message: sentence(detail || "The connection was lost"), again: true };
  if (health === null) return { message: "The server does not answer.", again: true };
  const message = "The server refuses this page. If it wants a token, open the page with the right #token=… in its address.";
  return { message, again: false };
}

function sentence(text) {
  const clean = text.trim();
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}

/**
 * @param on.event (event) a server event
 * @param on.state ("off" | "connecting" | "open" | "waiting" | "failed", message, seconds) where the connection stands
 */
export class Connection {
  constructor(on) {
    this.on = on;
    this.socket = null;
    this.timer = 0;
    this.wait = FIRST_WAIT_S;
    this.state = "off";
    this.session = null; // {id, last} of the session that there is, or that is waited for
    this.resumed = false;
    this.behindSince = null;
    addEventListener("online", () => this.state === "waiting" && this.open());
  }

  /** Connect now, also when a later try was planned. */
  open() {
    if (this.socket) return;
    clearTimeout(this.timer);
    this.#become("connecting");
    const { url, protocols } = address(location, this.session);
    const socket = new WebSocket(url, protocols);
    this.socket = socket;
    let opened = false;
    let said = null;
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      said = event.type === "error" ? event.error : null;
      if (this.session && opened) this.session.last = event.event_id;
      if (event.type !== "session.created") return this.on.event(event);
      opened = true;
      this.resumed = Boolean(event.resumed);
      this.session = { id: event.session.id, last: event.event_id };
      this.wait = FIRST_WAIT_S;
      this.state = "open";
      this.on.event(event); // before anyone hears that it is open
      this.#become("open");
    };
    socket.onclose = async ({ code, reason }) => {
      if (this.socket !== socket) return;
      const health = opened || said ? undefined : await serverHealth();
      if (this.socket !== socket) return;
      this.socket = null;
      const { message, again } = explain(code, reason, said, opened, health);
      if (opened && code === 1006) this.wait = SOON_S;
      if (again) return this.#later(message);
      this.session = null;
      this.#become("failed", message);
    };
  }

  /** The network takes nothing any more: give this connection up, and come back on another. */
  #lose() {
    const { socket } = this;
    this.socket = null;
    this.behindSince = null;
    socket.close(LOST);
    this.wait = SOON_S;
    this.#later("The connection was lost.");
  }

  /** Leave; nothing is tried again. */
  close() {
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = null;
    this.session = null;
    socket?.close(1000);
    this.#become("off");
  }

  /** Send one event; returns whether there is a connection. */
  send(event) {
    if (this.state !== "open" || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(event));
    return true;
  }

  /** Whether the network does not keep up with the microphone: more audio would only come later and later. */
  get behind() {
    return this.state === "open" && this.socket.bufferedAmount > MAX_UNSENT;
  }

  /** Send microphone audio (ArrayBuffer), unless the network is behind; returns whether it went. */
  sendAudio(pcm) {
    if (this.state !== "open") return false;
    if (!this.behind) this.behindSince = null;
    else if (performance.now() - (this.behindSince ??= performance.now()) > DEAD_MS) this.#lose();
    if (this.state !== "open" || this.behind) return false;
    const audio = btoa(String.fromCharCode(...new Uint8Array(pcm)));
    return this.send({ type: "input_audio_buffer.append", audio });
  }

  #later(message) {
    const seconds = this.wait;
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT_S);
    this.timer = setTimeout(() => this.open(), 1000 * seconds * (1 + 0.2 * Math.random()));
    this.#become("waiting", message, seconds);
  }

  #become(state, message = "", seconds = 0) {
    this.state = state;
    this.on.state(state, message, seconds);
  }
}

/** The server's /healthz, null when there is no answer. */
async function serverHealth() {
  try {
    return await (await fetch("healthz", { cache: "no-store" })).json();
  } catch {
    return null;
  }
}
