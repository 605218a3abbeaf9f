"""A codec's two encoders, for whole clips: what turns recordings into the codes of a data set."""

from pathlib import Path

import numpy as np
import torch

from models.checkpoint import load_weights, read_dataclass
from models.codec import AcousticEncoder, CodecConfig, SemanticEncoder
from models.features import FRAME_SIZE, analyse, new_history
from models.tokenizer import Tokenizer

WARM_FRAMES = 4


def load_codec_config(codec: Path) -> CodecConfig:
    """The configuration written with the codec's semantic part."""
    return read_dataclass(codec, "repartee-codec", CodecConfig, "semantic")


class CodecEncoders:
    """Both encoders of a codec directory, for whole clips.

    Raises:
        ArtefactError: a part is missing or does not fit.
    """

    def __init__(self, codec: Path) -> None:
        torch.set_num_threads(1)
        self.config = load_codec_config(codec)
        self.tokenizer = Tokenizer.load(codec / "tokenizer.json")
        self._semantic, self._acoustic = SemanticEncoder(self.config).eval(), AcousticEncoder(self.config).eval()
        load_weights(self._semantic, codec, "semantic")
        load_weights(self._acoustic, codec, "acoustic")

    @torch.inference_mode()
    def semantic(self, embedding: np.ndarray) -> np.ndarray:
        """Embeddings [T, D] -> uint16 [T, n] semantic codes."""
        net = self._semantic
        latents, _ = net.latents(torch.from_numpy(embedding.astype(np.float32))[None], net.context.init_state(1))
        return net.fsq.to_codes(net.fsq.indices(latents))[0].numpy().astype(np.uint16)

    @torch.inference_mode()
    def acoustic(self, pcm: np.ndarray) -> np.ndarray:
        """24 kHz audio of whole frames, after silence -> uint16 [T, m] prosody and acoustic codes."""
        padded = np.concatenate([np.zeros(WARM_FRAMES * FRAME_SIZE, np.float32), pcm])
        features = analyse(padded, new_history())
        mel, pitch = torch.from_numpy(features.mel64)[None], torch.from_numpy(features.pitch)[None]
        codes, _ = self._acoustic(mel, pitch, self._acoustic.init_state(1))
        return codes[0, WARM_FRAMES:].numpy().astype(np.uint16)
