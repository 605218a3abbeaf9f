"""The engine that the daemon runs: one 80 ms frame in, at most one out. numpy and onnxruntime, no torch.

A session's life: IDLE frames pass the codec encoder only; LISTEN frames are heard by the S2S model; SPEAK steps make
the reply, faster than real time. :meth:`Engine.read` takes typed text, to be answered or to be said. The context is a
window of keys and values that each step writes in place; a session remembers its latest turns.
"""

import contextlib
import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from models import synthesis
from models.artefacts import open_graph, read_config
from models.errors import ArtefactError
from models.features import FRAME_SIZE, SAMPLE_RATE
from models.graph import GraphStream
from models.hearing import MOST_WAYS
from models.prosody import canonical, strip_marks
from models.runtime_state import BLOCKED, NOTING, READING, SPEAKING, State, pause_steps, rotation
from models.runtime_talker import Mark, TalkerRuntime
from models.runtime_text import enter_now, internal_ids, next_piece, to_read
from models.sampling import NO_GUESS, greedy
from models.spoken_text import spoken
from models.tokenizer import BOS, EOS, PAD, SpokenPiece, Tokenizer

CODEC_FORMAT, S2S_FORMAT = "repartee-codec-onnx", "repartee-s2s-onnx"
MAX_REPLY_FRAMES = 375  # 30 s
MAX_NOTE_STEPS = 192
NOTE_STEPS_A_FRAME = 4  # while the session is idle, so that no frame takes long


class Mode(enum.Enum):
    """What a step does with the session."""

    IDLE = "idle"
    LISTEN = "listen"
    SPEAK = "speak"


@dataclass(frozen=True, slots=True)
class StepOut:
    """Result of one step.

    pcm: float32 [1920] agent audio, SPEAK only; None while the text still leads the audio.
    text: agent text newly emitted; the concatenation over a reply is its transcript.
    user_text: words of the user's that are newly sure.
    end_of_turn: probability that the user has finished, LISTEN only.
    done: the reply is complete with this frame.
    marks: prosody tokens newly written; they are no part of the text.
    """

    pcm: np.ndarray | None = None
    text: str = ""
    user_text: str = ""
    end_of_turn: float = 0.0
    done: bool = False
    marks: tuple[Mark, ...] = ()


