// The page: buttons, keys and meters around one conversation.

import { Audio, AudioProblem, INSECURE } from "./audio.js";
import { Connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { Meter } from "./meter.js";
import { ProsodyButtons } from "./prosody.js";
import { Settings, turnDetection } from "./settings.js";
import { showOrder, showPlayback, showTurn } from "./side.js";
import { Transcript } from "./transcript.js";

const STATES = {
  off: ["Ready when you are", "Press the button and say what you would like."],
  connecting: ["Connecting", ""],
  waiting: ["Not connected", ""],
  failed: ["Not connected", ""],
  listening: ["Listening", "Just talk. You can interrupt at any time."],
  muted: ["Muted", "The agent does not hear you."],
  held: ["Your turn", "Hold the button, or the space key, while you speak."],
  typing: ["Connected", "Type below, or start talking."],
  hearing: ["I hear you", ""],
  thinking: ["One moment", ""],
  speaking: ["Speaking", ""],
};

const find = (id) => document.getElementById(id);
const [talk, mute, hold, composer] = ["talk", "mute", "hold", "composer"].map(find);

let talking = false; // the microphone is wanted
let countdown = 0;
let wakeLock = null;

const meters = { user: new Meter(find("level-user"), "--user"), agent: new Meter(find("level-agent"), "--agent") };
const transcript = new Transcript(find("transcript"), (text) => (find("announcer").textContent = text));
const audio = new Audio({ microphone: heard, playing, trouble: (message) => notify(message) });
const connection = new Connection({ event: (event) => conversation.take(event), state: connected });
const conversation = new Conversation(connection, audio, transcript, {
  activity: show,
  order: (state, tools) => showOrder(find("order"), state, tools),
  turn: (parts, how) => showTurn(find("turns"), parts, how),
  problem: (message) => notify(message),
  textRefused,
  prosodyTold: (id) => prosody.settle(id),
});
const prosody = new ProsodyButtons(find("prosody"), (token, id) => conversation.inject(token, id));
const settings = new Settings(find("settings"), changed);
conversation.turnDetection = turnDetection(settings.values);
audio.output = settings.values.output;

// --- talking -----------------------------------------------------------------------------------------------------------

async function start() {
  talking = true;
  notify("");
  show();
  try {
    await audio.unlock();
    await audio.listen(settings.values.input);
    if (!talking) return audio.closeMicrophone(); // stopped meanwhile
    settings.listDevices();
    connection.open();
    wakeLock = await navigator.wakeLock?.request("screen").catch(() => null);
  } catch (error) {
    if (!(error instanceof AudioProblem)) throw error;
    talking = false;
    notify(error.message);
  }
  show();
}

function stop() {
  talking = false;
  conversation.release();
  audio.closeMicrophone();
  setMuted(false);
  connection.close();
  audio.rest();
  wakeLock?.release();
  wakeLock = null;
  notify("");
  show();
}

function setMuted(muted) {
  audio.mute(muted);
  mute.setAttribute("aria-pressed", muted);
  show();
}

function heard(chunk) {
  meters.user.level = chunk.level;
  conversation.microphone(chunk);
}

function playing(report) {
  if (report.type === "progress") {
    meters.agent.level = report.level;
    showPlayback(find("playback"), report);
  }
  conversation.playout(report);
}

function connected(state, message, seconds) {
  clearInterval(countdown);
  if (state === "off" || state === "failed") conversation.ended();
  if (state === "open") {
    notify("");
    if (!connection.resumed) transcript.divide("A new conversation: the agent starts afresh");
    sendTyped();
  } else if (state === "waiting") {
    const until = performance.now() + 1000 * seconds;
    const tell = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      find("countdown").textContent = left > 0 ? `Trying again in ${left} s` : "";
    };
    notify(message, true);
    tell();
    countdown = setInterval(tell, 1000);
  } else if (state === "failed") {
    notify(message, true);
  }
  show();
  if (!hold.hidden && document.activeElement === talk) hold.focus(); // or the space key would stop the talk
}

