"""Questions from a terminal, answers as sound files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from agent.errors import InputError
from agent.text_in import TextIn
from streaming.sound_files import make_folder, write_audio

_PROMPT = "> "


def typed_questions(
    lines: TextIO, points: Sequence[str], tell: Callable[[str], None]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Questions, one a line, with their talking points: ``question | point | point``, else ``points``.

    Args:
        lines: where they are read, until the end.
        points: for questions that bring none.
        tell: told the prompt, at a terminal.
    """
    while True:
        if lines.isatty():
            tell(_PROMPT)
        if not (line := lines.readline()):
            return
        question, *own = (part.strip() for part in line.split("|"))
        if question or any(own):
            yield question, [point for point in own if point] or points


def answer_all(
    text_in: TextIn,
    questions: Iterable[tuple[str, Sequence[str]]],
    output: Path,
    tell: Callable[[str], None],
    complain: Callable[[str], None] | None = None,
) -> None:
    """Answer questions one after the other: the first into ``output``, NAME.wav, then into NAME-2.wav and so on.

    Args:
        text_in: answers.
        questions: with their talking points.
        output: its folder is made when it is missing.
        tell: told the words as they are spoken, each answer a line.
        complain: told what is wrong with a question, and the next one is asked; None: that is raised.

    Raises:
        InputError: a question cannot be answered; the message says why.
        SoundFileError: the file cannot be written.
    """
    make_folder(output.parent)
    number = 0
    for question, points in questions:
        try:
            pcm = text_in.answer(question, points)
        except InputError as exc:
            if complain is None:
                raise
            complain(f"run_agent.py: {exc}")
            continue
        number += 1
        tell("\n")
        write_audio(output if number == 1 else output.with_stem(f"{output.stem}-{number}"), pcm)
