"""Convert Google's ``speech_embedding`` network from the ONNX file of the openwakeword package.

``python -m training.convert_speech_embedding --onnx embedding_model.onnx --output models/pretrained/speech_embedding``

The result is part of the repository; this is how it was made. ``pip download openwakeword==0.4.0`` brings the file.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper

from models.checkpoint import save_model
from models.speech_embedding import SpeechEmbedding

KIND = "repartee-speech-embedding"
BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Source:
    """Where the weights come from."""

    source: str


def load_onnx_weights(module: SpeechEmbedding, path: Path) -> None:
    """Copy the weights of ``embedding_model.onnx`` into ``module``.

    Raises:
        ValueError: the graph is not that network.
    """
    graph = onnx.load(str(path)).graph
    values = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    if len(nodes) != len(module.convs) or not norms:
        raise ValueError(f"{path}: {len(nodes)} convolutions, speech_embedding has {len(module.convs)}")
    convs: Any = module.convs
    with torch.no_grad():
        for conv, node in zip(convs, nodes, strict=True):
            conv.weight.copy_(values[node.input[1]])
            conv.bias.copy_(values[node.input[2]] if len(node.input) > 2 else torch.zeros_like(conv.bias))
        gain, bias, mean, var = (values[name] for name in norms[0].input[1:5])
        module.scale.copy_(gain / torch.sqrt(var + BATCH_NORM_EPSILON))
        module.shift.copy_(bias - mean * module.scale)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True, help="embedding_model.onnx")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    args = parser.parse_args()
    module = SpeechEmbedding()
    load_onnx_weights(module, args.onnx)
    source = (
        f"speech_embedding (Google, Apache-2.0), converted from {args.onnx.name} of the PyPI wheel openwakeword 0.4.0"
    )
    save_model(args.output, KIND, module, Source(source), {})
    print(f"{args.onnx} -> {args.output}")


if __name__ == "__main__":
    main()
