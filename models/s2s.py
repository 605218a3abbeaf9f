"""The S2S transformer: one step a frame, in text, in user transcript, in codec codes.

* Temporal backbone: any ``transformers`` causal LM that takes ``inputs_embeds`` and the Cache interface (Llama-style
  by default), so LoRA and pretrained text backbones apply unchanged.
* Input of a frame is a sum: user codes (or a learned "nothing heard" vector unless listening), the text and transcript
  pieces and agent codes of the step before, and the mode.
* Words stand apart in their streams, so a step is also told the latest two pieces of each: a word that is to be
  repeated is found by the word before it, wherever that was (the smeared keys of Olsson et al., "In-context learning
  and induction heads", 2022, over words instead of steps).
* What the user types is READ, a piece a step in the transcript stream; a reply nobody hears is written, a piece a step.
  Text to be said as it stands is READ with EOS in the text stream, then spoken.
* After a reply the model may NOTE what it has to remember (the order as it stands), a piece a step in the text stream,
  heard and seen by nobody: the next turn starts from the last note instead of from all turns before it (the belief
  state of Hosseini-Asl et al., "A simple language model for task-oriented dialogue", arXiv 2005.00796, moved to where
  it does not delay the answer). Whoever keeps the order may note it for the model.
* Outputs of the backbone: the agent's text (inner monologue: leads its audio by ``lead_frames``), the user's
  transcript, end-of-turn logits. From the text the talker makes the agent's codes: :mod:`models.talker`.
* Codes are embedded by a small network over their dequantised values, so near codes start as near vectors.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AutoConfig, AutoModel
from transformers.cache_utils import Cache

from models.quantize import GroupedFSQ
from models.talker import Talker

LISTEN, SPEAK, READ, WRITE = 0, 1, 2, 3  # hear the user, answer aloud; the same two in text alone
NOTE = 4  # remember, after a reply
N_MODES = 5
N_RECENT = 4
N_TURN_LOGITS = 2  # the user has finished; the user is speaking in this frame


def _llama(hidden: int = 256, layers: int = 6, heads: int = 4, kv_heads: int = 2, inner: int = 768) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "intermediate_size": inner,
        "max_position_embeddings": 1 << 20,
        "vocab_size": 8,
    }


@dataclass(frozen=True)
class S2SConfig:
    """Everything needed to build the network."""

    vocabulary: int
    user_levels: tuple[tuple[int, ...], ...]
    agent_levels: tuple[tuple[int, ...], ...]
    lead_frames: int = 3  # agent audio of step t is frame t - lead_frames of the reply
    transcript_delay_frames: int = 4  # a user word is written this long after its end
    window: int = 1024  # frames of context
    notes: bool = False  # whether replies are followed by notes
    recent_dim: int = 0  # size of the embedding of recent pieces; 0: steps are not told them
    symbols: int = 2  # of phones that the talker knows
    talker_dim: int = 320
    talker_layers: int = 6
    backbone: dict[str, Any] = field(default_factory=_llama)

    def __post_init__(self) -> None:
        for name in ("vocabulary", "lead_frames", "transcript_delay_frames", "window", "talker_dim", "talker_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"s2s config: {name} must be at least 1, got {getattr(self, name)}")
        if "model_type" not in self.backbone:
            raise ValueError("s2s config: backbone needs a model_type, for example llama or gpt2")


@dataclass(frozen=True)
class FrameInput:
    """Inputs of T steps of B streams, all int64: mode, text, transcript [B, T]; user, agent codes [B, T, groups].

    ``agent[..., 0] < 0`` means no agent audio; ``user`` is ignored unless ``mode`` is LISTEN. ``recent`` [B, T, 4], the
    latest two pieces that are not PAD of text and of transcript, latest first, is only read with ``recent_dim``.
    """

    mode: Tensor
    user: Tensor
    text: Tensor
    transcript: Tensor
    agent: Tensor
    recent: Tensor | None = None


@dataclass(frozen=True)
class FrameOutput:
    """Logits: text, transcript [B, T, V]; turn [B, T, N_TURN_LOGITS]."""

    text: Tensor
    transcript: Tensor
    turn: Tensor


Window = tuple[Tensor, Tensor]
"""Of a layer, past and new entries: [B, kv heads, W, head dim] and [B, kv heads, 1, head dim]."""


class WindowCache(Cache):
    """Keys and values given as plain tensors: what lets a transformers model run with a window kept elsewhere.

    ``update`` hands :func:`attend_to_window` past and new entries side by side, and keeps the new ones for the owner of
    the window.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Take both of each layer, [B, kv heads, W, head dim], in any order of time; keys hold their rotation."""
        super().__init__(layers=[])
        self._past = (keys, values)
        self.new_keys: list[Tensor] = []
        self.new_values: list[Tensor] = []

    def update(  # type: ignore[override]
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Window, Window]:
        """Past and new keys and values of a layer."""
        self.new_keys.append(key_states)
        self.new_values.append(value_states)
        keys, values = self._past
        return (keys[layer_idx], key_states), (values[layer_idx], value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots of the window, used or not."""
        return int(self._past[0][0].shape[2])


