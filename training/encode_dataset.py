"""Turn conversations into the code sequences the S2S model trains on.

``python -m training.encode_dataset --data_dir data/conversations --codec runs/codec --output data/codes``

User turns become semantic codes (from the augmented embeddings of :mod:`training.user_features`); replies become
prosody and acoustic codes, each encoded from silence with its first sample on a frame boundary, so that the same
sentence always has the same codes. One ``codes.npz`` holds everything.
"""

import argparse
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.checkpoint import load_weights, read_dataclass
from models.codec import AcousticEncoder, CodecConfig, SemanticEncoder
from models.features import FRAME_SIZE, SAMPLE_RATE, analyse, new_history
from models.tokenizer import Tokenizer
from training.audio_data import read_audio
from training.conversation import AssistantTurn, Span, read_conversation
from training.domain import Domain, OrderState, load_domain
from training.mishearing import loose_opening
from training.tts import synthesise
from training.user_features import FrontEnd, UserFeatures, load_features

WARM_FRAMES = 4
HEAD_S, TAIL_S = 0.02, 0.1
FRAME_S = FRAME_SIZE / SAMPLE_RATE
VALID_EVERY = 20


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """One exchange in frames. user uint16 [T, n]; agent uint16 [N, m]; words are (token ids, frame)."""

    user: np.ndarray
    speech: tuple[float, float]
    user_words: list[tuple[list[int], float]]  # frame at which the word ends
    user_text: str
    agent: np.ndarray
    agent_words: list[tuple[list[int], float]]  # frame at which the word starts
    agent_text: str
    note: list[int] | None = None  # what is remembered after the reply; None: nothing is noted
    loose: int = 0  # so many words at the beginning of the user's turn carry nothing


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


def reply_audio(track: np.ndarray, turn: AssistantTurn) -> tuple[np.ndarray, float]:
    """The reply cut so that it starts HEAD_S into its first frame; (audio of whole frames, start time on the track)."""
    start_s = (turn.start_s or 0.0) - HEAD_S
    end_s = turn.end_s if turn.end_s is not None else len(track) / SAMPLE_RATE
    begin, end = round(start_s * SAMPLE_RATE), round((end_s + TAIL_S) * SAMPLE_RATE)
    pcm = track[max(begin, 0) : end]
    pcm = np.pad(pcm, (max(-begin, 0), 0))
    return np.pad(pcm, (0, -len(pcm) % FRAME_SIZE)).astype(np.float32), start_s


def spoken_ids(tokenizer: Tokenizer, word: str) -> list[int]:
    """Ids of a word that is spoken."""
    return [piece.token for piece in tokenizer.spoken(word)]


def spread_words(turn: AssistantTurn, tokenizer: Tokenizer, start_s: float) -> list[tuple[list[int], float]]:
    """Reply words as (token ids, start frame); without times they are spread evenly over the reply."""
    words = turn.text.split()
    if turn.words:
        return [(spoken_ids(tokenizer, word.name), (word.start_s - start_s) / FRAME_S) for word in turn.words]
    length = ((turn.end_s or 0.0) - (turn.start_s or 0.0)) / FRAME_S
    return [(spoken_ids(tokenizer, word), index * length / max(len(words), 1)) for index, word in enumerate(words)]


def encode_turn(
    features: UserFeatures,
    turn: AssistantTurn,
    agent: np.ndarray,
    start_s: float,
    encoders: CodecEncoders,
    known: frozenset[str] = frozenset(),
    note: str | None = None,
    loose: int = 0,
) -> EncodedTurn:
    """Put one exchange together; user words without times get an even spread over the turn.

    With ``known`` words given, all others are written as the unknown word; ``note`` is remembered after the reply;
    ``loose`` words at the beginning carry nothing.
    """
    words = features.words
    span = (features.end - features.start) / max(len(words), 1)
    tokenizer = encoders.tokenizer
    user_words = [
        (
            tokenizer.unknown_word if known and text not in known else tokenizer.encode(text),
            end if end is not None else features.start + span * (index + 1),
        )
        for index, (text, _, end) in enumerate(words)
    ]
    return EncodedTurn(
        user=encoders.semantic(features.embedding),
        speech=(features.start, features.end),
        user_words=user_words,
        user_text=features.text,
        agent=agent,
        agent_words=spread_words(turn, encoders.tokenizer, start_s),
        agent_text=turn.text,
        note=None if note is None else tokenizer.encode(note),
        loose=loose,
    )


