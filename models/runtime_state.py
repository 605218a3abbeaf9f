"""What a session carries from frame to frame."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort

from models import synthesis
from models.features import analyse_mel32, new_history
from models.graph import GraphStream
from models.hearing import MOST_WAYS, Way, branch
from models.prosody import PAUSES
from models.runtime_talker import Utterance
from models.sampling import NO_GUESS, sigmoid
from models.tokenizer import BOS, PAD, SpokenPiece

LISTENING, SPEAKING, READING, NOTING = 0, 1, 2, 4  # modes of the S2S model
NO_WORD, NEXT_WORD, THIS_WORD = range(3)
PAUSE_STEPS: Mapping[str, int] = MappingProxyType(dict(zip(PAUSES, (4, 9), strict=True)))
"""From a pause to the next word where a model says nothing else: 320 and 720 ms."""
MOST_PAUSE_STEPS = 50
PREFIX_FRAMES = 5  # frames before LISTEN that the model still gets to hear
SINK_STEPS = 4  # the first of a session, which are never forgotten
KEPT_TURNS = 2  # before the one that begins
BLOCKED = -1e9


@dataclass(slots=True)
class State:
    """Everything a session carries from frame to frame; made by :meth:`Engine.new_state`."""

    encoder: GraphStream
    decoder: GraphStream
    step: GraphStream
    utterance: Utterance
    pause_steps: Mapping[str, int]  # from each pause to the next word
    rotary: np.ndarray  # radians a step by which keys are rotated, [head dim / 2]; or nothing
    history: np.ndarray = field(default_factory=new_history)
    sound: synthesis.SynthesisState = field(default_factory=synthesis.new_synthesis_state)
    prefix: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=PREFIX_FRAMES))
    position: int = 0
    turns: list[int] = field(default_factory=list)  # where those that are remembered began
    transcript: int = PAD
    guess: tuple[float, int] | None = NO_GUESS  # of a word, in a turn in which none was written; None: one was
    most_ways: int = MOST_WAYS  # to hear a turn
    ways: list[Way] = field(default_factory=list)  # the likeliest first; none: what was heard is decided
    next_slot: int = 0  # of the window, while there are ways
    end_of_turn: float = 0.0  # probability that the user had finished in the latest frame that was listened to
    speaking: bool = False
    heard_last: int = PAD  # of the transcript, when the reply began
    reply_start: int = 0
    reply_steps: int = 0
    script: deque[SpokenPiece] | None = None  # pieces that the reply still has to say; None: what the model wants to
    recalled: bool = False  # the script is a reply like any other, to be remembered
    waited: int = 0  # steps since the last of them
    unwritten: float = 1.0  # probability that the model would not have written the next one by now
    recent: list[int] = field(default_factory=lambda: [PAD] * 4)  # as FrameInput has it
    recent_log: list[list[int]] = field(default_factory=list)  # before every step since the reply began
    injected: deque[int] = field(default_factory=deque)  # prosody tokens that the reply has still to take
    put_off: int = 0  # steps that the first of them has waited for a word
    owed: SpokenPiece | None = None  # a piece whose place one of them took
    pausing: int = 0  # steps until the word after a pause
    emphasis: int = 0  # NO_WORD, NEXT_WORD or THIS_WORD is emphasised
    note_due: bool = False  # the reply is not noted yet
    note_steps: int = 0  # of the note right after the reply
    note_piece: int = BOS  # its latest piece
    note: tuple[int, ...] | None = None  # its pieces; None: what the model wants to
    said: str = ""  # of the reply
    openings: dict[str, Sequence[SpokenPiece]] = field(default_factory=dict)  # how a reply that begins so goes on
    barred: frozenset[str] = frozenset()  # how it does not begin

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        """Codes of one frame of the user, float32 [frame_size]."""
        self.encoder.inputs["mel32"][0] = analyse_mel32(pcm, self.history)
        self.encoder.run()
        return self.encoder.outputs["codes"][0, 0].copy()

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """One frame of the agent, float32 [frame_size], from its codes."""
        self.decoder.inputs["codes"][0, 0] = codes
        self.decoder.run()
        out = self.decoder.outputs
        harmonic = out["harmonic_real"][0] + 1j * out["harmonic_imaginary"][0]
        pcm = synthesis.synthesise(out["octave"][0], out["voicing"][0], harmonic, out["noise"][0], self.sound)
        return np.clip(pcm, -1.0, 1.0)

    @property
    def after_reply(self) -> bool:
        """Whether nothing was taken in since the last reply and its note."""
        return self.position == self.reply_start + self.reply_steps + self.note_steps

    def begin_turn(self) -> None:
        """After a reply a new turn begins: forget those before the latest, which the reply's note tells of."""
        if self.turns and not (self.reply_steps and self.after_reply):
            return
        if len(self.turns) >= KEPT_TURNS:
            self.forget(self.turns[-KEPT_TURNS])
        self.turns = [*self.turns[-KEPT_TURNS:], self.position]

    def advance(self, window: int) -> None:
        """One S2S step with what ``step.inputs`` holds; its keys and values go into the window."""
        self.make_room(window)
        self._run(self.position)
        self.position += 1

    def _run(self, slot: int) -> None:
        inputs, outputs = self.step.inputs, self.step.outputs
        inputs["position"][:] = self.position
        if "recent" in inputs:
            self.recent_log.append(self.recent)
            self.recent = latest(self.recent, int(inputs["text"][0, 0]), int(inputs["transcript"][0, 0]))
            inputs["recent"][0, 0] = self.recent
        self.step.run()
        for layer, (keys, values) in enumerate(zip(outputs["new_keys"], outputs["new_values"], strict=True)):
            inputs[f"keys_{layer}"][:, :, slot], inputs[f"values_{layer}"][:, :, slot] = keys[:, :, 0], values[:, :, 0]
        inputs["mask"][..., slot] = 0.0

    def hear(self, codes: np.ndarray, window: int, most_ways: int) -> list[int]:
        """One frame of the user, a step in every likely way; returns the pieces that all of them have written.

        Args:
            codes: of the frame, int64 [groups].
            window: steps that are remembered.
            most_ways: that are kept after it.
        """
        told: list[int] = []
        if self.ways and self.next_slot + len(self.ways) > window:
            told += self.decide()
        if not self.ways:
            self.make_room(window)
            self.ways = [Way(latest=self.transcript, recent=tuple(self.recent), guess=self.guess)]
            self.next_slot = self.position
        inputs, outputs = self.step.inputs, self.step.outputs
        inputs["mode"][:], inputs["user"][:], inputs["text"][:], inputs["agent"][:] = LISTENING, codes, PAD, -1
        heard, logits = [], []
        for way in self.ways:
            self._follow(way)
            inputs["transcript"][:] = way.latest
            self._run(self.next_slot)
            heard.append(way.after(self.next_slot, self.recent, sigmoid(float(outputs["turn_logits"][0, 0, 0]))))
            logits.append(outputs["transcript_logits"].reshape(-1).copy())
            self.next_slot += 1
        self.position += 1
        self.ways, agreed = branch(heard, np.stack(logits), most_ways)
        self.end_of_turn = self.ways[0].end_of_turn
        if len(self.ways) == 1:
            self.decide()
        return [*told, *agreed]

    def _follow(self, way: Way) -> None:
        """Go on after this one of the ways: the others' steps are not attended to."""
        mask, parted = self.step.inputs["mask"], self.position - len(way.slots)
        mask[..., parted : self.next_slot] = BLOCKED
        mask[..., list(way.slots)] = 0.0
        self.transcript, self.recent, self.guess = way.latest, list(way.recent), way.guess

    def decide(self) -> tuple[int, ...]:
        """The likeliest way is what was heard; returns its pieces that are not told yet."""
        if not self.ways:
            return ()
        way, self.ways = self.ways[0], []
        parted, slots = self.position - len(way.slots), list(way.slots)
        places = list(range(parted, self.position))
        if slots != places:
            for name, window in self.step.inputs.items():
                if name.startswith(("keys_", "values_")):
                    window[:, :, places] = window[:, :, slots]
        self._follow(replace(way, slots=tuple(places)))
        return way.pieces

    def make_room(self, window: int) -> None:
        """Forget half of what there is when the window is full, but no reply of which some may still be taken back."""
        if self.position < window:
            return
        begin = self.position - window // 2
        self.forget(self.reply_start if SINK_STEPS < self.reply_start < begin and self.after_reply else begin)

    def forget(self, begin: int) -> None:
        """Forget the steps before ``begin``, except the first of all.

        All steps attend to the first ones, whatever they hold, and a model that loses them falls apart; the others
        close up to them, so that no distance is longer than in training (attention sinks and the positions within the
        cache of Xiao et al., "Efficient streaming language models with attention sinks", arXiv 2309.17453).
        """
        if (shift := begin - SINK_STEPS) <= 0:
            return
        inputs, end = self.step.inputs, self.position - shift
        angles = shift * np.concatenate([self.rotary, self.rotary])
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        for name, window in inputs.items():
            if name.startswith(("keys_", "values_")):
                kept = window[:, :, begin : self.position].copy()
                if name.startswith("keys_") and len(angles):
                    first, second = np.split(kept, 2, axis=-1)
                    kept = kept * cosine + np.concatenate([second, -first], axis=-1) * sine
                window[:, :, SINK_STEPS:end] = kept
        inputs["mask"][..., end : self.position] = BLOCKED
        self.position, self.reply_start = end, self.reply_start - shift
        self.turns = [max(turn - shift, SINK_STEPS) for turn in self.turns if turn >= begin]

    def drop_injected(self) -> None:
        """The reply has ended, and with it what it should still have taken and waited for."""
        self.injected.clear()
        self.put_off, self.owed = 0, None
        self.pausing, self.emphasis, self.unwritten = 0, NO_WORD, 1.0

    def copy(self) -> "State":
        """Another session that goes on from here; the two share nothing."""
        sound = replace(self.sound, source=self.sound.source.copy(), tail=self.sound.tail.copy())
        return replace(
            self, encoder=self.encoder.copy(), decoder=self.decoder.copy(), step=self.step.copy(), sound=sound,
            utterance=self.utterance.copy(), history=self.history.copy(), prefix=self.prefix.copy(),
            script=None if self.script is None else self.script.copy(),
            recent=list(self.recent), recent_log=list(self.recent_log), injected=self.injected.copy(),
            turns=list(self.turns), ways=list(self.ways),
        )  # fmt: skip


