// The WebSocket to the server that this page came from; it comes back by itself where that makes sense.

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 15;
const MAX_UNSENT = 96_000; // bytes: about 1.5 s of microphone audio

/** The address of the session, and what is offered as subprotocols; the token is the page's `#token=...`. */
export function address(page) {
  const token = new URLSearchParams(page.hash.slice(1)).get("token");
  const url = `${page.protocol === "https:" ? "wss" : "ws"}://${page.host}/v1/realtime?holds=true`;
  return { url, protocols: token ? ["realtime", `openai-insecure-api-key.${token}`] : ["realtime"] };
}

/** What a close means for the user, and whether to try again. `said` is the error event before it, if any. */
export function explain(code, reason, said, opened, health) {
  const detail = said || reason;
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
    addEventListener("online", () => this.state === "waiting" && this.open());
  }

  /** Connect now, also when a later try was planned. */
  open() {
    if (this.socket) return;
    clearTimeout(this.timer);
    this.#become("connecting");
    const { url, protocols } = address(location);
    const socket = new WebSocket(url, protocols);
    this.socket = socket;
    let opened = false;
    let said = "";
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      said = event.type === "error" ? event.error.message : "";
      if (event.type !== "session.created") return this.on.event(event);
      opened = true;
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
      if (again) this.#later(message);
      else this.#become("failed", message);
    };
  }

  /** Leave; nothing is tried again. */
  close() {
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = null;
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
