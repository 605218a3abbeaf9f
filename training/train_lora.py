"""Fine-tune the agent to a voice: a LoRA adapter on the S2S model, whose own weights stay as they are.

``python -m training.train_lora --epochs 3 --batch-size 4``

- Trained on ``prosody_dataset.json`` of :mod:`training.prepare_prosody`: each segment is a text to be said, with its
  prosody tokens, and the codec's codes of how it was said. Words begin where they were aligned: timing is learnt,
  and pauses are as long as there.
- Besides, written dialogues of the base's domain keep it able to converse (``--keep_share``); with ``--replay``, spoken
  ones from :mod:`training.encode_dataset` too.
- ``--decoder_minutes`` fits the codec's decoder to the voice, too: the shipped one was fitted to another.
- OUTPUT holds the adapter in peft's format, ``tokenizer.json``, ``prosody_tokens.json``, the run (``run/tensorboard``;
  stopped, it goes on where it was) and the merged models as ONNX graphs: ``run_agent.py --lora OUTPUT`` speaks with it.
- ``--merge ADAPTER`` only makes those graphs from an adapter's files and its base.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from agent.domain.domain_file import DOMAIN_FILE
from models.artefacts import SHIPPED
from models.checkpoint import load_weights, read_header, write_json
from models.codec import AcousticEncoder
from models.errors import ModelError
from models.prosody import canonical, strip_marks
from models.runtime_lora import ADAPTER_FILE, read_adapter
from models.runtime_state import pause_steps
from models.s2s import S2S
from models.score import Score
from models.tokenizer import Tokenizer
from training.audio_data import load_clips, read_audio
from training.conversation import AssistantTurn, Span
from training.encode_dataset import EncodedTurn
from training.encoders import CodecEncoders, load_codec_config
from training.export import check_alphabet, export_codec, export_s2s, portable, silence_codes
from training.lora import LoraError, LoraSettings, adapt, count, merge, merged, model_fingerprint, save_adapter
from training.prepare_prosody import DatasetError, read_dataset
from training.replies import FRAME_S, reply_audio, spread_words
from training.run import Budget, Run, cosine, seed_everything
from training.s2s_batches import Batch, Batcher, collate
from training.s2s_data import build_sequence
from training.train_acoustic import Source
from training.train_acoustic import train as train_acoustic
from training.train_s2s import load_s2s, objectives, read_dialogues, validate, weighted_sum
from training.train_talker import Reply, ReplyBatch, code_loss, prepare
from training.train_talker import collate as collate_replies
from training.train_talker import validate as validate_talker
from training.written import has_marks, written_dialogues

KEEP_FRAMES = 400  # of a batch of dialogues
CODES_WEIGHT = 2.0  # of the talker's loss, beside WEIGHTS of the backbone's
DECODER_LR = 3e-4


def encode_item(item: dict[str, Any], encoders: CodecEncoders) -> EncodedTurn:
    """A segment as a turn in which the user says nothing: words and tokens, and codes of how they were said.

    Raises:
        DatasetError: its text does not have its words.
    """
    text = canonical(item["text"])
    times = tuple(Span(word["word"], word["start_s"], word["end_s"]) for word in item["words"])
    turn = AssistantTurn(strip_marks(text), text, times[0].start_s, times[-1].end_s, times, ())
    pcm, start_s = reply_audio(read_audio(item["audio_file"]), turn)
    try:
        words = spread_words(turn, encoders.tokenizer, start_s, text)
    except ValueError as exc:
        raise DatasetError(f"{item['id']}: {exc}") from exc
    silent = np.zeros((0, len(encoders.config.semantic_levels)), np.uint16)
    return EncodedTurn(silent, (0.0, 0.0), [], encoders.acoustic(pcm), words, turn.text)


class VoiceBatches:
    """Batches of segments; the same for a step whether a run was stopped before it or not."""

    def __init__(self, model: S2S, turns: Sequence[EncodedTurn], score: Score, args: argparse.Namespace) -> None:
        self._config, self._turns, self._size = model.config, turns, args.batch_size
        self._corrupt, self._seed = args.corrupt, args.seed
        self._replies = [prepare([turn], score, model.config.lead_frames)[0] for turn in turns]
        self.an_epoch = -(-len(turns) // self._size)

    def at(self, step: int) -> tuple[Batch, ReplyBatch]:
        """The batch of a step, for the backbone and for the talker; epochs are in different orders."""
        epoch, index = divmod(step, self.an_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._turns))
        rng = np.random.default_rng([self._seed, step, 1])
        picked = order[index * self._size : (index + 1) * self._size]
        said = collate([build_sequence([self._turns[i]], self._config, rng, self._corrupt) for i in picked])
        return said, collate_replies([self._replies[i] for i in picked], self._corrupt, rng)


def dialogue_batches(args: argparse.Namespace, model: S2S, tokenizer: Tokenizer) -> Batcher | None:
    """Dialogues that keep the model able to converse; None without a domain and without ``--replay``."""
    if not args.keep_share:
        return None
    domain = args.domain or args.s2s / DOMAIN_FILE
    spoken = read_dialogues(args.replay)["train"] if args.replay else []
    known = domain.is_file() and model.config.notes
    written = written_dialogues(domain, tokenizer, has_marks(spoken)) if known else None
    if not spoken and written is None:
        return None
    share = 0.0 if written is None else 0.5 if spoken else 1.0
    unknown = tokenizer.unknown_word if spoken else None
    return Batcher(spoken, model.config, KEEP_FRAMES, args.corrupt, args.seed, written, share, unknown)


def backbone_loss(model: S2S, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted sum of the backbone's losses, and its parts that say something about a batch."""
    losses, scores = objectives(model, batch)
    shown = {"text": losses["text"].item(), "text_acc": scores["text_acc"]}
    return weighted_sum(losses), shown


