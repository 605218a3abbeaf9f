"""Train the codec's acoustic half: prosody and acoustic codes, and the decoder (metric losses only).

``python -m training.train_acoustic --audio agent=DIR:0.5 --audio human=DIR:0.5 --minutes 30 --output runs/codec``

Each ``--audio NAME=DIR[:WEIGHT]`` is a source; batches draw from the sources by weight. Where DIR is a text file, its
lines are spoken by ``--tts``: a decoder that has heard the replies of one domain only does not know most of English.
``--decoder_only`` freezes the encoder, to fit the decoder to one voice after data sets have been encoded. With
``--keep NAME=CODEC`` the codes of that source stay those of another codec: a talker goes on saying codes that mean what
they meant, while other voices find better ones.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import load_overlap, load_weights, save_model
from models.codec import AcousticEncoder, CodecConfig, Decoder
from models.features import FRAME_SIZE, HOP
from models.prosody import canonical
from models.source_filter import synthesise
from training import tts
from training.audio_data import Clip, crop, lasting, load_clips, make_clip
from training.held_out import training_files
from training.losses import IntelligibilityLoss, SoundLoss, pitch_loss
from training.run import Budget, Run, cosine, read_section, seed_everything

WEIGHTS = {"stft": 1.0, "mel": 2.0, "heard": 1.0, "stoi": 5.0, "f0": 6.0, "voicing": 0.5, "kept": 2.0}
LEAST_FRAMES = 8  # of a crop: intelligibility is of 400 ms at least
EDGE_FRAMES = 2  # the first frames of a crop start from a cold state: heard by the network, not by the loss


@dataclasses.dataclass(frozen=True)
class Source:
    """One named set of clips and its share of every batch."""

    name: str
    weight: float
    clips: list[Clip]


def parse_source(text: str, max_seconds: float, seed: int, voice: str = "") -> Source:
    """``NAME=DIR[:WEIGHT]`` -> loaded source; DIR may end in a glob such as ``conv/*/assistant.wav``.

    Of a folder with a ``manifest.jsonl`` only the training part is taken (:func:`training_files`); the lines of a text
    file (``.txt``) are spoken by ``voice``.
    """
    name, _, rest = text.partition("=")
    folder, _, weight = rest.partition(":")
    if folder.endswith(".txt"):
        clips = spoken_clips(Path(folder), max_seconds, voice)
    else:
        clips = load_clips(training_files(folder, seed), max_seconds)
    if not clips:
        raise ValueError(f"{folder}: no clip is as long as two frames")
    return Source(name, float(weight or 1.0), clips)


def spoken_clips(path: Path, max_seconds: float, voice: str) -> list[Clip]:
    """The lines of a text file, which may hold prosody tokens, spoken until ``max_seconds`` of audio are held.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line cannot be spoken; the message names it.
    """
    lines = tts.spoken_lines(path, lambda line: tts.synthesise(canonical(line), voice).pcm)
    return lasting(map(make_clip, lines), max_seconds, lambda clip: len(clip.pcm))


class AcousticHalf(torch.nn.Module):
    """Encoder, quantiser, decoder and synthesis as one training graph."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.encoder = AcousticEncoder(config)
        self.decoder = Decoder(config)

    def forward(
        self, mel: Tensor, pitch: Tensor, held: Tensor, hard: Tensor | bool, kept: "Kept | None" = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Crops -> waveform [B, N] one hop late, and the losses of codes. The source runs on true F0 and voicing."""
        values = values_of(self.encoder, mel, pitch, hard)
        losses = {}
        if kept is not None and bool(kept.rows.any()):
            before = values_of(kept.encoder, mel[kept.rows], pitch[kept.rows], hard=True)
            losses["kept"] = (values[kept.rows] - before).abs().mean()
            values = values.index_put((kept.rows.nonzero()[:, 0],), before)
        output, _ = self.decoder.from_values(values, self.decoder.init_state(len(values)))
        harmonic, noise = output.responses()
        start = int(torch.randint(0, 1 << 16, (1,)))
        audio = synthesise(held[..., 0], held[..., 1], harmonic, noise, start)
        return audio, losses | pitch_loss(output.octave, output.voicing_logit, held)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Rows of a batch, bool [B], whose codes shall stay those of an encoder that is not trained."""

    encoder: AcousticEncoder
    rows: Tensor


def values_of(encoder: AcousticEncoder, mel: Tensor, pitch: Tensor, hard: Tensor | bool) -> Tensor:
    """Crops from silence -> values of their codes [B, T, dims]."""
    latents, _ = encoder.latents(mel, pitch, encoder.init_state(len(mel)))
    values: Tensor = encoder.fsq(latents, hard)
    return values


def draw_batch(
    sources: list[Source], size: int, frames: int, rng: np.random.Generator
) -> tuple[list[Tensor], list[str]]:
    """``size`` crops from the sources by weight, with a random gain: tensors [B, ...], and the source of each."""
    weights = np.array([source.weight for source in sources])
    picks = rng.choice(len(sources), size=size, p=weights / weights.sum())
    rows = []
    for pick in picks:
        clips = sources[pick].clips
        pcm, mel, pitch, held = crop(clips[rng.integers(len(clips))], frames, rng)
        gain_bels = rng.uniform(-0.5, 0.3) if sources[pick].name != "agent" else 0.0
        mel = np.log10(10.0 ** (mel + 2 * gain_bels) + 1e-7)
        pitch = pitch + np.array([0.0, 0.0, 2 * gain_bels], np.float32)
        rows.append((pcm * np.float32(10.0**gain_bels), mel.astype(np.float32), pitch, held))
    crops = [torch.from_numpy(np.stack(parts)) for parts in zip(*rows, strict=True)]
    return crops, [sources[pick].name for pick in picks]


def in_step(audio: Tensor, pcm: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's sound of crops [B, N], which is one hop late, and the crops: in step, without their edge."""
    edge = EDGE_FRAMES * FRAME_SIZE
    return audio[:, edge + HOP :], pcm[:, edge:-HOP]


def build(args: argparse.Namespace, config: CodecConfig) -> AcousticHalf:
    """Both modules, new or from ``--init``."""
    half = AcousticHalf(config)
    if args.init:
        partial = [
            *load_overlap(half.encoder, args.init, "acoustic"),
            *load_overlap(half.decoder, args.init, "decoder"),
        ]
        print(f"started from {args.init}; not whole: {', '.join(partial) or 'nothing'}", flush=True)
    return half


class Lost:
    """What is lost between crops and what the codec makes of them, by name."""

    def __init__(self) -> None:
        self._sound, self._intelligibility = SoundLoss(), IntelligibilityLoss()

    def __call__(
        self, half: AcousticHalf, crops: Sequence[Tensor], share: float, kept: Kept | None
    ) -> dict[str, Tensor]:
        """Of a batch of :func:`draw_batch`, a ``share`` of it quantised."""
        pcm, mel, pitch, held = crops
        hard: Tensor | bool = True if share >= 1.0 else torch.rand(len(pcm), 1, 1) < share
        audio, losses = half(mel, pitch, held, hard, kept)
        made, true = in_step(audio, pcm)
        return losses | self._sound(made, true) | {"stoi": self._intelligibility(made, true)}


def kept_encoder(keep: str, config: CodecConfig, sources: list[Source]) -> tuple[str, AcousticEncoder | None]:
    """``NAME=CODEC`` -> the source's name and the codec's encoder; nothing for nothing.

    Raises:
        ArtefactError: the codec is missing or of other sizes.
        ValueError: no source has the name.
    """
    name, _, codec = keep.partition("=")
    if not keep:
        return "", None
    if name not in (source.name for source in sources):
        raise ValueError(f"--keep {keep}: no --audio is called {name!r}")
    encoder = AcousticEncoder(config).requires_grad_(False)
    load_weights(encoder, Path(codec), "acoustic")
    return name, encoder


def train(args: argparse.Namespace, sources: list[Source] | None = None) -> None:
    """Train until the budget is used up, then write the codec's acoustic and decoder parts.

    Args:
        args: of the command line.
        sources: what to train on; None reads ``args.audio``.
    """
    seed_everything(args.seed)
    torch.set_num_threads(args.threads)
    config = CodecConfig(
        **read_section(args.config, "codec", [field.name for field in dataclasses.fields(CodecConfig)])
    )
    half = build(args, config)
    trained = half.decoder.parameters() if args.decoder_only else half.parameters()
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.8, 0.99), weight_decay=1e-3)
    settings = {key: str(value) for key, value in vars(args).items()}
    run = Run(args.output / "acoustic_run", settings, Budget(args.steps, args.minutes))
    first = run.resume(half, optimizer)
    sources = sources or [parse_source(text, args.max_seconds, args.seed, args.tts) for text in args.audio]
    name_kept, before = kept_encoder(args.keep, config, sources)
    rng = np.random.default_rng(args.seed + first)
    lost = Lost()
    step = first - 1  # a finished run is continued with no steps
    for step in run.steps(first):
        progress = run.budget.progress(step)
        for group in optimizer.param_groups:
            group["lr"] = cosine(progress, args.lr)
        share = 1.0 if args.init or args.decoder_only else min(1.0, 0.5 + progress)  # share of items that are quantised
        crops, names = draw_batch(sources, args.batch, args.frames, rng)
        kept = Kept(before, torch.tensor([name == name_kept for name in names])) if before else None
        losses = lost(half, crops, share, kept)
        loss = torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(half.parameters(), 10.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient is not finite at step {step}")
        optimizer.step()
        if step % 50 == 0:
            run.log(
                step, {name: value.item() for name, value in losses.items()} | {"lr": optimizer.param_groups[0]["lr"]}
            )
        if run.due:
            run.save(half, optimizer, step + 1)
    run.save(half, optimizer, step + 1)
    run.close()
    save_half(args.output, half, config, run.provenance)


def save_half(directory: Path, half: AcousticHalf, config: CodecConfig, provenance: dict[str, object]) -> None:
    """Write the two modules as the codec's acoustic and decoder parts."""
    save_model(directory, "repartee-codec", half.encoder, config, provenance, "acoustic")
    save_model(directory, "repartee-codec", half.decoder, config, provenance, "decoder")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", action="append", required=True, help="NAME=DIR[:WEIGHT], repeatable")
    parser.add_argument("--tts", default="hibari:heart", help="voice of sources that are text files")
    parser.add_argument("--output", type=Path, required=True, help="codec directory; a run in it is continued")
    parser.add_argument("--init", type=Path, help="codec directory to start from; sizes may differ")
    parser.add_argument("--decoder_only", action="store_true", help="keep encoder and codes as they are")
    parser.add_argument("--keep", default="", metavar="NAME=CODEC", help="source whose codes stay those of this codec")
    parser.add_argument("--max_seconds", type=float, default=3600.0, help="audio held in memory, per source")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--frames", type=int, default=20, help=f"crop length in 80 ms frames, {LEAST_FRAMES} or more")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps; 0 = no limit")
    parser.add_argument("--minutes", type=float, default=30.0, help="wall-clock budget; 0 = no limit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--config", type=Path, help="YAML with a section 'codec'")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.keep and "=" not in args.keep:
        parser.error(f"--keep must be NAME=CODEC, got {args.keep!r}")
    if args.frames < LEAST_FRAMES:
        parser.error(f"--frames must be at least {LEAST_FRAMES}, got {args.frames}")
    train(args)


if __name__ == "__main__":
    main()
