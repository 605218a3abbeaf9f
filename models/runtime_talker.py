"""The talker at run time: a session's reply, a frame of codes at a time. numpy and onnxruntime, no torch."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from models.artefacts import open_graph, read_chain
from models.graph import GraphStream
from models.prosody import GLIDES, LEVELS
from models.sampling import CodeSampler
from models.score import Score, sounding
from models.tokenizer import prosody_token


@dataclass(frozen=True, slots=True)
class Mark:
    """A prosody token, empty where a piece is none; the first frame of audio that knows of it; who put it."""

    token: str
    frame: int
    injected: bool


@dataclass(slots=True)
class Utterance:
    """What the talker carries from frame to frame of a reply: its graph's state, and the text stream so far."""

    stream: GraphStream
    said: list[int] = field(default_factory=list)  # a piece a step, PAD among them
    made: int = 0  # frames of audio
    early: dict[int, int] = field(default_factory=dict)  # injected pitch tokens, by the frame they act from

    def begin(self) -> None:
        """Forget the reply before."""
        self.stream.reset()
        self.stream.inputs["before"][:] = -1
        self.made = 0
        self.said.clear()
        self.early.clear()

    def copy(self) -> "Utterance":
        """Another one that goes on from here."""
        return replace(self, stream=self.stream.copy(), said=list(self.said), early=dict(self.early))


class TalkerRuntime:
    """The talker's weights, shared by all sessions.

    Args:
        graph: of :func:`models.export.export_talker`.
        score: of the model's tokenizer.
        sampler: with the chain of the talker.
        lead: by how many frames text leads its audio.
    """

    def __init__(self, graph: ort.InferenceSession, score: Score, sampler: CodeSampler, lead: int) -> None:
        self._graph, self._score, self._sampler, self._lead = graph, score, sampler, lead

    @classmethod
    def load(cls, directory: Path, config: dict[str, Any]) -> "TalkerRuntime":
        """The talker of an exported S2S model, with the model's ``config.json``.

        Raises:
            ArtefactError: a file is missing or damaged.
            ValueError, KeyError: the config is not one of an S2S model, or its files do not fit it.
        """
        chain, score = read_chain(directory / "chain.npz"), Score.load(directory / "score.json")
        sampler = CodeSampler(config["agent_levels"], chain)
        return cls(open_graph(directory / "talker.onnx"), score, sampler, config["lead_frames"])

    def new(self) -> Utterance:
        """An utterance of which nothing is said yet."""
        return Utterance(GraphStream(self._graph))

    def write(self, token: int, injected: bool, utterance: Utterance) -> Mark:
        """Take the piece of the next step; returns what it says about delivery.

        An injected token that changes the pitch acts on the very next frame instead of on that of its place in the
        text; the others are about words to come.
        """
        mark = prosody_token(token)
        utterance.said.append(token)
        if injected and mark in (*LEVELS, *GLIDES):
            utterance.early[utterance.made] = token
        return Mark(mark, utterance.made, injected)

    def codes(self, utterance: Utterance) -> np.ndarray | None:
        """Codes int64 [groups] of the next frame of a reply whose newest piece was written; None: text leads still."""
        if len(utterance.said) <= utterance.made + self._lead:
            return None
        inputs, outputs = utterance.stream.inputs, utterance.stream.outputs
        symbols, acting = sounding(utterance.said, self._score, self._lead, [utterance.made], utterance.early)
        inputs["symbols"][0, 0], inputs["acting"][0, 0] = symbols[0], acting[0]
        utterance.stream.run()
        codes = self._sampler(outputs["agent_logits"], outputs["chain"])
        inputs["before"][0, 0] = codes
        utterance.made += 1
        return codes