def encode_conversation(
    folder: Path,
    features_file: Path,
    encoders: CodecEncoders,
    cache: dict[str, np.ndarray],
    domain: Domain | None = None,
) -> dict[str, Any]:
    """All turns of one folder; ``cache`` keeps reply codes by text, since one voice says a sentence one way.

    With ``domain``, words that it does not know are unknown words, and replies are followed by notes.
    """
    known = domain.vocabulary if domain else frozenset()
    conversation = read_conversation(folder)
    features, _ = load_features(features_file)
    track = read_audio(folder / "assistant.wav")
    turns = []
    for user, turn in zip(features, conversation.turns, strict=True):
        pcm, start_s = reply_audio(track, turn.assistant)
        key = f"{turn.assistant.text}|{len(pcm)}"
        if key not in cache:
            cache[key] = encoders.acoustic(pcm)
        note = domain.note(OrderState.from_json(turn.state)) if domain else None
        loose = loose_opening(domain, user.text) if domain else 0
        turns.append(encode_turn(user, turn.assistant, cache[key], start_s, encoders, known, note, loose))
    return {"id": conversation.id, "split": conversation.split, "turns": turns}


def encode_folder(folder: Path, codec: Path) -> Path:
    """Write ``codes.npz`` (user, agent, uint16) beside the recordings of one conversation; returns its path."""
    encoders = CodecEncoders(codec)
    front = FrontEnd()
    arrays: dict[str, np.ndarray] = {}
    for name, encode in (("user", lambda pcm: encoders.semantic(front(pcm))), ("agent", encoders.acoustic)):
        pcm = read_audio(folder / ("user.wav" if name == "user" else "assistant.wav"))
        arrays[name] = encode(np.pad(pcm, (0, -len(pcm) % FRAME_SIZE)))
    path = folder / "codes.npz"
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, user=arrays["user"], agent=arrays["agent"])
    os.replace(path.with_suffix(".part"), path)
    return path


def save_codes(path: Path, conversations: Sequence[dict[str, Any]]) -> None:
    """Write all conversations to one npz, atomically."""
    turns = [turn for conversation in conversations for turn in conversation["turns"]]
    meta = [
        {
            "id": conversation["id"],
            "split": conversation["split"],
            "turns": [
                {
                    "frames": [len(turn.user), len(turn.agent)],
                    "speech": turn.speech,
                    "user_words": turn.user_words,
                    "user_text": turn.user_text,
                    "agent_words": turn.agent_words,
                    "agent_text": turn.agent_text,
                    "note": turn.note,
                    "loose": turn.loose,
                }
                for turn in conversation["turns"]
            ],
        }
        for conversation in conversations
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".part").open("wb") as file:
        np.savez_compressed(
            file,
            user=np.concatenate([turn.user for turn in turns]),
            agent=np.concatenate([turn.agent for turn in turns]),
            meta=np.array(json.dumps(meta)),
        )
    os.replace(path.with_suffix(".part"), path)


