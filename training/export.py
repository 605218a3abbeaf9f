"""Turn trained checkpoints into the runtime's ONNX directories, after checking that they agree with torch.

``python -m training.export --codec runs/codec --s2s runs/s2s --output models/pretrained/NAME``

Writes ``OUTPUT/codec`` and ``OUTPUT/s2s``: graphs, tokenizer, config, and the weights they were made from (half
precision: weights are rounded first, so graphs and weights are the same model). Nothing is left at OUTPUT unless
streamed audio gives the same codes, logits and samples in both. With ``--domain`` the domain file travels with the S2S
model, and the agent's replies become actions.
"""

import argparse
import copy
import dataclasses
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from agent.domain.domain_file import DOMAIN_FILE, read_domain_file
from models import export, synthesis
from models.artefacts import VERSION, open_graph
from models.checkpoint import load_weights, read_header, save_model, write_json
from models.codec import AcousticEncoder, CodecConfig, Decoder, SemanticEncoder
from models.errors import ArtefactError
from models.features import FRAME_SIZE, HOPS_PER_FRAME, analyse, new_history
from models.graph import GraphStream
from models.runtime import CODEC_FORMAT, S2S_FORMAT
from models.runtime_state import BLOCKED, PAUSE_STEPS
from models.s2s import N_RECENT, S2S, FrameInput, S2SConfig
from models.score import N_ACTING, SHOWN, SLOTS, Score
from models.source_filter import synthesise
from models.talker import Talker
from models.tokenizer import Tokenizer
from training.encoders import WARM_FRAMES, load_codec_config
from training.train_s2s import load_s2s

PARITY = 2e-3
AUDIO_PARITY = 0.02
CHECK_FRAMES = 40