class Engine:
    """Shared weights; all methods are blocking and must be called from one thread at a time."""

    sample_rate = SAMPLE_RATE
    frame_size = FRAME_SIZE
    directory: Path | None = None  # of the S2S model
    most_ways = MOST_WAYS  # to hear a turn at once
    in_hurry: Callable[[], bool] = staticmethod(lambda: False)  # then one way has to do

    def __init__(self, codec: dict[str, ort.InferenceSession], step: ort.InferenceSession, talker: TalkerRuntime,
                 tokenizer: Tokenizer, config: dict[str, object]) -> None:  # fmt: skip
        self._codec, self._step, self._talker, self._tokenizer = codec, step, talker, tokenizer
        self._lead = int(config["lead_frames"])  # type: ignore[call-overload]
        self._writes_notes = bool(config.get("writes_notes"))
        self._window = int(config["window"])  # type: ignore[call-overload]
        self.tail_frames = int(config["transcript_delay_frames"]) + 2  # type: ignore[call-overload]
        self._silence = np.array(config["silence_codes"], np.int64)
        self._pauses = pause_steps(config)
        self._rotary = rotation(config, step)

    @classmethod
    def load(cls, codec: Path, s2s: Path) -> "Engine":
        """Open exported models.

        Args:
            codec: directory with the codec's graphs.
            s2s: directory with the S2S graph and its tokenizer.

        Raises:
            ArtefactError: a file is missing, damaged, of another version, or the two do not belong together.
        """
        codec_config, config = read_config(codec, CODEC_FORMAT), read_config(s2s, S2S_FORMAT)
        if codec_config.get("alphabet") != config.get("alphabet"):
            raise ArtefactError(f"{s2s}: made for another codec than {codec} (their code alphabets differ)")
        graphs = {name: open_graph(codec / f"{name}.onnx") for name in ("semantic_encoder", "decoder")}
        step, tokenizer = open_graph(s2s / "step.onnx"), Tokenizer.load(s2s / "tokenizer.json")
        try:
            engine = cls(graphs, step, TalkerRuntime.load(s2s, config), tokenizer, config)
        except (KeyError, TypeError, ValueError) as exc:
            raise ArtefactError(f"{s2s / 'config.json'}: incomplete or wrong ({exc!r})") from exc
        engine.directory = s2s
        return engine

    def new_state(self) -> State:
        """A fresh session; about as much memory as its key/value window."""
        state = State(
            GraphStream(self._codec["semantic_encoder"]), GraphStream(self._codec["decoder"]), GraphStream(self._step),
            self._talker.new(), self._pauses, self._rotary, most_ways=self.most_ways,
        )  # fmt: skip
        state.step.inputs["mask"][..., :-1] = BLOCKED
        return state

    def step(self, pcm: np.ndarray | None, state: State, mode: Mode) -> StepOut:
        """Advance a session by one frame.

        Args:
            pcm: float32 [1920] of the user; None in SPEAK.
            state: the session's.
            mode: see the module's docstring. The first SPEAK after another mode starts a reply; LISTEN ends one.

        Raises:
            ValueError: the audio is not one finite float32 frame, or audio was given in SPEAK.
        """
        if mode is Mode.SPEAK:
            if pcm is not None:
                raise ValueError("SPEAK takes no audio: pass what the user says in IDLE steps")
            return self._speak(state)
        if pcm is None or pcm.shape != (FRAME_SIZE,) or pcm.dtype != np.float32:
            what = "nothing" if pcm is None else f"{pcm.dtype} {pcm.shape}"
            raise ValueError(f"expected one frame of float32 ({FRAME_SIZE},), got {what}")
        if not np.isfinite(pcm).all():
            raise ValueError("the audio frame holds values that are not finite")
        codes = state.encode(pcm)
        if mode is Mode.IDLE:
            state.prefix.append(codes)
            if not state.speaking:
                self._write_note(state, NOTE_STEPS_A_FRAME)
            return StepOut()
        return self._listen(codes, state)

    def _listen(self, codes: np.ndarray, state: State) -> StepOut:
        state.speaking, state.script = False, None
        state.drop_injected()
        state.recent_log.clear()
        self._write_note(state)  # what is left of it: the user speaks soon after the reply, or into it
        state.begin_turn()
        most = 1 if self.in_hurry() else state.most_ways
        text = "".join(self._read_out(state.hear(heard, self._window, most)) for heard in (*state.prefix, codes))
        state.prefix.clear()
        return StepOut(user_text=text, end_of_turn=state.end_of_turn)

    def _read_out(self, pieces: Sequence[int]) -> str:
        return "".join(self._tokenizer.piece(piece) for piece in pieces)

    def decide(self, state: State) -> str:
        """What was heard so far is what it most likely was; returns the words that were not sure before."""
        return self._read_out(state.decide())

    def _speak(self, state: State) -> StepOut:
        inputs, outputs = state.step.inputs, state.step.outputs
        guessed = "" if state.speaking else self._start_reply(state)
        inputs["mode"][:], inputs["user"][:], inputs["transcript"][:] = SPEAKING, 0, state.transcript
        state.transcript, marks = PAD, []
        if enter_now(inputs["text"], state):
            state.utterance.said.pop()
            marks.append(self._talker.write(int(inputs["text"][0, 0]), True, state.utterance))
        state.advance(self._window)
        state.reply_steps += 1
        last = int(inputs["text"][0, 0])
        (token, text, _), injected = next_piece(outputs["text_logits"], last, state, self._tokenizer)
        inputs["text"][:] = token
        state.said += text
        if state.script is None and (rest := state.openings.get(state.said.strip())):
            state.script, state.waited = deque(rest), 0
        marks.append(self._talker.write(token, injected, state.utterance))
        pcm = None
        if (codes := self._talker.codes(state.utterance)) is not None:
            inputs["agent"][0, 0] = codes
            pcm = state.decode(codes)
        done = token == EOS or state.reply_steps >= MAX_REPLY_FRAMES
        if done:
            state.speaking, state.script = False, None
            state.drop_injected()
        return StepOut(pcm, text, guessed, done=done, marks=tuple(mark for mark in marks if mark.token))

    def inject(self, tokens: Sequence[str], state: State) -> None:
        """Make prosody tokens the next pieces of the reply that is spoken, or of the next one before it begins.

        Raises:
            ProsodyTagError: one is none of the seven.
        """
        state.injected.extend(internal_ids(tokens))

    def pieces(self, text: str) -> list[SpokenPiece]:
        """The pieces of a text that can be read or spoken; safe on any thread.

        Raises:
            ProsodyTagError: the text holds an unknown tag.
            ValueError: nothing in the text can be read, or it is too long.
        """
        return self._cut(spoken(text))

    def _cut(self, text: str) -> list[SpokenPiece]:
        tokens = self._tokenizer.spoken(canonical(text))
        if not tokens:
            raise ValueError(f"nothing in {text[:80]!r} can be read: it needs words or figures")
        if len(tokens) > self._window // 4:
            raise ValueError(f"the text is too long: {len(tokens)} pieces, at most {self._window // 4}")
        return tokens

    def read(self, text: str, state: State, say: bool) -> int:
        """Take typed text: what the user says (``say`` false), or what the next reply has to be, word for word.

        Figures and symbols are read as words; prosody tokens are for the agent alone, the user's are left out.

        Returns the number of its pieces. Raises what :meth:`pieces` does.
        """
        script = self.pieces(text)
        tokens = to_read(script) if say else self._tokenizer.heard(strip_marks(spoken(text)).lower())
        state.decide()
        self._write_note(state)
        state.begin_turn()
        inputs = state.step.inputs
        inputs["mode"][:], inputs["user"][:], inputs["agent"][:] = READING, 0, -1
        inputs["text"][:] = EOS if say else PAD
        for token in (PAD, *tokens):
            inputs["transcript"][:] = token
            state.advance(self._window)
        state.speaking, state.transcript = False, PAD
        state.recent_log.clear()
        state.script, state.waited, state.recalled = deque(script) if say else None, 0, False
        return len(tokens)

    def recall(self, text: str, state: State) -> None:
        """Make the next reply this text, as if the model had wanted it. Raises what :meth:`pieces` does."""
        state.script = deque(self._cut(spoken(text)))
        state.waited, state.recalled, state.speaking = 0, True, False

    def note(self, text: str, state: State) -> None:
        """Make the note after the latest reply this text; in vain when none is due, or it has been begun."""
        if state.note_due and not state.note_steps:
            state.note = (*self._tokenizer.encode(text)[: MAX_NOTE_STEPS - 2], EOS)

    def expect(self, openings: Mapping[str, str | None], state: State) -> None:
        """If the next reply begins with the words of an opening, it goes on as that says, unless that is too long.

        None: it does not begin so, and takes its next likely word instead.
        """
        state.openings, state.barred = {}, frozenset(words for words, rest in openings.items() if rest is None)
        for opening, rest in openings.items():
            if rest is None:
                continue
            with contextlib.suppress(ValueError):
                state.openings[opening] = self._cut(rest)

    def aside(self, state: State) -> State:
        """A state that remembers nothing and goes on hearing what ``state`` hears: use one of the two at a time."""
        return replace(self.new_state(), encoder=state.encoder, history=state.history, prefix=state.prefix)

    def _write_note(self, state: State, most: int = MAX_NOTE_STEPS) -> None:
        """Write down what is to be remembered, ``most`` pieces of it now; nothing when no note is due."""
        inputs = state.step.inputs
        for _ in range(most):
            if not state.note_due:
                return
            inputs["mode"][:], inputs["user"][:], inputs["agent"][:] = NOTING, 0, -1
            inputs["transcript"][:], inputs["text"][:] = PAD, state.note_piece if state.note_steps else BOS
            state.advance(self._window)
            state.note_piece = state.note[state.note_steps] if state.note else greedy(state.step.outputs["text_logits"])
            state.note_steps += 1
            state.note_due = state.note_piece != EOS and state.note_steps < MAX_NOTE_STEPS

    def _start_reply(self, state: State) -> str:
        """Begin; returns what was heard and not told yet: of a turn in which the model is sure of no word, a guess."""
        rest = self.decide(state)
        self._write_note(state)
        guess, state.guess = state.guess, NO_GUESS
        state.transcript = guess[1] if guess else state.transcript
        state.speaking, state.reply_start, state.reply_steps = True, state.position, 0
        state.heard_last = state.transcript
        state.recent_log.clear()
        state.note_due = self._writes_notes and (state.script is None or state.recalled)
        state.note, state.note_steps, state.said = None, 0, ""
        state.step.inputs["text"][:], state.step.inputs["agent"][:] = BOS, -1
        # what the user says during the reply is a new beginning for the encoder
        state.encoder.reset()
        state.history[:] = 0.0
        state.prefix.clear()
        state.decoder.reset()
        state.utterance.begin()
        state.sound = synthesis.new_synthesis_state()
        for _ in range(2):
            state.decode(self._silence)
        return rest + (self._tokenizer.piece(guess[1]) if guess else "")

    def copy(self, state: State) -> State:
        """A copy of a session that can go on in its place."""
        return state.copy()

    def fork(self, state: State, heard_frames: int) -> State:
        """A copy of a session that may listen, as after an interruption, while the session itself waits in its reply.

        Args:
            state: the session's; it is not changed.
            heard_frames: how many frames of the reply's audio were played.
        """
        ear = replace(state.copy(), script=None, injected=deque(), most_ways=1)  # its words are wanted at once
        self.truncate_reply(ear, heard_frames)
        return ear

    def truncate_reply(self, state: State, heard_frames: int) -> None:
        """Forget the part of the last reply that was not heard (barge-in).

        Only the newest steps of a session can be forgotten: without effect when it has listened since the reply.

        Args:
            state: the session's.
            heard_frames: how many frames of the reply's audio were played; 0: as if there had been no reply.
        """
        state.script = None
        state.drop_injected()
        end = state.reply_start + state.reply_steps
        if not state.after_reply:
            return
        state.speaking = False
        lead = self._lead if heard_frames > 0 else 0  # of what was never heard not even the text remains
        keep = max(min(state.reply_start + max(heard_frames, 0) + lead, end), 0)
        if keep == end:
            return
        if state.recent_log:
            state.recent = state.recent_log[keep - state.reply_start]
            del state.recent_log[keep - state.reply_start :]
        state.step.inputs["mask"][..., keep : state.position] = BLOCKED
        state.note_due, state.note_steps = lead > 0 and (state.note_due or state.note_steps > 0), 0
        if not lead:
            state.transcript = state.heard_last
        state.position, state.reply_steps = keep, keep - state.reply_start
