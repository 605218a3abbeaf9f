"""flite through its C library, for the voices slt, rms, awb and kal16."""

from __future__ import annotations

import ctypes
import functools
import tempfile
import threading

import numpy as np

from training.phones import LEXICON, SILENCE, radio_to_arpabet
from training.tts import Segment, TtsError, Utterance, VoiceSpec, to_24k

VOICES = ("slt", "rms", "awb", "kal16")
_STRETCH, _F0 = b"duration_stretch", b"int_f0_target_mean"  # flite keeps these pointers: they must stay alive
_TOKEN_OF_SEGMENT = b"R:SylStructure.parent.parent.R:Token.parent"


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
        self._lock = threading.Lock()

    def _voice(self, name: str) -> ctypes._Pointer[_Voice]:
        if name not in self._voices:
            if name not in VOICES:
                raise TtsError(f"flite has no voice {name!r}: known are {', '.join(VOICES)}")
            register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = ctypes.POINTER(_Voice), [_TEXT]
            voice = register(None)
            with tempfile.NamedTemporaryFile("w", suffix=".lex") as addenda:
                addenda.writelines(f"{word} : {' '.join(syllables)}\n" for word, syllables in LEXICON.items())
                addenda.flush()
                self._lib.flite_voice_add_lex_addenda(ctypes.cast(voice, _POINTER), addenda.name.encode())
            self._voices[name] = voice
        return self._voices[name]

    def speak(self, text: str, name: str, features: dict[bytes, float]) -> Utterance:
        with self._lock:
            voice = self._voice(name)
            settings = voice.contents.features
            before = {key: self._lib.flite_get_param_float(settings, key, -1.0) for key in features}
            for key, value in features.items():
                self._lib.feat_set_float(settings, key, value)
            utterance = self._lib.flite_synth_text(text.encode("ascii", "replace"), ctypes.cast(voice, _POINTER))
            for key, value in before.items():
                if value < 0:  # the voice has none of its own
                    self._lib.feat_remove(settings, key)
                else:
                    self._lib.feat_set_float(settings, key, value)
            if not utterance:
                raise TtsError(f"flite voice {name!r} failed on {text!r}")
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
            space = lib.ffeature_string(item, b"whitespace") or b""
            current += 1 if current < 0 or space else 0
            index_of[item] = min(current, len(tokens) - 1)
        phones: list[Segment] = []
        spans: dict[int, tuple[float, float]] = {}
        now = 0.0
        for item in self._items(utterance, b"Segment"):
            phone = radio_to_arpabet((lib.ffeature_string(item, b"name") or b"").decode())
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


@functools.lru_cache(maxsize=1)
def _library() -> _Library:
    return _Library()


def synthesise_raw(text: str, spec: VoiceSpec) -> Utterance:
    """Speaks with ``flite:VOICE?stretch=1.0&f0=170`` (duration factor; mean pitch in Hz).

    Raises:
        TtsError: unknown voice or option, or flite is missing.
    """
    spec.only("stretch", "f0")
    features: dict[bytes, float] = {}
    if "stretch" in spec.options:
        features[_STRETCH] = spec.number("stretch", 1.0, 0.4, 3.0)
    if "f0" in spec.options:
        features[_F0] = spec.number("f0", 150.0, 50.0, 400.0)
    return _library().speak(text, spec.voice, features)