async function changed(values, names) {
  if (names.includes("output")) await audio.speakThrough(values.output);
  if (names.includes("input") && talking) await audio.listen(values.input).catch((error) => notify(error.message));
  if (["turns", "eagerness", "silence"].some((name) => names.includes(name))) {
    conversation.detectTurns(turnDetection(values));
  }
  show();
}

// --- typing ------------------------------------------------------------------------------------------------------------

async function submitted(event) {
  event.preventDefault();
  const text = composer.elements.text.value.trim();
  if (!text) return;
  await audio.unlock().catch((error) => notify(error.message)); // the answer is written as well
  if (connection.state === "open") sendTyped();
  else connection.open(); // and send when it is
}

function sendTyped() {
  const field = composer.elements.text;
  const text = field.value.trim();
  if (!text) return;
  field.value = "";
  conversation.type(text);
}

function textRefused(message, text) {
  if (!composer.elements.text.value) composer.elements.text.value = text; // to be put right
  notify(`What you typed was not taken: ${message}.`);
}

// --- what is seen ------------------------------------------------------------------------------------------------------

function show() {
  const push = settings.values.turns === "push";
  const state = currentState(push);
  const [title, hint] = STATES[state];
  if (document.body.dataset.state !== state) {
    document.body.dataset.state = state;
    find("state").textContent = title;
    find("hint").textContent = hint;
  }
  talk.querySelector("span").textContent = talking ? "Stop" : "Start talking";
  talk.classList.toggle("on", talking);
  mute.hidden = !talking || push;
  hold.hidden = !talking || !push;
  hold.disabled = connection.state !== "open";
  hold.setAttribute("aria-pressed", conversation.holding !== null);
  prosody.enable(connection.state === "open" && conversation.replying);
  for (const meter of Object.values(meters)) meter.run(talking || connection.state === "open");
}

function currentState(push) {
  if (connection.state !== "open") return talking && connection.state === "off" ? "connecting" : connection.state;
  const { activity } = conversation;
  if (activity !== "listening") return activity;
  if (!talking) return "typing";
  if (push) return "held";
  return audio.muted ? "muted" : "listening";
}

/** Say something that the user should know; `retry` offers to connect at once. */
function notify(message, retry = false) {
  const notice = find("notice");
  notice.hidden = !message;
  const text = notice.querySelector("p");
  if (text.textContent !== message) text.textContent = message;
  find("retry").hidden = !retry;
  find("countdown").textContent = "";
}

// --- buttons and keys --------------------------------------------------------------------------------------------------

function press(event) {
  event.preventDefault();
  notify("");
  conversation.press();
}

function spaceIsFree({ target }) {
  return !hold.hidden && !target.closest("input, select, textarea, dialog, button:not(#hold), summary, a");
}

talk.addEventListener("click", () => (talking ? stop() : start()));
mute.addEventListener("click", () => setMuted(!audio.muted));
composer.addEventListener("submit", submitted);
find("retry").addEventListener("click", () => connection.open());
find("dismiss").addEventListener("click", () => notify(""));
find("open-settings").addEventListener("click", () => {
  settings.listDevices();
  find("settings").showModal();
});
hold.addEventListener("pointerdown", (event) => {
  hold.setPointerCapture(event.pointerId);
  press(event);
});
for (const kind of ["pointerup", "pointercancel"]) hold.addEventListener(kind, () => conversation.release());
hold.addEventListener("click", ({ detail }) => {
  if (detail === 0) (conversation.holding ? conversation.release() : conversation.press()); // pressed without a pointer
});
hold.addEventListener("contextmenu", (event) => event.preventDefault());
addEventListener("keydown", (event) => {
  if (event.code !== "Space" || !spaceIsFree(event)) return;
  if (event.repeat) event.preventDefault();
  else press(event);
});
addEventListener("keyup", (event) => {
  if (event.code !== "Space") return;
  if (spaceIsFree(event)) event.preventDefault();
  conversation.release();
});
addEventListener("blur", () => conversation.release());
if (!isSecureContext) notify(INSECURE);
show();
