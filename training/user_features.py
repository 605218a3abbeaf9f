"""What the semantic encoder and the S2S model learn to understand: user turns as embeddings with exact labels.

``python -m training.user_features --data_dir data/conversations --noise_dir DIR --rooms_dir DIR --output FEATURES``

Every user turn is cut out of its recording with some silence around it, augmented, and passed through the frozen
speech_embedding front end once; what is kept is EMBEDDING_DIM numbers a frame, its words and its phones. Finished
conversations are skipped when the command is run again.
"""

import argparse
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.checkpoint import load_weights
from models.features import FRAME_SIZE, SAMPLE_RATE, analyse_mel32, new_history
from models.speech_embedding import SpeechEmbedding
from training.audio_data import read_audio
from training.augment import AugmentConfig, augment, load_noises, load_rooms
from training.conversation import Conversation, Span, UserTurn, read_conversation
from training.phones import PHONES
from training.run import read_jsonl
from training.tts import Segment, Utterance
from training.vary import speed_and_formant

FRONT_END = Path(__file__).parent.parent / "models" / "pretrained" / "speech_embedding"
FRAME_S = FRAME_SIZE / SAMPLE_RATE
SUB_FRAMES = 4
UNKNOWN_PHONE = 255
LEAD_S, TRAIL_S = (0.4, 0.6, 5.0), 1.0  # silence before speech: least, mean on top of it, most
DITHER = 1e-5


@dataclass(frozen=True, slots=True)
class UserFeatures:
    """One user turn.

    embedding float16 [T, D]; phones uint8 [4 T] (index into PHONES, UNKNOWN_PHONE where not known); speech spans
    frames [start, end) as floats; words are (text, start frame, end frame), times None where only the text is known.
    """

    embedding: np.ndarray
    phones: np.ndarray
    text: str
    start: float
    end: float
    words: list[tuple[str, float | None, float | None]]


