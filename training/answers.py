"""What came back for each spoken turn, how it is scored, and the report over all of them."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from agent.bench.figures import loud_span
from agent.domain.understanding import normal_words
from training.domain import Domain
from training.recordings import SAMPLE_RATE_HZ, Recording, Utterance
from training.scoring import (
    CHANGES,
    UNKNOWN,
    Rate,
    Reading,
    compare,
    is_read_back,
    orders,
    percentiles,
    rate,
    read_reply,
    read_transcript,
    reads_back_after_change,
    reply_name,
    summarise,
    word_errors,
)

INAUDIBLE = 1e-4


@dataclass(slots=True)
class Answer:
    """What the agent did with one user turn.

    Attributes:
        reply: Text of the last reply that was not interrupted; empty when there is none.
        transcript: What the agent says it heard, over the whole turn.
        pcm: Audio of that reply, float32 [N] at 24 kHz.
        decision_ms: From the true end of speech to the last decision that the user has finished, on the sample clock.
        first_audio_ms: From that decision to the first frame of reply audio, wall time.
        calls_before_audio: Engine calls in that time.
        calls: Engine calls in the whole turn; 0 where that is not known.
        cut_in: Whether the agent decided that the user had finished before the true end.
        interrupted: Replies that were begun and broken off within the turn.
        replies: Texts of all replies of the turn, those broken off as far as they got; empty where that is not known.
    """

    reply: str = ""
    transcript: str = ""
    pcm: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    decision_ms: float | None = None
    first_audio_ms: float | None = None
    calls_before_audio: int | None = None
    calls: int = 0
    cut_in: bool = False
    interrupted: int = 0
    replies: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether a whole reply was heard."""
        return bool(self.reply.strip()) and leading_silence_ms(self.pcm) is not None

    @property
    def audible_ms(self) -> float | None:
        """From the true end of speech to the first audible sample of the reply: the parts together."""
        silence_ms = leading_silence_ms(self.pcm)
        if self.decision_ms is None or self.first_audio_ms is None or silence_ms is None:
            return None
        return self.decision_ms + self.first_audio_ms + silence_ms


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn, its number in its recording, and the answer."""

    recording: str
    turn: int
    utterance: Utterance
    answer: Answer


def leading_silence_ms(pcm: np.ndarray) -> float | None:
    """Length of the silence before the first 20 ms frame within 30 dB of the loudest; None when nothing is loud."""
    if np.abs(pcm).max(initial=0.0) < INAUDIBLE:
        return None
    return loud_span(pcm)[0] * 1000 / SAMPLE_RATE_HZ


def pair(recordings: Sequence[Recording], answers: Sequence[Sequence[Answer]]) -> list[Exchange]:
    """Turns beside their answers, in order; both have one entry a recording and one a turn."""
    return [
        Exchange(recording.name, number, utterance, answer)
        for recording, given in zip(recordings, answers, strict=True)
        for number, (utterance, answer) in enumerate(zip(recording.turns, given, strict=True), start=1)
    ]


def report(domain: Domain, exchanges: Sequence[Exchange]) -> dict[str, Any]:
    """Every figure, and one row a turn; rates are `Rate` objects (see `to_json`)."""
    answers = [exchange.answer for exchange in exchanges]
    timely = [answer for answer in answers if not answer.cut_in]
    result: dict[str, Any] = {
        "turns": len(exchanges),
        "answered": rate([answer.answered for answer in answers]),
        "cut_ins": rate([answer.cut_in for answer in answers]),
        "latency_ms": {
            "end_of_speech_to_decision": percentiles([a.decision_ms for a in timely if a.decision_ms is not None]),
            "decision_to_first_audio": percentiles([a.first_audio_ms for a in timely if a.first_audio_ms is not None]),
            "end_of_speech_to_audible": percentiles([a.audible_ms for a in timely if a.audible_ms is not None]),
        },
    }
    calls = {
        "before_audio": percentiles([a.calls_before_audio for a in timely if a.calls_before_audio is not None]),
        "turn": percentiles([a.calls for a in answers if a.calls]),
    }
    if calls["turn"]:
        result["engine_calls"] = calls
    rows = [_row(exchange) for exchange in exchanges]
    _score_labelled(domain, exchanges, rows, result)
    _score_conversations(domain, exchanges, rows, result)
    _score_outside(domain, exchanges, rows, result)
    _score_read_backs(domain, exchanges, rows, result)
    return result | {"clips": rows}


def _row(exchange: Exchange) -> dict[str, Any]:
    answer = asdict(exchange.answer)
    del answer["pcm"]
    audible_ms = exchange.answer.audible_ms
    numbers = {
        "audible_ms": audible_ms,
        "decision_ms": answer["decision_ms"],
        "first_audio_ms": answer["first_audio_ms"],
    }
    return {
        "recording": exchange.recording,
        "turn": exchange.turn,
        "intent": exchange.utterance.intent,
        "answered": exchange.answer.answered,
        **answer,
        **{name: None if value is None else round(value, 1) for name, value in numbers.items()},
    }


def _score_labelled(
    domain: Domain, exchanges: Sequence[Exchange], rows: Sequence[dict[str, Any]], result: dict[str, Any]
) -> None:
    """Single commands with an intent and slots: scored from the reply and from the transcript."""
    for source, read in (("reply", read_reply), ("transcript", read_transcript)):
        scores = []
        for exchange, row in zip(exchanges, rows, strict=True):
            utterance, answer = exchange.utterance, exchange.answer
            if utterance.intent is None or utterance.slots is None:
                continue
            heard = source == "transcript" or answer.answered
            reading = read(domain, getattr(answer, source)) if heard else Reading(frozenset(), [])
            score = compare(utterance.intent, utterance.slots, reading)
            row[f"understood_by_{source}"] = score.understood
            row[f"wrong_by_{source}"] = list(score.wrong) + ([] if score.intent_right else ["intent"])
            row[f"extra_by_{source}"] = list(score.extra)
            row["labels"] = dict(utterance.slots)
            scores.append(score)
        if scores:
            result[f"by_{source}"] = summarise(scores)


def _score_conversations(
    domain: Domain, exchanges: Sequence[Exchange], rows: Sequence[dict[str, Any]], result: dict[str, Any]
) -> None:
    """Turns with their words and the right reply: the reply word for word, the meaning of the transcript, its words."""
    replies, meanings, errors, words = [], [], [], []
    for exchange, row in zip(exchanges, rows, strict=True):
        utterance, answer = exchange.utterance, exchange.answer
        if utterance.reply is not None:
            row["expected_reply"] = utterance.reply
            row["reply_right"] = answer.answered and normal_words(answer.reply) == normal_words(utterance.reply)
            replies.append(row["reply_right"])
        if utterance.text is not None:
            row["text"] = utterance.text
            row["meaning_right"] = domain.parse_user(answer.transcript) == domain.parse_user(utterance.text)
            meanings.append(row["meaning_right"])
            errors.append(word_errors(normal_words(utterance.text), normal_words(answer.transcript)))
            words.append(len(normal_words(utterance.text)))
    if replies:
        result["reply_right"] = rate(replies)
        result["reply_right_by_intent"] = _by_intent(rows)
    if meanings:
        result["meaning_right"] = rate(meanings)
        result["transcript_word_errors"] = rate(errors, words)


def _by_intent(rows: Sequence[Mapping[str, Any]]) -> dict[str, Rate]:
    right: dict[str, list[bool]] = {}
    for row in rows:
        if row["intent"] is not None and "reply_right" in row:
            right.setdefault(row["intent"], []).append(row["reply_right"])
    return {intent: rate(hits) for intent, hits in sorted(right.items())}


def _score_outside(
    domain: Domain, exchanges: Sequence[Exchange], rows: Sequence[dict[str, Any]], result: dict[str, Any]
) -> None:
    """Turns that are none of the agent's business: whether it said so, and whether it kept from any order."""
    outside = []
    for exchange, row in zip(exchanges, rows, strict=True):
        if exchange.utterance.intent != UNKNOWN:
            continue
        answer = exchange.answer
        row["declined"] = answer.answered and UNKNOWN in read_reply(domain, answer.reply).intents
        row["no_order"] = not any(orders(domain, reply) for reply in {answer.reply, *answer.replies})
        outside.append(row)
    if outside:
        result["declined"] = rate([row["declined"] for row in outside])
        result["no_order"] = rate([row["no_order"] for row in outside])