def fit(
    model: S2S, batches: VoiceBatches, keep: Batcher | None, check: Callable[[], dict[str, float]],
    args: argparse.Namespace,
) -> tuple[Run, dict[str, float]]:  # fmt: skip
    """Train the adapters of ``model``; returns the run and what ``check`` finds at its end.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    trained = torch.nn.ParameterList([part for part in model.parameters() if part.requires_grad])
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    settings = {key: str(value) for key, value in vars(args).items()}
    steps = batches.an_epoch * args.epochs
    run = Run(args.output / "run", settings, Budget(steps, 0.0))
    first = run.resume(trained, optimizer)
    if keep is not None:
        keep.restart(first)
    checked = check()
    run.log(first, checked)
    for step in run.steps(first):
        for group in optimizer.param_groups:
            group["lr"] = cosine(run.budget.progress(step), args.lr, warm_up=0.05)
        model.train()
        optimizer.zero_grad(set_to_none=True)
        said, replies = batches.at(step)
        loss, shown = backbone_loss(model, said)
        codes = code_loss(model.talker, replies)
        (loss + CODES_WEIGHT * codes).backward()
        if keep is not None and int((step + 1) * args.keep_share) > int(step * args.keep_share):
            backbone_loss(model, keep.next())[0].backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient is not finite at step {step}; try a smaller --lr")
        optimizer.step()
        if step % args.log_every == 0:
            run.log(step, {"loss": loss.item(), **shown, "codes": codes.item(), "lr": optimizer.param_groups[0]["lr"]})
        if (step + 1) % batches.an_epoch == 0:
            run.save(trained, optimizer, step + 1)
            checked = check()
            run.log(step + 1, {"epoch": (step + 1) // batches.an_epoch, **checked})
        elif run.due:
            run.save(trained, optimizer, step + 1)
    run.close()
    return run, checked


def check_voice(model: S2S, turns: Sequence[EncodedTurn], replies: Sequence[Reply]) -> dict[str, float]:
    """Losses on held-out segments: of what is said when, and of the codes."""
    found = validate(model, [[turn] for turn in turns], model.config, KEEP_FRAMES * 2)
    found |= validate_talker(model.talker, replies, KEEP_FRAMES * 2)
    return {name: value for name, value in found.items() if name.split("_")[1] in ("text", "codes")}  # nobody is heard


def fit_decoder(args: argparse.Namespace, items: Sequence[dict[str, Any]]) -> Path:
    """Fit the codec's decoder to the recordings; returns the codec's checkpoint."""
    codec: Path = args.output / "run" / "codec"
    codec.mkdir(parents=True, exist_ok=True)
    for name in ("semantic.safetensors", "semantic.json"):
        shutil.copy(args.codec / name, codec / name)
    Tokenizer.load(args.codec / "tokenizer.json").save(codec / "tokenizer.json")
    sizes = args.output / "run" / "codec.json"
    write_json(sizes, {"codec": asdict(load_codec_config(args.codec))})  # JSON is YAML, too
    clips = load_clips([item["audio_file"] for item in items], 7200.0)
    settings = argparse.Namespace(
        seed=args.seed, threads=1, config=sizes, init=args.codec, decoder_only=True, output=codec, lr=DECODER_LR,
        steps=0, minutes=args.decoder_minutes, batch=6, frames=20, keep="",
    )  # fmt: skip
    train_acoustic(settings, [Source("agent", 1.0, clips)])
    return codec


def export_merged(model: S2S, args: argparse.Namespace, codec: Path, decoder: bool, pauses: dict[str, int]) -> None:
    """Write ``s2s``, and ``codec`` if its decoder was fitted, beside the adapter; each appears whole or not at all."""
    config = model.config
    alphabet = {"user_levels": config.user_levels, "agent_levels": config.agent_levels}
    acoustic = AcousticEncoder(load_codec_config(codec))
    load_weights(acoustic, codec, "acoustic")
    domain = args.domain or args.s2s / DOMAIN_FILE
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output) as temporary:
        made = Path(temporary)
        provenance = portable(read_header(args.s2s, "repartee-s2s")["provenance"])
        worst = export_s2s(model, provenance | {"lora": args.output.name}, codec, made / "s2s", alphabet,
                           silence_codes(acoustic.eval()), pause_steps({"pause_steps": pauses}))  # fmt: skip
        if domain.is_file():
            shutil.copy(domain, made / "s2s" / DOMAIN_FILE)
        if decoder:
            export_codec(codec, made / "codec", alphabet)
        for part in ("s2s", "codec"):
            shutil.rmtree(args.output / part, ignore_errors=True)
            if (made / part).exists():
                (made / part).rename(args.output / part)
    print(f"merged; logits of torch and ONNX within {worst:.2g} -> {args.output}", flush=True)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Make the adapter and the merged models; returns what ``lora.json`` says beside its base.

    Raises:
        DatasetError: the data set cannot be used.
        LoraError: the adapter does not fit the backbone.
        ArtefactError: base or codec cannot be used, or do not belong together.
    """
    started = time.monotonic()
    seed_everything(args.seed)
    torch.set_num_threads(args.threads)
    dataset = read_dataset(args.dataset)
    model = load_s2s(args.s2s)
    check_alphabet(args.codec, args.s2s, model.config)
    model.backbone.config._attn_implementation = "eager"
    base = model_fingerprint(model)
    encoders = CodecEncoders(args.codec)
    turns = {
        split: [encode_item(item, encoders) for item in tqdm(dataset[split], desc=f"encoding {split}", unit="seg")]
        for split in ("train", "validation")
    }
    torch.set_num_threads(args.threads)
    settings = LoraSettings(args.rank, args.alpha, args.dropout, tuple(args.targets or ()), not args.backbone_only)
    backbone = count(model.backbone)[1]
    adapted = adapt(model, settings)
    frozen, trainable = count(adapted)
    print(f"base: {frozen:,} parameters, {backbone:,} of them in the backbone, all frozen; adapter: {trainable:,} "
          f"({trainable / frozen:.2%})", flush=True)  # fmt: skip
    score = Score.of(encoders.tokenizer)
    batches = VoiceBatches(model, turns["train"], score, args)
    keep = dialogue_batches(args, model, encoders.tokenizer)
    held = prepare(turns["validation"], score, model.config.lead_frames)
    run, checked = fit(model, batches, keep, lambda: check_voice(model, turns["validation"], held), args)
    codec = fit_decoder(args, dataset["train"]) if args.decoder_minutes else args.codec
    pauses = {token: max(round(length / FRAME_S), 1) for token, length in dataset["pauses"].items()}
    counts = Counter(mark["token"] for item in dataset["train"] for mark in item["prosody_tokens"])
    more = {
        "decoder": bool(args.decoder_minutes), "settings": asdict(settings), "trainable": trainable,
        "validation": checked, "pause_steps": pauses, "provenance": portable(run.provenance),
    }  # fmt: skip
    save_adapter(adapted, args.output, base, args.codec / "tokenizer.json", more, counts)
    export_merged(merged(adapted), args, codec, bool(args.decoder_minutes), pauses)
    print(
        f"{args.output} after {(time.monotonic() - started) / 60:.1f} min: run_agent.py --lora {args.output}",
        flush=True,
    )
    return more


