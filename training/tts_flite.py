"""flite through its C library, for the voices slt, rms, awb and kal16."""

from __future__ import annotations

import ctypes
import functools
import tempfile
import threading

import numpy as np

from training.accents import Exchange, exchange_of
from training.phones import LEXICON, SILENCE, radio_to_arpabet
from training.tts import Segment, TtsError, Utterance, VoiceSpec, to_24k

VOICES = ("slt", "rms", "awb", "kal16")
_STRETCH, _F0 = b"duration_stretch", b"int_f0_target_mean"  # flite keeps these pointers: they must stay alive
_TOKEN_OF_SEGMENT = b"R:SylStructure.parent.parent.R:Token.parent"
_WORD_OF_SEGMENT, _STRESS = b"R:SylStructure.parent.parent", b"R:SylStructure.parent.stress"


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


_POINTER, _TEXT, _FLOAT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "flite_synth_text": (_POINTER, [_TEXT, _POINTER]),
    "utt_relation": (_POINTER, [_POINTER, _TEXT]),
    "utt_wave": (ctypes.POINTER(_Wave), [_POINTER]),
    "relation_head": (_POINTER, [_POINTER]),
    "item_next": (_POINTER, [_POINTER]),
    "path_to_item": (_POINTER, [_POINTER, _TEXT]),
    "item_feat_float": (_FLOAT, [_POINTER, _TEXT]),
    "ffeature_string": (_TEXT, [_POINTER, _TEXT]),
    "feat_set_float": (None, [_POINTER, _TEXT, _FLOAT]),
    "flite_get_param_float": (_FLOAT, [_POINTER, _TEXT, _FLOAT]),
    "feat_remove": (ctypes.c_int, [_POINTER, _TEXT]),
    "flite_voice_add_lex_addenda": (ctypes.c_int, [_POINTER, _TEXT]),
    "delete_utterance": (None, [_POINTER]),
}