def load_codes(path: Path) -> dict[str, list[list[EncodedTurn]]]:
    """Conversations (lists of turns) by split.

    Raises:
        ValueError: not a code file; the message names it.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            user, agent, meta = data["user"], data["agent"], json.loads(str(data["meta"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise ValueError(f"{path}: not a file of training.encode_dataset ({exc})") from exc
    splits: dict[str, list[list[EncodedTurn]]] = {"train": [], "valid": []}
    u = a = 0
    for row in meta:
        turns = []
        for turn in row["turns"]:
            n_user, n_agent = turn["frames"]
            turns.append(
                EncodedTurn(
                    user[u : u + n_user], tuple(turn["speech"]), [tuple(word) for word in turn["user_words"]],
                    turn["user_text"], agent[a : a + n_agent], [tuple(word) for word in turn["agent_words"]],
                    turn["agent_text"], turn.get("note"), turn.get("loose", 0),
                )
            )  # fmt: skip
            u, a = u + n_user, a + n_agent
        splits[row["split"]].append(turns)
    return splits


def paired_folders(data_dir: Path, features: Path) -> Iterable[tuple[Path, Path]]:
    """Conversation folders that have features.

    Raises:
        ValueError: none has.
    """
    pairs = [
        (path.parent, features / f"{path.parent.name}.npz")
        for path in sorted(data_dir.glob("conv_*/meta.json"))
        if (features / f"{path.parent.name}.npz").exists()
    ]
    if not pairs:
        raise ValueError(f"no conversation of {data_dir} has features in {features}: run training.user_features first")
    return pairs


def encode_sentence(text: str, voice: str, cache_dir: Path | None, encoders: CodecEncoders) -> EncodedTurn:
    """A sentence in the agent's voice, as a turn in which the user says nothing.

    Raises:
        TtsError: it cannot be spoken.
    """
    spoken = synthesise(text, voice, cache_dir)
    first, last = spoken.speech_span
    words = tuple(Span(*word) for word in spoken.words)
    turn = AssistantTurn(text, text, first, last, words, ())
    pcm, start_s = reply_audio(spoken.pcm, turn)
    return EncodedTurn(
        user=np.zeros((0, len(encoders.config.semantic_levels)), np.uint16),
        speech=(0.0, 0.0),
        user_words=[],
        user_text="",
        agent=encoders.acoustic(pcm),
        agent_words=spread_words(turn, encoders.tokenizer, start_s),
        agent_text=text,
    )


def encode_sentences(path: Path, args: argparse.Namespace, encoders: CodecEncoders) -> list[dict[str, Any]]:
    """Every line of a text file, spoken; every twentieth is validation."""
    lines = [" ".join(line.split()) for line in path.read_text("utf8").splitlines() if line.strip()]
    conversations = []
    for index, line in enumerate(tqdm(lines, unit="line")):
        split = "valid" if index % VALID_EVERY == VALID_EVERY - 1 else "train"
        turn = encode_sentence(line, args.tts, args.cache_dir, encoders)
        conversations.append({"id": f"{path.stem}_{index:06d}", "split": split, "turns": [turn]})
    return conversations


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="conversation folders")
    parser.add_argument("--features", type=Path, action="append", help="repeatable; default: CODEC/features")
    parser.add_argument("--open_text", type=Path, help="sentences to speak, one a line, instead of conversations")
    parser.add_argument(
        "--domain",
        type=Path,
        help="domain file: other user words are written as unknown words, and the order is noted after replies",
    )
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--tts", default="hibari:heart", help="voice of --open_text")
    parser.add_argument("--cache_dir", type=Path, help="where utterances of --open_text are kept between runs")
    parser.add_argument("--name", default="", help="output files are codes_NAME0.npz, codes_NAME1.npz, ...")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if (args.data_dir is None) == (args.open_text is None):
        parser.error("give either --data_dir or --open_text")
    encoders = CodecEncoders(args.codec)
    if args.open_text:
        save_codes(args.output / f"codes_{args.name}0.npz", encode_sentences(args.open_text, args, encoders))
        return
    domain = load_domain(args.domain) if args.domain else None
    cache: dict[str, np.ndarray] = {}
    for index, features in enumerate(args.features or [args.codec / "features"]):
        conversations = [
            encode_conversation(folder, file, encoders, cache, domain)
            for folder, file in tqdm(list(paired_folders(args.data_dir, features)), unit="conv")
        ]
        save_codes(args.output / f"codes_{args.name}{index}.npz", conversations)


if __name__ == "__main__":
    main()