def merge_only(args: argparse.Namespace) -> None:
    """Make the merged models of an adapter from its files and its base.

    Raises:
        ArtefactError: the adapter is damaged or has another base.
    """
    header = read_adapter(args.merge)
    model = merge(load_s2s(args.s2s), args.merge, header)
    codec = args.merge / "run" / "codec" if header.get("decoder") else args.codec
    if header.get("decoder") and not codec.is_dir():
        codec = args.merge / "codec"
    target = args.output
    if target.resolve() != args.merge.resolve():
        target.mkdir(parents=True, exist_ok=True)
        for name in (ADAPTER_FILE, "adapter_config.json", "adapter_model.safetensors", "prosody_tokens.json"):
            shutil.copy(args.merge / name, target / name)
        Tokenizer.load(args.merge / "tokenizer.json").save(target / "tokenizer.json")
    export_merged(model, args, codec, bool(header.get("decoder")), header.get("pause_steps", {}))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    add = parser.add_argument
    add("--dataset", type=Path, default=Path("prosody_dataset.json"), help="of training.prepare_prosody")
    add("--codec", type=Path, default=SHIPPED / "codec", help="the base's codec (default: the shipped one)")
    add("--s2s", type=Path, default=SHIPPED / "s2s", help="base, trained or exported (default: the shipped one)")
    add("--output", type=Path, help="adapter; a run in it is continued (default: runs/lora, or that of --merge)")
    add("--epochs", type=int, default=3, help="times through the segments")
    add("--batch-size", "--batch_size", type=int, default=4, help="segments in a step")
    add("--lr", type=float, default=3e-3, help="highest learning rate")
    add("--rank", type=int, default=8, help="of the adapters")
    add("--alpha", type=float, default=16.0, help="adapters count alpha / rank times")
    add("--dropout", type=float, default=0.0, help="of what goes into adapters")
    add("--targets", nargs="+", help="names of the backbone's layers (default: by its type)")
    add("--backbone_only", action="store_true", help="no adapters on the talker and on what writes text")
    add("--corrupt", type=float, default=0.05, help="share of disturbed fed-back codes")
    add("--keep_share", type=float, default=0.25, help="dialogues a step that keep the model able to converse")
    add("--domain", type=Path, help="domain file of those dialogues (default: the base's)")
    add("--replay", type=Path, help="codes of spoken dialogues, of training.encode_dataset")
    add("--decoder_minutes", type=float, default=0.0, help="time to fit the codec's decoder to the voice; 0: leave it")
    add("--log_every", type=int, default=5, help="steps between two lines")
    add("--threads", type=int, default=1, help="compute threads")
    add("--seed", type=int, default=0)
    add("--merge", type=Path, metavar="ADAPTER", help="make the merged models of an adapter, no training")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 1:
        parser.error("--epochs and --batch-size must be at least 1")
    args.output = args.output or args.merge or Path("runs/lora")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    args = parse_args(argv)
    try:
        merge_only(args) if args.merge else train(args)
    except (DatasetError, LoraError, ModelError, FloatingPointError) as exc:
        sys.exit(f"training.train_lora: {exc}")


if __name__ == "__main__":
    main()