class Augmenter:
    """Augmentation with its noise and room recordings loaded; folders that are None leave synthetic ones."""

    def __init__(self, noise_dir: Path | None, rooms_dir: Path | None) -> None:
        self._noises = load_noises(noise_dir) if noise_dir else ()
        self._rooms = load_rooms(rooms_dir) if rooms_dir else ()
        self._config = AugmentConfig()

    def __call__(self, pcm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An augmented copy of the audio."""
        return augment(pcm, rng, self._noises, self._rooms, self._config)


class FrontEnd:
    """The frozen front end: 24 kHz audio -> embeddings [T, D] as a stream that starts in silence."""

    def __init__(self, directory: Path = FRONT_END) -> None:
        torch.set_num_threads(1)
        self._net = SpeechEmbedding().eval()
        load_weights(self._net, directory)

    def __call__(self, pcm: np.ndarray) -> np.ndarray:
        """Audio of whole hops -> embeddings float32 [T, D]."""
        mel = analyse_mel32(pcm, new_history())
        with torch.inference_mode():
            out, _ = self._net(torch.from_numpy(mel)[None], self._net.init_state(1))
        return out[0].numpy()


def turn_features(
    track: np.ndarray, turn: UserTurn, front: FrontEnd, augmenter: Augmenter | None, rng: np.random.Generator
) -> UserFeatures:
    """Cut, augment and embed one user turn of a 24 kHz track; without times the whole track is the turn."""
    start_s = turn.start_s if turn.start_s is not None else 0.0
    end_s = turn.end_s if turn.end_s is not None else len(track) / SAMPLE_RATE
    lead_s = min(LEAD_S[0] + rng.exponential(LEAD_S[1]), LEAD_S[2])
    frames = int(np.ceil((lead_s + end_s - start_s + TRAIL_S) / FRAME_S))
    begin = round((start_s - lead_s) * SAMPLE_RATE)
    quiet = rng.standard_normal(frames * FRAME_SIZE).astype(np.float32) * np.float32(DITHER)
    first, last = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
    # only this turn's own speech: what lies beyond it in the recording belongs to other turns
    low, high = max(first - SAMPLE_RATE // 20, 0), min(last + SAMPLE_RATE // 10, len(track), begin + len(quiet))
    quiet[low - begin : high - begin] += track[low:high]
    pcm = augmenter(quiet, rng) if augmenter else quiet

    def frame(time_s: float) -> float:
        return (time_s * SAMPLE_RATE - begin) / FRAME_SIZE

    phones = np.full(frames * SUB_FRAMES, UNKNOWN_PHONE, np.uint8)
    if turn.phones:
        phones[:] = PHONES.index("SIL")
        for phone in turn.phones:
            sub = slice(round(frame(phone.start_s) * SUB_FRAMES), round(frame(phone.end_s) * SUB_FRAMES))
            phones[sub] = PHONES.index(phone.name)
    words: list[tuple[str, float | None, float | None]]
    if turn.words:
        words = [(word.name, frame(word.start_s), frame(word.end_s)) for word in turn.words]
    else:
        words = [(word, None, None) for word in turn.text.split()]
    embedding = front(pcm).astype(np.float16)
    return UserFeatures(embedding, phones, turn.text, frame(start_s), frame(end_s), words)


def vary_turn(track: np.ndarray, turn: UserTurn, rng: np.random.Generator) -> tuple[np.ndarray, UserTurn]:
    """Another speed, speaker size and rhythm for a turn with exact times: its own track, and the turn on it."""
    if turn.start_s is None or turn.end_s is None or not turn.phones:
        return track, turn
    begin = turn.start_s

    def cut(spans: Sequence[Span]) -> tuple[Segment, ...]:
        return tuple((span.name, span.start_s - begin, span.end_s - begin) for span in spans)

    speech = track[round(begin * SAMPLE_RATE) : round(turn.end_s * SAMPLE_RATE)]
    varied = speed_and_formant(Utterance(speech, cut(turn.words), cut(turn.phones)), rng)
    spans = [tuple(Span(*segment) for segment in segments) for segments in (varied.words, varied.phones)]
    length_s = len(varied.pcm) / SAMPLE_RATE
    return varied.pcm, dataclasses.replace(turn, start_s=0.0, end_s=length_s, words=spans[0], phones=spans[1])


def save_features(path: Path, turns: Sequence[UserFeatures], extra: dict[str, object]) -> None:
    """Write all user turns of a conversation to one npz, atomically; read back with :func:`load_features`."""
    arrays: dict[str, np.ndarray] = {}
    rows = []
    for index, turn in enumerate(turns):
        arrays[f"embedding_{index}"], arrays[f"phones_{index}"] = turn.embedding, turn.phones
        rows.append({"text": turn.text, "start": turn.start, "end": turn.end, "words": turn.words})
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, meta=np.array(json.dumps({**extra, "turns": rows})), **arrays)  # type: ignore[arg-type]
    os.replace(part, path)


def load_features(path: Path) -> tuple[list[UserFeatures], dict[str, object]]:
    """Turns and the extra facts saved with them."""
    with np.load(path, allow_pickle=False) as data:
        meta = json.loads(str(data["meta"]))
        turns = [
            UserFeatures(
                data[f"embedding_{index}"],
                data[f"phones_{index}"],
                row["text"],
                row["start"],
                row["end"],
                [tuple(word) for word in row["words"]],
            )
            for index, row in enumerate(meta["turns"])
        ]
    return turns, meta


_worker: dict[str, object] = {}


def _start_worker(noise_dir: Path | None, rooms_dir: Path | None, share: float, vary: bool) -> None:
    _worker["front"] = FrontEnd()
    _worker["augmenter"] = Augmenter(noise_dir, rooms_dir)
    _worker["share"], _worker["vary"] = share, vary


def _extract(job: tuple[Path | dict[str, str], Path, int]) -> None:
    source, target, seed = job
    rng = np.random.default_rng([seed, int(hashlib.sha1(target.stem.encode()).hexdigest()[:8], 16)])
    front, augmenter, share = _worker["front"], _worker["augmenter"], _worker["share"]
    assert isinstance(front, FrontEnd)
    extra: dict[str, object]
    if isinstance(source, dict):
        track = read_audio(Path(source["audio"]))
        turns, split, extra = [UserTurn(text=source["text"])], source["split"], {"kind": "recording"}
    else:
        conversation: Conversation = read_conversation(source)
        track = read_audio(source / "user.wav")
        turns, split = [turn.user for turn in conversation.turns], conversation.split
        extra = {"kind": "conversation", "intents": [turn.intent for turn in turns]}
    features: list[UserFeatures] = []
    for turn in turns:
        own_track, own_turn = vary_turn(track, turn, rng) if _worker["vary"] else (track, turn)
        chosen = augmenter if rng.random() < share else None  # type: ignore[operator]
        features.append(turn_features(own_track, own_turn, front, chosen, rng))  # type: ignore[arg-type]
    save_features(target, features, {"split": split, **extra})


def spoken_text(text: str) -> str:
    """A transcript as the user stream writes it: lower case, letters and apostrophes only."""
    return " ".join("".join(char if char.isalpha() or char == "'" else " " for char in text.lower()).split())


def recording_jobs(folder: Path, limit: int, seed: int) -> list[dict[str, str]]:
    """Transcribed recordings of people from a ``manifest.jsonl`` folder, some of them validation.

    Of more than ten speakers every tenth is held out, of three to ten the last, otherwise every tenth clip.
    """
    rows = [row for row in read_jsonl(folder / "manifest.jsonl") if row.get("text")]
    speakers = sorted({row.get("speaker", "") for row in rows})
    held = set(speakers[::10]) if len(speakers) > 10 else set(speakers[-1:]) if len(speakers) > 2 else set()
    clips = {row["audio"] for row in rows[::10]} if not held else set()
    np.random.default_rng(seed).shuffle(rows)  # type: ignore[arg-type]
    return [
        {
            "audio": str(folder / row["audio"]),
            "text": spoken_text(row["text"]),
            "split": "valid" if row.get("speaker", "") in held or row["audio"] in clips else "train",
            "speaker": row.get("speaker") or "",
        }
        for row in rows[: limit or None]
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="conversation folders")
    parser.add_argument("--recordings", type=Path, action="append", default=[], help="manifest.jsonl folder of people")
    parser.add_argument("--recordings_limit", type=int, default=0, help="clips per recordings folder; 0 = all")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--noise_dir", type=Path)
    parser.add_argument("--rooms_dir", type=Path)
    parser.add_argument("--augment_share", type=float, default=0.8, help="share of turns that are augmented")
    parser.add_argument("--vary", action="store_true", help="also change speed, speaker size and rhythm")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[Path | dict[str, str], Path, int]] = []
    if args.data_dir:
        folders = sorted(path.parent for path in args.data_dir.glob("conv_*/meta.json"))
        jobs += [(folder, args.output / f"{folder.name}.npz", args.seed) for folder in folders]
    for folder in args.recordings:
        rows = recording_jobs(folder, args.recordings_limit, args.seed)
        names = [f"rec_{folder.name}_{Path(row['audio']).stem}.npz" for row in rows]
        jobs += [(row, args.output / name, args.seed) for row, name in zip(rows, names, strict=True)]
    jobs = [job for job in jobs if not job[1].exists()]
    start = (args.noise_dir, args.rooms_dir, args.augment_share, args.vary)
    with ProcessPoolExecutor(args.workers, get_context("spawn"), _start_worker, start) as pool:
        for _ in tqdm(pool.map(_extract, jobs, chunksize=8), total=len(jobs), unit="file"):
            pass


if __name__ == "__main__":
    main()