def portable(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance without this machine's folders: an absolute path keeps its last two parts."""
    return {
        key: re.sub(r"(?<![\w.*])/[^\s:=,'\[\]]+", lambda match: "/".join(Path(match.group()).parts[-2:]), value)
        if isinstance(value, str)
        else portable(value)
        if isinstance(value, dict)
        else value
        for key, value in provenance.items()
    }


class ParityError(RuntimeError):
    """An exported graph does not compute what the torch model does."""


def round_to_half(net: nn.Module) -> nn.Module:
    """Round all weights to half precision in place: what ships is exactly what is checked."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    return net.eval()


def check(name: str, torch_values: np.ndarray, graph_values: np.ndarray, tolerance: float = PARITY) -> float:
    """Largest difference.

    Raises:
        ParityError: it is above ``tolerance``.
    """
    worst = float(np.abs(torch_values.astype(np.float64) - graph_values).max())
    if not worst <= tolerance:
        raise ParityError(f"{name}: torch and ONNX differ by {worst:.4g}, allowed {tolerance:g}")
    return worst


def check_audio(torch_audio: np.ndarray, graph_audio: np.ndarray) -> float:
    """Root mean square of the difference as a share of the audio's; it grows with time, as phase sums up differences.

    Raises:
        ParityError: it is above AUDIO_PARITY.
    """
    difference = torch_audio.astype(np.float64) - graph_audio
    share = float(np.sqrt(np.mean(difference**2) / max(np.mean(torch_audio.astype(np.float64) ** 2), 1e-12)))
    if not share <= AUDIO_PARITY:
        raise ParityError(f"decoded audio: torch and ONNX differ by {share:.4g} of its level, allowed {AUDIO_PARITY:g}")
    return share


def test_audio() -> np.ndarray:
    """A few seconds of sound with silence, tones and noise, float32."""
    rng = np.random.default_rng(7)
    time = np.arange(CHECK_FRAMES * FRAME_SIZE) / 24_000
    tone = np.sin(2 * np.pi * np.cumsum(140 + 60 * np.sin(2 * np.pi * 0.9 * time)) / 24_000)
    loud = np.clip(np.sin(2 * np.pi * 0.4 * time), 0, 1)
    return ((0.3 * tone**3 + 0.05 * rng.standard_normal(len(time))) * loud).astype(np.float32)


def check_codec(
    semantic: SemanticEncoder, acoustic: AcousticEncoder, decoder: Decoder, folder: Path
) -> dict[str, float]:
    """Stream test audio frame by frame through the graphs and compare with torch over the whole of it."""
    features = analyse(test_audio(), new_history())
    streams = {
        name: GraphStream(open_graph(folder / f"{name}.onnx"))
        for name in ("semantic_encoder", "acoustic_encoder", "decoder")
    }
    with torch.no_grad():
        mel32, mel64, pitch = (
            torch.from_numpy(part)[None] for part in (features.mel32, features.mel64, features.pitch)
        )
        heard, _ = semantic(mel32, semantic.init_state(1))
        spoken, _ = acoustic(mel64, pitch, acoustic.init_state(1))
        out, _ = decoder(spoken, decoder.init_state(1))
        harmonic, noise = out.responses()
        audio = synthesise(out.octave, out.voicing, harmonic, noise)[0].numpy()
    made: dict[str, list[np.ndarray]] = {"semantic": [], "acoustic": [], "audio": []}
    sound = synthesis.new_synthesis_state()
    for frame in range(CHECK_FRAMES):
        hops = slice(frame * HOPS_PER_FRAME, (frame + 1) * HOPS_PER_FRAME)
        streams["semantic_encoder"].inputs["mel32"][0] = features.mel32[hops]
        streams["acoustic_encoder"].inputs["mel64"][0] = features.mel64[hops]
        streams["acoustic_encoder"].inputs["pitch"][0] = features.pitch[hops]
        streams["decoder"].inputs["codes"][0, 0] = spoken[0, frame].numpy()
        for stream in streams.values():
            stream.run()
        made["semantic"].append(streams["semantic_encoder"].outputs["codes"][0].copy())
        made["acoustic"].append(streams["acoustic_encoder"].outputs["codes"][0].copy())
        o = streams["decoder"].outputs
        response = o["harmonic_real"][0] + 1j * o["harmonic_imaginary"][0]
        made["audio"].append(synthesis.synthesise(o["octave"][0], o["voicing"][0], response, o["noise"][0], sound))
    agreement = {
        name: float(np.mean(np.concatenate(made[name]) == codes[0].numpy()))
        for name, codes in (("semantic", heard), ("acoustic", spoken))
    }
    for name, share in agreement.items():
        if share < 0.97:
            raise ParityError(f"{name} codes agree in {share:.3f} of cases only")
    return agreement | {"audio": check_audio(audio, np.concatenate(made["audio"]))}


def check_step(model: S2S, path: Path) -> float:
    """Feed random inputs step by step, past the window, and compare with torch on the same ring."""
    config = model.config
    stream = GraphStream(open_graph(path))
    layers, heads, size = model.cache_shape
    window = config.window
    generator = torch.Generator().manual_seed(3)
    keys, values = torch.zeros(layers, 1, heads, window, size), torch.zeros(layers, 1, heads, window, size)
    mask = torch.full((1, 1, 1, window + 1), BLOCKED)
    mask[..., -1] = 0
    worst = 0.0
    for position in [*range(CHECK_FRAMES), *range(window - 4, window + 4)]:

        def draw(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(0, high, (1, 1, *shape), generator=generator)

        frame = FrameInput(
            draw(model.mode_embed.num_embeddings), draw(200, len(config.user_levels)),
            draw(config.vocabulary), draw(config.vocabulary),
            draw(200, len(config.agent_levels)),
            draw(config.vocabulary, N_RECENT) if config.recent_dim else None,
        )  # fmt: skip
        for name, given in vars(frame).items():
            if given is not None:
                stream.inputs[name][:] = given.numpy()
        stream.inputs["position"][:] = position
        stream.inputs["mask"][:] = mask.numpy()
        for layer in range(layers):
            stream.inputs[f"keys_{layer}"][:], stream.inputs[f"values_{layer}"][:] = keys[layer], values[layer]
        with torch.no_grad():
            out, new_keys, new_values = model.step(frame, list(keys), list(values), mask, torch.full((1, 1), position))
        stream.run()
        for name, logits in (
            ("text", out.text),
            ("transcript", out.transcript),
            ("turn", out.turn),
        ):
            worst = max(worst, check(f"{name} logits", logits.numpy(), stream.outputs[f"{name}_logits"]))
        slot = position % window
        keys[:, :, :, slot], values[:, :, :, slot], mask[..., slot] = new_keys[:, :, :, 0], new_values[:, :, :, 0], 0.0
    return worst


def check_talker(talker: Talker, path: Path) -> float:
    """Feed random inputs frame by frame and compare with torch; returns the largest logit difference."""
    stream, state = GraphStream(open_graph(path)), talker.init_state(1)
    generator = torch.Generator().manual_seed(5)
    worst = 0.0
    for _ in range(CHECK_FRAMES):
        symbols = torch.randint(0, talker.symbols.num_embeddings, (1, 1, SHOWN * SLOTS), generator=generator)
        acting = torch.randint(0, 2, (1, 1, N_ACTING), generator=generator).float()
        before = torch.randint(-1, min(talker.fsq.sizes), (1, 1, len(talker.fsq.sizes)), generator=generator)
        with torch.no_grad():
            hidden, state = talker(symbols, acting, before, state)
        for name, given in (("symbols", symbols), ("acting", acting), ("before", before)):
            stream.inputs[name][:] = given.numpy()
        stream.run()
        for name, value in (("agent_logits", talker.codes(hidden)), ("chain", talker.chain.enter(hidden))):
            worst = max(worst, check(f"talker {name}", value.detach().numpy(), stream.outputs[name]))
    return worst


def silence_codes(acoustic: AcousticEncoder) -> list[int]:
    """Agent codes of digital silence."""
    features = analyse(np.zeros((WARM_FRAMES + 4) * FRAME_SIZE, np.float32), new_history())
    with torch.no_grad():
        codes, _ = acoustic(
            torch.from_numpy(features.mel64)[None], torch.from_numpy(features.pitch)[None], acoustic.init_state(1)
        )
    return [int(code) for code in codes[0, -1]]


def check_alphabet(codec: Path, s2s: Path, config: S2SConfig) -> None:
    """Whether both checkpoints speak of the same codes and text pieces.

    Raises:
        ArtefactError: they were not trained for each other.
    """
    made = load_codec_config(codec)
    vocabulary = len(Tokenizer.load(codec / "tokenizer.json"))
    if (made.semantic_levels, made.agent_levels, vocabulary) != (
        config.user_levels,
        config.agent_levels,
        config.vocabulary,
    ):
        raise ArtefactError(f"{s2s}: trained for another codec than {codec} (codes or text pieces differ)")


def export_codec(codec: Path, output: Path, alphabet: dict[str, Any]) -> tuple[dict[str, Any], AcousticEncoder]:
    """Write the codec directory; returns its parity figures and the acoustic encoder."""
    config: CodecConfig = load_codec_config(codec)
    parts = {"semantic": SemanticEncoder(config), "acoustic": AcousticEncoder(config), "decoder": Decoder(config)}
    output.mkdir(parents=True)
    for name, net in parts.items():
        load_weights(net, codec, name)
        round_to_half(net)
        provenance = portable(read_header(codec, "repartee-codec", name)["provenance"])
        save_model(output, "repartee-codec", copy.deepcopy(net).half(), config, provenance, name)
    export.export_semantic(parts["semantic"], output / "semantic_encoder.onnx")  # type: ignore[arg-type]
    export.export_acoustic(parts["acoustic"], output / "acoustic_encoder.onnx")  # type: ignore[arg-type]
    export.export_decoder(parts["decoder"], output / "decoder.onnx")  # type: ignore[arg-type]
    parity = check_codec(parts["semantic"], parts["acoustic"], parts["decoder"], output)  # type: ignore[arg-type]
    Tokenizer.load(codec / "tokenizer.json").save(output / "tokenizer.json")
    header = {"format": CODEC_FORMAT, "version": VERSION, "alphabet": alphabet, "parity": parity}
    write_json(output / "config.json", header | {"config": dataclasses.asdict(config)})
    return parity, parts["acoustic"]  # type: ignore[return-value]


def export_s2s(model: S2S, provenance: dict[str, Any], codec: Path, output: Path, alphabet: dict[str, Any],
               silence: list[int], pauses: Mapping[str, int] = PAUSE_STEPS) -> float:  # fmt: skip
    """Write the S2S directory; returns the largest logit difference."""
    output.mkdir(parents=True)
    round_to_half(model)
    # a copy: half() would round the rotary frequencies of the model itself, which float() cannot bring back
    save_model(output, "repartee-s2s", copy.deepcopy(model).half(), model.config, provenance)
    export.export_step(model, output / "step.onnx")
    worst = check_step(model, output / "step.onnx")
    export.export_talker(model.talker, output / "talker.onnx")
    worst = max(worst, check_talker(model.talker, output / "talker.onnx"))
    chain = model.talker.chain
    told, leave = (chain.told * chain.before).detach(), chain.leave.detach()
    np.savez(output / "chain.npz", told=told.half().numpy(), leave=leave.half().numpy())
    tokenizer = Tokenizer.load(codec / "tokenizer.json")
    tokenizer.save(output / "tokenizer.json")
    Score.of(tokenizer).save(output / "score.json")
    config = model.config
    header = {
        "format": S2S_FORMAT, "version": VERSION, "alphabet": alphabet, "parity": worst,
        "lead_frames": config.lead_frames, "transcript_delay_frames": config.transcript_delay_frames,
        "window": config.window, "agent_levels": config.agent_levels, "user_levels": config.user_levels,
        "silence_codes": silence, "vocabulary": config.vocabulary, "writes_notes": config.notes,
        "pause_steps": dict(pauses), "rotary": model.rotary,
    }  # fmt: skip
    write_json(output / "config.json", header)
    return worst


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--s2s", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--domain", type=Path, help="domain file the S2S model was trained for; default: no actions")
    parser.add_argument("--window", type=int, help="frames of context at run time; default: the trained one")
    args = parser.parse_args()
    if args.domain:
        read_domain_file(args.domain)  # a mistake in it is told before the work begins
    model = load_s2s(args.s2s)
    if args.window:
        model.config = dataclasses.replace(model.config, window=args.window)
    config = model.config
    alphabet = {"user_levels": config.user_levels, "agent_levels": config.agent_levels}
    check_alphabet(args.codec, args.s2s, config)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output) as temporary:
        made = Path(temporary)
        parity, acoustic = export_codec(args.codec, made / "codec", alphabet)
        provenance = portable(read_header(args.s2s, "repartee-s2s")["provenance"])
        worst = export_s2s(model, provenance, args.codec, made / "s2s", alphabet, silence_codes(acoustic))
        if args.domain:
            shutil.copy(args.domain, made / "s2s" / DOMAIN_FILE)
        for name in ("codec", "s2s"):
            shutil.rmtree(args.output / name, ignore_errors=True)
            (made / name).rename(args.output / name)
    print(f"codec parity {parity}, s2s logits within {worst:.2g} -> {args.output}")


if __name__ == "__main__":
    main()