def _score_read_backs(
    domain: Domain, exchanges: Sequence[Exchange], rows: Sequence[dict[str, Any]], result: dict[str, Any]
) -> None:
    """Replies that tell the whole order after it was changed: right when every item is, with nothing more."""
    dialogues: dict[str, list[int]] = {}
    for index, exchange in enumerate(exchanges):
        dialogues.setdefault(exchange.recording, []).append(index)
    right = []
    for turns in dialogues.values():
        intents = [exchanges[index].utterance.intent for index in turns]
        for place, index in enumerate(turns):
            utterance, answer = exchanges[index].utterance, exchanges[index].answer
            after_change = reads_back_after_change(intents) and not CHANGES.isdisjoint(intents[:place])
            if after_change and utterance.reply and is_read_back(domain, utterance.intent, utterance.reply):
                same_kind = reply_name(domain, answer.reply) == reply_name(domain, utterance.reply)
                same_items = domain.parse_reply(answer.reply) == domain.parse_reply(utterance.reply)
                rows[index]["read_back_right"] = answer.answered and same_kind and same_items
                right.append(rows[index]["read_back_right"])
    if right:
        result["read_back_right_after_change"] = rate(right)


def to_json(value: Any) -> Any:
    """The report as plain JSON values."""
    if isinstance(value, Rate):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return value


def write_report(path: Path, body: Mapping[str, Any]) -> None:
    """Writes a report as JSON, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(to_json(body), indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def to_lines(result: Mapping[str, Any], indent: str = "") -> list[str]:
    """The report without its rows, as lines of text."""
    lines = []
    for name, value in result.items():
        title = f"{indent}{name.replace('_', ' ')}"
        if name == "clips":
            continue
        if isinstance(value, Mapping) and all(isinstance(inner, float) for inner in value.values()):
            lines.append(f"{title:34s} {'  '.join(f'{key} {inner:.0f}' for key, inner in value.items()) or '-'}")
        elif isinstance(value, Mapping):
            lines += [title, *to_lines(value, indent + "  ")]
        else:
            lines.append(f"{title:34s} {value}")
    return lines


def save_audio(exchanges: Sequence[Exchange], folder: Path) -> None:
    """Writes each answered turn as `NAME-TURN.wav` and `.txt`, for `training.intelligibility`."""
    folder.mkdir(parents=True, exist_ok=True)
    for exchange in exchanges:
        if exchange.answer.answered:
            path = folder / f"{exchange.recording}-{exchange.turn}.wav"
            soundfile.write(path, np.clip(exchange.answer.pcm, -1.0, 1.0), SAMPLE_RATE_HZ, subtype="PCM_16")
            path.with_suffix(".txt").write_text(exchange.answer.reply, encoding="utf-8")
