"""Recordings spoken to a running daemon in real time, through the official OpenAI SDK."""

import asyncio
from collections.abc import Callable, Sequence

from agent.bench.caller import Heard, call_with_sdk, converse
from training.answers import Answer
from training.recordings import Recording

BETWEEN_TURNS_S = 0.4


async def answer_over_wire(
    url: str, recordings: Sequence[Recording], parallel: int, progress: Callable[[], object]
) -> list[list[Answer]]:
    """Speaks recordings to the daemon at `url` (`http://HOST:PORT/v1`), at most `parallel` at once.

    Raises:
        InputError: The daemon cannot be reached, or a session failed.
        RecordingError: A recording cannot be read.
    """
    places = asyncio.Semaphore(parallel)

    async def one(recording: Recording) -> list[Answer]:
        turns = [utterance.load() for utterance in recording.turns]
        async with places, call_with_sdk(url) as caller:
            heard = await converse(caller, turns, BETWEEN_TURNS_S)
        progress()
        return [_answer(turn) for turn in heard]

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(recording), name=recording.name) for recording in recordings]
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return [task.result() for task in running]


def _answer(turn: Heard) -> Answer:
    return Answer(
        turn.reply,
        turn.transcript,
        turn.pcm,
        decision_ms=turn.end_to_decision,
        first_audio_ms=turn.decision_to_first_audio,
        cut_in=turn.cut_in,
        interrupted=turn.interrupted,
    )
