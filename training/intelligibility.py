"""How well an independent recogniser understands the agent's voice, beside the voice it was taught by.

    python -m training.intelligibility --domain coffee --agent runs/answers --teacher runs/teacher --json runs/wer.json

- A folder holds pairs `NAME.wav` + `NAME.txt`: audio, and the words that were meant.
- PocketSphinx listens, with a grammar of every reply the domain can give. The grammar helps it, so the figure says
  something beside the teacher's only.
- `--voice hibari:heart` speaks the agent's texts into the teacher folder first, where they are not there yet.
- `--say FILE` first lets the model speak the lines of a text file into the agent's folder (text in, speech out). Any
  text has no grammar: `--open` listens with PocketSphinx's own language model of general English.
- `--dnsmos` adds what people would think of the sound, as DNSMOS predicts it (package speechmos).
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pocketsphinx
import soundfile
import soxr

from agent.domain.domain_file import DomainSpec
from agent.errors import InputError
from agent.local import say
from models.artefacts import SHIPPED
from models.errors import ModelError
from models.prosody import strip_marks
from models.runtime import Engine
from training.audio_data import read_audio
from training.codec_metrics import RATE_HZ, opinions
from training.domain import Domain, DomainError, load_domain
from training.scoring import Rate, rate, word_errors
from training.tts import SAMPLE_RATE, TtsError, synthesise

PADDING_S = 0.3
_WORD = re.compile(r"[a-z']+")
_FILL = re.compile(r"\{(\w+)\}")


class IntelligibilityError(ValueError):
    """The folders, the grammar or the dictionary do not fit; the message names the file or the words."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Audio and the words that were meant."""

    name: str
    wav: Path
    text: str