class _Library:
    """The one flite of this process; a lock serialises its use."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
            for name in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
                ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise TtsError("libflite.so.1 is missing: apt-get install flite") from error
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._lib.flite_init()
        self._voices: dict[str, ctypes._Pointer[_Voice]] = {}
        self._known: dict[str, dict[str, list[str]]] = {}  # by voice: the phones of the words it has said, with stress
        self._texts: dict[str, set[str]] = {}  # tokens whose words are known
        self._lexicons: dict[str, object] = {}  # what the voice says in another way than by itself
        self._lock = threading.Lock()

    def _voice(self, name: str) -> ctypes._Pointer[_Voice]:
        if name not in self._voices:
            if name not in VOICES:
                raise TtsError(f"flite has no voice {name!r}: known are {', '.join(VOICES)}")
            register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = ctypes.POINTER(_Voice), [_TEXT]
            self._voices[name] = register(None)
            self._known[name], self._texts[name] = {}, set()
        return self._voices[name]

    def _pronounce(self, name: str, accent: Exchange) -> None:
        """The voice's own words are LEXICON's, and in an accent, all it is known to have said."""
        known = self._known[name]
        state = (dict(accent), len(known) if accent else 0)
        if self._lexicons.get(name) == state:
            return
        lines = {word: _accented(phones, accent) for word, phones in known.items()} if accent else {}
        lines = {word: " ".join(syllables) for word, syllables in LEXICON.items()} | lines
        with tempfile.NamedTemporaryFile("w", suffix=".lex") as addenda:  # it replaces the one before
            addenda.writelines(f"{word} : {phones}\n" for word, phones in lines.items())
            addenda.flush()
            self._lib.flite_voice_add_lex_addenda(ctypes.cast(self._voices[name], _POINTER), addenda.name.encode())
        self._lexicons[name] = state

    def _learn(self, name: str, text: str) -> None:
        """Know how a voice without accent says the words of a text."""
        tokens = set(text.lower().split())
        if tokens <= self._texts[name]:
            return
        self._pronounce(name, {})
        utterance = self._synth(name, text)
        words: dict[str, list[str]] = {}
        before = None
        for item in self._items(utterance, b"Segment"):
            word = self._lib.path_to_item(item, _WORD_OF_SEGMENT)
            if word:
                phones = words.setdefault(self._feature(word, b"name"), [])
                if word != before:
                    phones.clear()  # said twice: once is enough
                stress = self._feature(item, _STRESS) if self._feature(item, b"ph_vc") == "+" else ""
                phones.append(self._feature(item, b"name") + stress)
            before = word
        self._lib.delete_utterance(utterance)
        self._known[name].update(words)
        self._texts[name] |= tokens

    def _feature(self, item: int, name: bytes) -> str:
        return (self._lib.ffeature_string(item, name) or b"").decode()

    def _synth(self, name: str, text: str) -> int:
        voice = ctypes.cast(self._voices[name], _POINTER)
        utterance: int | None = self._lib.flite_synth_text(text.encode("ascii", "replace"), voice)
        if not utterance:
            raise TtsError(f"flite voice {name!r} failed on {text!r}")
        return utterance

    def speak(self, text: str, name: str, features: dict[bytes, float], accent: Exchange) -> Utterance:
        with self._lock:
            settings = self._voice(name).contents.features
            if accent:
                self._learn(name, text)
            self._pronounce(name, accent)
            before = {key: self._lib.flite_get_param_float(settings, key, -1.0) for key in features}
            for key, value in features.items():
                self._lib.feat_set_float(settings, key, value)
            try:
                utterance = self._synth(name, text)
            finally:
                for key, value in before.items():
                    if value < 0:  # the voice has none of its own
                        self._lib.feat_remove(settings, key)
                    else:
                        self._lib.feat_set_float(settings, key, value)
            try:
                return self._read(utterance, text)
            finally:
                self._lib.delete_utterance(utterance)

    def _items(self, utterance: int, relation: bytes) -> list[int]:
        items, item = [], self._lib.relation_head(self._lib.utt_relation(utterance, relation))
        while item:
            items.append(item)
            item = self._lib.item_next(item)
        return items

    def _read(self, utterance: int, text: str) -> Utterance:
        lib, tokens = self._lib, text.split()
        wave = lib.utt_wave(utterance).contents
        pcm = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 32768
        index_of: dict[int, int] = {}
        current = -1
        for item in self._items(utterance, b"Token"):
            current += 1 if current < 0 or self._feature(item, b"whitespace") else 0
            index_of[item] = min(current, len(tokens) - 1)
        phones: list[Segment] = []
        spans: dict[int, tuple[float, float]] = {}
        now = 0.0
        for item in self._items(utterance, b"Segment"):
            phone = radio_to_arpabet(self._feature(item, b"name"))
            end = float(lib.item_feat_float(item, b"end"))
            owner = index_of.get(lib.path_to_item(item, _TOKEN_OF_SEGMENT) or 0) if phone != SILENCE else None
            if owner is not None:
                spans[owner] = (spans.get(owner, (now, end))[0], end)
            phones.append((phone, now, end))
            now = end
        words: list[Segment] = []
        last = 0.0
        for index, token in enumerate(tokens):
            start, end = spans.get(index, (last, last))
            words.append((token, start, end))
            last = end
        return Utterance(to_24k(pcm, wave.sample_rate), tuple(words), tuple(phones))


def _accented(phones: list[str], accent: Exchange) -> str:
    """What an accent makes of the phones of a word; the first vowel in the place of one has its stress."""
    said = []
    for phone in phones:
        name = phone.rstrip("01")
        stress = phone[len(name) :]
        for other in accent.get(name.upper(), (name,)):
            vowel = other[0] in "AEIOUaeiou"
            said.append(other.lower() + (stress or "0" if vowel else ""))
            stress = "0" if vowel else stress
    return " ".join(said)


@functools.lru_cache(maxsize=1)
def _library() -> _Library:
    return _Library()


def synthesise_raw(text: str, spec: VoiceSpec) -> Utterance:
    """Speaks with ``flite:VOICE?stretch=1.0&f0=170`` (duration factor; mean pitch in Hz).

    All have ``accent``, see :mod:`training.accents`.

    Raises:
        TtsError: unknown voice, option or accent, or flite is missing.
    """
    spec.only("stretch", "f0", "accent")
    features: dict[bytes, float] = {}
    if "stretch" in spec.options:
        features[_STRETCH] = spec.number("stretch", 1.0, 0.4, 3.0)
    if "f0" in spec.options:
        features[_F0] = spec.number("f0", 150.0, 50.0, 400.0)
    return _library().speak(text, spec.voice, features, exchange_of(spec))
