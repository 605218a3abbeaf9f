"""OpenAI-compatible services for reply wording and for speech: optional, off by default, plain HTTP."""

from __future__ import annotations

import io
import json
import os
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import soundfile

from training.tts import TtsError, Utterance, VoiceSpec, to_24k

API_KEY_VARIABLE = "OPENAI_API_KEY"
SPEECH_URL_VARIABLE = "REPARTEE_SPEECH_API"
TIMEOUT_S = 60.0
_ANSWER_LIMIT = 32 * 1024 * 1024
_REWORD = (
    "Reword the agent's reply in one or two short spoken sentences. Keep every fact, item, amount, price and question. "
    "Write no digits and no markup. Answer with the sentence only."
)


class OnlineError(TtsError):
    """An online service failed or answered something unusable."""


def _post(url: str, payload: dict[str, Any]) -> bytes:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(API_KEY_VARIABLE):
        headers["Authorization"] = f"Bearer {key}"
    if not url.startswith(("http://", "https://")):
        raise OnlineError(f"{url}: expected an http:// or https:// address")
    request = urllib.request.Request(url, json.dumps(payload).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(_ANSWER_LIMIT + 1)
    except (urllib.error.URLError, OSError) as error:
        raise OnlineError(f"{url}: {error}") from error
    if len(body) > _ANSWER_LIMIT:
        raise OnlineError(f"{url}: the answer is larger than {_ANSWER_LIMIT >> 20} MB")
    return body


def reword(base_url: str, model: str, user_text: str, reply: str, seed: int) -> str:
    """Asks ``base_url/chat/completions`` for another wording of a reply.

    Raises:
        OnlineError: the service failed, or its answer holds no text.
    """
    messages = [
        {"role": "system", "content": _REWORD},
        {"role": "user", "content": f"Customer: {user_text}\nReply: {reply}"},
    ]
    url = base_url.rstrip("/") + "/chat/completions"
    body = _post(url, {"model": model, "messages": messages, "seed": seed})
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise OnlineError(f"{url}: the answer holds no text") from error
    if not isinstance(text, str) or not text.strip():
        raise OnlineError(f"{url}: the answer holds no text")
    return " ".join(text.split())


def synthesise_raw(text: str, spec: VoiceSpec) -> Utterance:
    """Speaks with ``openai:VOICE?model=tts-1`` at the address in ``REPARTEE_SPEECH_API``.

    The service gives no times: the one phone-less stretch of speech is found by its energy, words stay empty.

    Raises:
        OnlineError: no address is set, or the service failed.
    """
    spec.only("model")
    base = os.environ.get(SPEECH_URL_VARIABLE)
    if not base:
        raise OnlineError(f"{SPEECH_URL_VARIABLE} is not set: give --speech_api URL")
    payload = {"model": spec.options.get("model", "tts-1"), "voice": spec.voice, "input": text}
    body = _post(base.rstrip("/") + "/audio/speech", {**payload, "response_format": "wav"})
    try:
        pcm, rate = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise OnlineError(f"{base}: the speech is no readable audio") from error
    audio = to_24k(pcm.mean(axis=1), rate)
    return trim_by_energy(audio)


def trim_by_energy(pcm: np.ndarray) -> Utterance:
    """Cuts silence (60 dB under the peak level) off both ends of 24 kHz audio; words and phones stay empty.

    Raises:
        OnlineError: there is no sound.
    """
    frames = len(pcm) // 240
    power = np.square(pcm[: frames * 240].reshape(frames, 240)).mean(axis=1) if frames else np.zeros(0)
    loud = np.flatnonzero(power > max(1e-9, 1e-4 * float(power.max(initial=0.0))))
    if not len(loud):
        raise OnlineError("the speech service answered with silence")
    return Utterance(pcm[loud[0] * 240 : (loud[-1] + 1) * 240], (), ())