def spoken_words(text: str) -> list[str]:
    """Lower-case words without punctuation and prosody marks; apostrophes stay, as in the dictionary."""
    return _WORD.findall(strip_marks(text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def replies_grammar(spec: DomainSpec) -> str:
    """A JSGF grammar of every reply of a domain, any drink in any place."""
    rules = spec.item
    lines = ["#JSGF V1.0;", "grammar domain;"]
    for name, slot in spec.slots.items():
        amounts = f"[{_one_of(slot.amounts)}] " if slot.amounts else ""
        lines.append(f"<slot_{name}> = {amounts}{_one_of(slot.values)};")
    modifiers = " ".join(f"[<slot_{name}>]" for name in rules.modifiers)
    addition = " | ".join(f"<slot_{name}>" for name in rules.additions)
    back = f" [{rules.with_word} ({addition}) [{rules.joiner} ({addition})]]" if addition else ""
    lines += [
        f"<item> = (a | an) {modifiers} <slot_{rules.head}>{back};",
        f"<items> = <item> ([{rules.joiner}] <item>)*;",
        f"<option> = {' | '.join(f'<slot_{name}>' for name in spec.slots)};",
        f"<number> = {_one_of([*spec.numbers.digits, *spec.numbers.teens, *spec.numbers.tens])}+;",
        f"<price> = {_one_of(spec.prices.values())};",
    ]
    fills = {
        "items": "<items>",
        "order": "<items>",
        "changed": "<item>",
        "target": f"<slot_{rules.head}>",
        "a_drink": f"(a | an) <slot_{rules.head}>",
        "price": "<price>",
        "option": "<option>",
        "number": "<number>",
    }
    replies = [_template(text, fills) for text in spec.replies.values()]
    lines.append("public <reply> = " + " | ".join(f"({reply})" for reply in replies) + ";")
    return "\n".join(lines) + "\n"


def _one_of(texts: Iterable[str]) -> str:
    return "(" + " | ".join(" ".join(spoken_words(text)) for text in texts) + ")"


def _template(text: str, fills: Mapping[str, str]) -> str:
    parts = _FILL.split(strip_marks(text))  # literal, fill, literal, fill, ..., literal
    return " ".join(fills[part] if i % 2 else " ".join(spoken_words(part)) for i, part in enumerate(parts))


def grammar_words(grammar: str) -> list[str]:
    """Every word in the rules of a grammar made here."""
    body = grammar.split("grammar domain;")[1]
    return _WORD.findall(re.sub(r"<\w+>|\bpublic\b", " ", body))


class Recogniser:
    """PocketSphinx with its US English model and one grammar, or with its own language model.

    Args:
        grammar: JSGF text; None for any English text.
        pronunciations: word -> ARPAbet phones, for words that the dictionary lacks.

    Raises:
        IntelligibilityError: Words of the grammar have no pronunciation; the message names them.
    """

    def __init__(self, grammar: str | None, pronunciations: Mapping[str, str] | None = None) -> None:
        if grammar is None:
            self._decoder = pocketsphinx.Decoder(samprate=float(RATE_HZ), loglevel="FATAL")
            return
        self._decoder = pocketsphinx.Decoder(samprate=float(RATE_HZ), lm=None, loglevel="FATAL")
        for word, phones in (pronunciations or {}).items():
            self._decoder.add_word(word, phones, False)
        missing = sorted({word for word in grammar_words(grammar) if self._decoder.lookup_word(word) is None})
        if missing:
            raise IntelligibilityError(
                f"no pronunciation for {', '.join(missing)}; give one with --pronounce WORD=PHONES"
            )
        self._decoder.add_jsgf_string("domain", grammar)
        self._decoder.activate_search("domain")

    def hear(self, pcm: np.ndarray) -> list[str]:
        """The words recognised in float32 [N] at 16 kHz; none when nothing fits."""
        return hear(self._decoder, pcm)


def hear(decoder: pocketsphinx.Decoder, pcm: np.ndarray) -> list[str]:
    """The words a decoder recognises in float32 [N] at 16 kHz; none when nothing fits."""
    silence = np.zeros(round(PADDING_S * RATE_HZ), np.float32)
    padded = np.concatenate([silence, np.clip(pcm, -1.0, 1.0), silence])
    decoder.start_utt()
    decoder.process_raw((padded * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return [] if hypothesis is None else spoken_words(hypothesis.hypstr)


def find_pairs(folder: Path) -> list[Pair]:
    """All `NAME.wav` with their `NAME.txt`, by name.

    Raises:
        IntelligibilityError: There is none, or one has no text.
    """
    pairs = []
    for wav in sorted(folder.glob("*.wav")):
        try:
            pairs.append(Pair(wav.stem, wav, wav.with_suffix(".txt").read_text(encoding="utf-8")))
        except OSError as exc:
            raise IntelligibilityError(f"{wav}: its text cannot be read ({exc})") from exc
    if not pairs:
        raise IntelligibilityError(f"{folder}: no NAME.wav with NAME.txt is there")
    return pairs


def read_wav(path: Path) -> np.ndarray:
    """Mono float32 at 24 kHz.

    Raises:
        IntelligibilityError: It cannot be read.
    """
    try:
        return read_audio(path)
    except ValueError as exc:
        raise IntelligibilityError(str(exc)) from exc


def measure(recogniser: Recogniser, pairs: Sequence[Pair]) -> tuple[Rate, list[dict[str, Any]]]:
    """Word error rate over all pairs, and one row a pair.

    Raises:
        IntelligibilityError: A recording cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        meant = spoken_words(pair.text)
        heard = recogniser.hear(soxr.resample(read_wav(pair.wav), SAMPLE_RATE, RATE_HZ))
        errors = word_errors(meant, heard)
        rows.append({"name": pair.name, "text": " ".join(meant), "heard": " ".join(heard), "errors": errors})
    words = [len(row["text"].split()) for row in rows]
    return rate([row["errors"] for row in rows], words), rows


def mean_opinions(pairs: Sequence[Pair]) -> dict[str, Rate]:
    """Mean of :func:`training.codec_metrics.opinions` over all pairs.

    Raises:
        IntelligibilityError: The package speechmos is missing, or a recording cannot be read.
    """
    scores: dict[str, list[float]] = {}
    for pair in pairs:
        try:
            found = opinions(soxr.resample(read_wav(pair.wav), SAMPLE_RATE, RATE_HZ))
        except ImportError as exc:
            raise IntelligibilityError(f"--dnsmos: pip install '.[measure]' ({exc})") from exc
        for name, value in found.items():
            scores.setdefault(name, []).append(value)
    return {name: rate(values, [1.0] * len(values)) for name, values in scores.items()}


def speak_teacher(pairs: Sequence[Pair], folder: Path, voice: str) -> None:
    """Speaks the texts of `pairs` into `folder`, except those already there.

    Raises:
        TtsError: The voice cannot speak.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        wav = folder / f"{pair.name}.wav"
        text = wav.with_suffix(".txt")
        if not wav.exists() or not text.exists() or text.read_text(encoding="utf-8") != pair.text:
            soundfile.write(wav, synthesise(" ".join(strip_marks(pair.text).split()), voice).pcm, SAMPLE_RATE)
            text.write_text(pair.text, encoding="utf-8")


def speak_agent(path: Path, folder: Path, codec: Path, s2s: Path) -> None:
    """Let a model say every line of a text file into `folder`, as pairs.

    Raises:
        IntelligibilityError: The text file cannot be read, or a line cannot be spoken.
        ArtefactError: A model cannot be loaded.
    """
    try:
        lines = [line for line in path.read_text("utf8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as exc:
        raise IntelligibilityError(f"{path}: {exc}") from exc
    engine = Engine.load(codec, s2s)
    folder.mkdir(parents=True, exist_ok=True)
    for index, line in enumerate(lines):
        try:
            pcm = say(engine, line)
        except InputError as exc:
            raise IntelligibilityError(f"{path}:{index + 1}: {exc}") from exc
        wav = folder / f"line_{index + 1:04d}.wav"
        soundfile.write(wav, pcm, SAMPLE_RATE)
        wav.with_suffix(".txt").write_text(line, encoding="utf-8")


def compare_voices(domain: Domain, args: argparse.Namespace) -> dict[str, Any]:
    """Both voices on the texts that both have.

    Raises:
        IntelligibilityError: See `find_pairs`, `Recogniser` and `measure`.
        TtsError: The teacher's voice cannot speak.
    """
    pronunciations = dict(entry.split("=", 1) for entry in args.pronounce)
    recogniser = Recogniser(None if args.open else replies_grammar(domain.spec), pronunciations)
    if args.say:
        speak_agent(args.say, args.agent, args.codec, args.s2s)
    agent = find_pairs(args.agent)
    if args.voice:
        speak_teacher(agent, args.teacher, args.voice)
    teacher = find_pairs(args.teacher)
    shared = {(pair.name, pair.text) for pair in agent} & {(pair.name, pair.text) for pair in teacher}
    if not shared:
        raise IntelligibilityError(f"{args.agent} and {args.teacher} have no text under the same name in common")
    report: dict[str, Any] = {"texts": len(shared)}
    for voice, pairs in (("agent", agent), ("teacher", teacher)):
        word_error_rate, rows = measure(recogniser, [pair for pair in pairs if (pair.name, pair.text) in shared])
        report[voice] = {"word_error_rate": word_error_rate.to_json(), "clips": rows}
        print(f"{voice:8s} word errors {word_error_rate} words")
        if args.dnsmos:
            thought = mean_opinions([pair for pair in pairs if (pair.name, pair.text) in shared])
            report[voice]["dnsmos"] = {name: figure.to_json() for name, figure in thought.items()}
            print(f"{voice:8s} DNSMOS P.808 {thought['p808']}, overall {thought['overall']} clips")
    return report


def _pronunciation(text: str) -> str:
    if not re.fullmatch(r"[a-z']+=[A-Z ]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected word=PHONES, such as 'latte=L AA T EY'")
    return text


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, required=True, metavar="DIR", help="the agent's audio and texts")
    parser.add_argument("--teacher", type=Path, required=True, metavar="DIR", help="the teacher voice's, same names")
    parser.add_argument("--domain", default="coffee", help="a name in configs/domains, or a path")
    parser.add_argument("--voice", help="speak missing teacher audio with this voice, e.g. hibari:heart")
    parser.add_argument("--say", type=Path, metavar="FILE", help="text file for the model to speak, a line a clip")
    parser.add_argument(
        "--codec", type=Path, default=SHIPPED / "codec", help="model of --say (default: the shipped one)"
    )
    parser.add_argument("--s2s", type=Path, default=SHIPPED / "s2s")
    parser.add_argument("--open", action="store_true", help="any English text instead of the domain's replies")
    parser.add_argument("--dnsmos", action="store_true", help="predicted opinions too")
    parser.add_argument("--pronounce", type=_pronunciation, action="append", default=[], metavar="WORD=PHONES")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and every clip here")
    return parser.parse_args(argv)


def domain_path(name: str) -> Path:
    """The file of a domain given by name or by path."""
    return Path(name) if name.endswith((".yaml", ".yml")) else Path("configs/domains") / f"{name}.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        report = compare_voices(load_domain(domain_path(args.domain)), args)
    except (IntelligibilityError, DomainError, TtsError, ModelError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