def attend_to_window(
    module: nn.Module, query: Tensor, key: Window, value: Window, attention_mask: Tensor,
    scaling: float | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of one step over the past and itself, which copies neither: the window is most of a step's memory.

    Args:
        module: not used.
        query: [B, heads, 1, head dim].
        key: of a :class:`WindowCache`; ``value`` likewise.
        value: see ``key``.
        attention_mask: [B, 1, 1, W + 1].
        scaling: of the scores; None: one over the root of the head's size.
        kwargs: not used.

    Returns:
        [B, 1, heads, head dim], and no weights.
    """
    batch, heads, _, size = query.shape
    past_keys, new_keys = key
    past_values, new_values = value
    groups = query.reshape(batch, past_keys.shape[1], -1, size)  # of heads that share keys
    factor = size**-0.5 if scaling is None else scaling
    found = []
    for one in groups.unbind(dim=2):  # a head at a time: products with a vector, for which no matrix is rearranged
        scores = torch.cat([past_keys @ one[..., None], new_keys @ one[..., None]], dim=2).transpose(2, 3)
        weights = torch.softmax(scores * factor + attention_mask, dim=-1)
        found.append(weights[..., :-1] @ past_values + weights[..., -1:] * new_values)
    return torch.cat(found, dim=2).reshape(batch, 1, heads, size), None


AttentionInterface.register("window", attend_to_window)


class S2S(nn.Module):
    """See the module's docstring. ``forward`` trains the backbone on whole sequences, ``step`` advances one frame."""

    def __init__(self, config: S2SConfig) -> None:
        super().__init__()
        self.config = config
        settings = dict(config.backbone)
        backbone_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        backbone_config._attn_implementation = "sdpa"
        self.backbone = AutoModel.from_config(backbone_config)
        arguments = inspect.signature(self.backbone.forward).parameters
        self.cache_name = "cache" if "cache" in arguments else "past_key_values"  # renamed in transformers 5.24
        # text enters as embeddings of our own streams: the backbone's table is not used
        self.backbone.set_input_embeddings(nn.Embedding(1, 1))
        dim = backbone_config.hidden_size
        self.user_fsq, self.agent_fsq = GroupedFSQ(config.user_levels), GroupedFSQ(config.agent_levels)
        self.user_embed = nn.Sequential(nn.Linear(self.user_fsq.dims, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.agent_embed = nn.Sequential(nn.Linear(self.agent_fsq.dims, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.text_embed = nn.Embedding(config.vocabulary, dim)
        self.transcript_embed = nn.Embedding(config.vocabulary, dim)
        self.no_user, self.no_agent = nn.Parameter(torch.randn(dim) * 0.1), nn.Parameter(torch.randn(dim) * 0.1)
        self.mode_embed = nn.Embedding(N_MODES if config.notes else NOTE, dim)
        self.text_head, self.transcript_head = nn.Linear(dim, config.vocabulary), nn.Linear(dim, config.vocabulary)
        self.turn_head = nn.Linear(dim, N_TURN_LOGITS)
        self.talker = Talker(config.symbols, config.talker_dim, config.talker_layers, self.agent_fsq)
        for table in (self.text_embed, self.transcript_embed, self.mode_embed):
            nn.init.normal_(table.weight, std=0.1)
        if config.recent_dim:
            self.recent_embed = nn.Embedding(config.vocabulary, config.recent_dim)  # of both streams: they must match
            self.recent_enter = nn.Linear(N_RECENT * config.recent_dim, dim, bias=False)
            nn.init.normal_(self.recent_enter.weight, std=0.005)

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """(layers, kv heads, head dim) of the key/value cache."""
        c = self.backbone.config
        heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
        size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        return c.num_hidden_layers, heads, size

    @property
    def rotary(self) -> list[float]:
        """Radians a step by which keys are rotated, half as many as a head has numbers; none with learned positions.

        Raises:
            ValueError: only a part of each key is rotated.
        """
        found = getattr(self.backbone, "rotary_emb", None)
        frequencies: list[float] = [] if found is None else found.inv_freq.tolist()
        if frequencies and 2 * len(frequencies) != self.cache_shape[2]:
            raise ValueError("backbones whose keys are rotated in part are not supported")
        return frequencies

    def embed(self, frame: FrameInput) -> Tensor:
        """Sum of all input streams, [B, T, D]."""
        user = self.user_embed(self.user_fsq.dequantize(frame.user))
        user = torch.where((frame.mode == LISTEN)[..., None], user, self.no_user)
        agent = self.agent_embed(self.agent_fsq.dequantize(frame.agent.clamp_min(0)))
        agent = torch.where(frame.agent[..., :1] < 0, self.no_agent, agent)
        total = (
            user + agent + self.text_embed(frame.text) + self.transcript_embed(frame.transcript)
            + self.mode_embed(frame.mode)
        )  # fmt: skip
        if self.config.recent_dim:
            assert frame.recent is not None, "this model is told recent pieces"
            total = total + self.recent_enter(self.recent_embed(frame.recent).flatten(-2))
        return total  # type: ignore[no-any-return]

    def heads(self, hidden: Tensor) -> FrameOutput:
        """Logits from the backbone's output [B, T, D]."""
        return FrameOutput(self.text_head(hidden), self.transcript_head(hidden), self.turn_head(hidden))

    def forward(self, frame: FrameInput, padding: Tensor | None = None) -> FrameOutput:
        """Whole sequences from an empty context.

        Args:
            frame: inputs of T <= window steps.
            padding: [B, T], 0 where a row has ended (at its end).
        """
        return self.heads(self.hidden(frame, padding))

    def hidden(self, frame: FrameInput, padding: Tensor | None = None) -> Tensor:
        """The backbone's output [B, T, D]; arguments as for :meth:`forward`."""
        out = self.backbone(inputs_embeds=self.embed(frame), attention_mask=padding, use_cache=False)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def step(
        self, frame: FrameInput, keys: Sequence[Tensor], values: Sequence[Tensor], mask: Tensor, position: Tensor
    ) -> tuple[FrameOutput, Tensor, Tensor]:
        """One frame against a window of past keys and values.

        Args:
            frame: inputs with T = 1.
            keys: of each layer, [B, kv heads, W, head dim]; ``values`` likewise.
            values: see ``keys``.
            mask: additive float [B, 1, 1, W + 1]; minus infinity (or very low) on unused slots; the last is this frame.
            position: int64 [B, 1], steps since the session began.

        Returns:
            Logits, new key and value slices [layers, B, kv heads, 1, head dim] for the owner of the window to store.
        """
        cache, config = WindowCache(keys, values), self.backbone.config
        kind, config._attn_implementation = config._attn_implementation, "window"
        try:
            hidden = self.backbone(
                inputs_embeds=self.embed(frame), attention_mask=mask, position_ids=position,
                use_cache=True, **{self.cache_name: cache},
            ).last_hidden_state  # fmt: skip
        finally:
            config._attn_implementation = kind
        return self.heads(hidden), torch.stack(cache.new_keys), torch.stack(cache.new_values)


def agent_cross_entropy(logits: Tensor, codes: Tensor, fsq: GroupedFSQ) -> Tensor:
    """Mean cross-entropy of every quantiser dimension, [..., dims], from logits [..., sum(levels)] and codes."""
    indices = fsq.to_indices(codes)
    parts = torch.split(logits, fsq.levels.tolist(), dim=-1)
    return torch.stack(
        [
            F.cross_entropy(part.flatten(0, -2), indices[..., dim].flatten(), reduction="none")
            for dim, part in enumerate(parts)
        ],
        dim=-1,
    ).reshape(*indices.shape)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, restored afterwards."""
    was = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was)
