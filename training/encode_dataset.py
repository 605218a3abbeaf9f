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
from tqdm import tqdm

from models.features import FRAME_SIZE
from models.prosody import canonical, strip_marks
from training.audio_data import read_audio
from training.conversation import AssistantTurn, Span, read_conversation
from training.domain import Domain, OrderState, load_domain
from training.encoders import CodecEncoders
from training.mishearing import loose_opening
from training.replies import PlacedWord, reply_audio, spread_words
from training.tts import spoken_lines, synthesise
from training.user_features import FrontEnd, UserFeatures, load_features

VALID_EVERY = 20


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """One exchange in frames. user uint16 [T, n]; agent uint16 [N, m]; words are (token ids, frame)."""

    user: np.ndarray
    speech: tuple[float, float]
    user_words: list[tuple[list[int], float]]  # frame at which the word ends
    agent: np.ndarray
    agent_words: list[tuple[list[int], float]]  # frame at which the word starts
    agent_text: str
    note: list[int] | None = None  # what is remembered after the reply; None: nothing is noted
    loose: int = 0  # so many words at the beginning of the user's turn carry nothing


def encode_turn(
    features: UserFeatures,
    turn: AssistantTurn,
    agent: np.ndarray,
    agent_words: list[PlacedWord],
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
        agent=agent,
        agent_words=agent_words,
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
    speaker: "Speaker | None" = None,
) -> dict[str, Any]:
    """All turns of one folder; ``cache`` keeps reply codes by text, since one voice says a sentence one way.

    With ``domain``, words that it does not know are unknown words, and replies are followed by notes. With
    ``speaker``, replies are spoken anew, as their prosody tokens say; the recording of them is not used.

    Raises:
        TtsError: a reply cannot be spoken.
    """
    known = domain.vocabulary if domain else frozenset()
    conversation = read_conversation(folder)
    features, _ = load_features(features_file)
    track = None if speaker else read_audio(folder / "assistant.wav")
    turns = []
    for user, turn in zip(features, conversation.turns, strict=True):
        if track is None:
            assert speaker is not None
            said = speaker(turn.assistant.marked_text)
            agent, words = said.agent, said.agent_words
        else:
            pcm, start_s = reply_audio(track, turn.assistant)
            key = f"{turn.assistant.text}|{len(pcm)}"
            if key not in cache:
                cache[key] = encoders.acoustic(pcm)
            agent, words = cache[key], spread_words(turn.assistant, encoders.tokenizer, start_s)
        note = domain.note(OrderState.from_json(turn.state)) if domain else None
        loose = loose_opening(domain, user.text) if domain else 0
        turns.append(encode_turn(user, turn.assistant, agent, words, encoders, known, note, loose))
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
                    agent[a : a + n_agent], [tuple(word) for word in turn["agent_words"]],
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


class Speaker:
    """Sentences in the agent's voice, as turns in which the user says nothing; remembers what it said.

    Args:
        voice: voice string of :mod:`training.tts`; it must be able to deliver the tokens of what it is to say.
        cache_dir: where utterances are kept between runs; None: nowhere.
        encoders: of the codec.
    """

    def __init__(self, voice: str, cache_dir: Path | None, encoders: CodecEncoders) -> None:
        self._voice, self._cache_dir, self._encoders = voice, cache_dir, encoders
        self._said: dict[str, EncodedTurn] = {}

    def __call__(self, text: str) -> EncodedTurn:
        """A text, which may hold prosody tokens, spoken and encoded.

        Raises:
            TtsError: it cannot be spoken.
            ProsodyTagError: it holds an unknown tag.
        """
        marked = canonical(text)
        if marked not in self._said:
            self._said[marked], _ = self.aloud(marked)
        return self._said[marked]

    def aloud(self, text: str) -> tuple[EncodedTurn, np.ndarray]:
        """As when called, not remembered; and the sound of its frames, float32 at 24 kHz."""
        marked = canonical(text)
        spoken = synthesise(marked, self._voice, self._cache_dir)
        words = tuple(Span(*word) for word in spoken.words)
        turn = AssistantTurn(strip_marks(marked), marked, *spoken.speech_span, words, ())
        pcm, start_s = reply_audio(spoken.pcm, turn)
        nothing = np.zeros((0, len(self._encoders.config.semantic_levels)), np.uint16)
        placed = spread_words(turn, self._encoders.tokenizer, start_s, marked)
        return EncodedTurn(nothing, (0.0, 0.0), [], self._encoders.acoustic(pcm), placed, turn.text), pcm


def encode_sentences(path: Path, speaker: Speaker) -> list[dict[str, Any]]:
    """Every line of a text file, spoken; every twentieth is validation.

    Raises:
        ValueError: a line cannot be spoken; the message names it.
    """
    conversations: list[dict[str, Any]] = []
    for index, turn in enumerate(tqdm(spoken_lines(path, speaker), unit="line")):
        split = "valid" if index % VALID_EVERY == VALID_EVERY - 1 else "train"
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
    parser.add_argument(
        "--prosody",
        action="store_true",
        help="speak the replies of conversations anew as their prosody tokens say, and put those into the text stream",
    )
    parser.add_argument("--tts", default="hibari:heart", help="voice of --open_text and --prosody")
    parser.add_argument("--cache_dir", type=Path, help="where their utterances are kept between runs")
    parser.add_argument("--name", default="", help="output files are codes_NAME0.npz, codes_NAME1.npz, ...")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if (args.data_dir is None) == (args.open_text is None):
        parser.error("give either --data_dir or --open_text")
    encoders = CodecEncoders(args.codec)
    speaker = Speaker(args.tts, args.cache_dir, encoders)
    if args.open_text:
        save_codes(args.output / f"codes_{args.name}0.npz", encode_sentences(args.open_text, speaker))
        return
    domain = load_domain(args.domain) if args.domain else None
    cache: dict[str, np.ndarray] = {}
    for index, features in enumerate(args.features or [args.codec / "features"]):
        conversations = [
            encode_conversation(folder, file, encoders, cache, domain, speaker if args.prosody else None)
            for folder, file in tqdm(list(paired_folders(args.data_dir, features)), unit="conv")
        ]
        save_codes(args.output / f"codes_{args.name}{index}.npz", conversations)


if __name__ == "__main__":
    main()