def pause_steps(config: Mapping[str, Any]) -> Mapping[str, int]:
    """Steps from each pause to the next word, by the ``config.json`` of an S2S model.

    Raises:
        ValueError: one is none of the two pauses, or has no possible length.
    """
    own = config.get("pause_steps", {})
    if not isinstance(own, dict) or not own.keys() <= PAUSE_STEPS.keys():
        raise ValueError(f"pause_steps must be of {' and '.join(PAUSES)}, got {own!r}")
    if not all(type(steps) is int and 0 < steps <= MOST_PAUSE_STEPS for steps in own.values()):
        raise ValueError(f"pause_steps must be from 1 to {MOST_PAUSE_STEPS}, got {own!r}")
    return {**PAUSE_STEPS, **own}


def rotation(config: Mapping[str, Any], step: ort.InferenceSession) -> np.ndarray:
    """How far keys are rotated a step, by the ``config.json`` of an S2S model: radians, [head dim / 2] or [0].

    Raises:
        ValueError: these are no numbers, or not as many as the keys of the graph ``step`` take.
    """
    found = np.array(config["rotary"], float)
    head = next(int(given.shape[-1]) for given in step.get_inputs() if given.name.startswith("keys_"))
    if found.ndim != 1 or not np.isfinite(found).all() or len(found) not in (0, head // 2):
        raise ValueError(f"rotary must be a list of {head // 2} numbers, got {config['rotary']!r}")
    return found


def latest(recent: list[int], text: int, transcript: int) -> list[int]:
    """``recent`` after one more piece of either stream."""
    said, heard = recent[:2], recent[2:]
    return [*(said if text == PAD else [text, said[0]]), *(heard if transcript == PAD else [transcript, heard[0]])]
