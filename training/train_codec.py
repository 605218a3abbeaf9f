"""Train the whole codec from conversation folders: tokenizer, user features, semantic codes, acoustic codes, decoder.

``python -m training.train_codec --data_dir data/conversations --minutes 40 --output runs/codec``

The semantic and the acoustic half know nothing of each other, so they train side by side, one thread each. Every
stage resumes where it was stopped; each is a module of its own and can be run alone.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path


class StageError(RuntimeError):
    """A stage ended with an error; its own message is above."""


def stage_commands(args: argparse.Namespace) -> tuple[list[list[str]], list[list[str]]]:
    """Module and flags of the stages that run one after the other, then of those that run side by side."""
    config = ["--config", str(args.config)] if args.config else []
    augmentation = [
        flag
        for name in ("noise_dir", "rooms_dir")
        if getattr(args, name)
        for flag in (f"--{name}", str(getattr(args, name)))
    ]
    domain = ["--domain", str(args.domain)] if args.domain else []
    open_text = [flag for path in args.open_text for flag in ("--open_text", str(path))]
    people = [flag for folder in args.recordings for flag in ("--recordings", str(folder))]
    features = str(args.output / "features")
    tokenizer = str(args.output / "tokenizer.json")
    first = [
        ["training.train_tokenizer", "--data_dir", str(args.data_dir), "--output", tokenizer, *domain, *open_text],
        ["training.user_features", "--data_dir", str(args.data_dir), "--output", features, *augmentation, *people,
         "--workers", str(args.workers)],
    ]  # fmt: skip
    agent = [f"--audio=agent={args.data_dir}/*/assistant.wav:0.5", *(f"--audio=agent={t}:0.5" for t in args.open_text)]
    others = [f"--audio={text}" for text in args.audio]
    budget = ["--minutes", str(args.minutes), "--steps", str(args.steps), "--output", str(args.output), *config]
    side_by_side = [
        ["training.train_semantic", "--features", features, *domain, *budget],
        ["training.train_acoustic", *agent, *others, *budget],
    ]
    return first, side_by_side


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Run a stage as its own process."""
    sys.stdout.write(f"== python -m {' '.join(command)}\n")
    sys.stdout.flush()
    return subprocess.Popen([sys.executable, "-m", *command])


def wait(processes: list[tuple[list[str], subprocess.Popen[bytes]]]) -> None:
    """Wait for all; whatever still runs when this returns or is interrupted is stopped.

    Raises:
        StageError: one failed.
    """
    try:
        running = list(processes)
        while running:
            for command, process in list(running):
                status = process.poll()
                if status:
                    raise StageError(f"{command[0]} failed with exit status {status}")
                if status == 0:
                    running.remove((command, process))
            time.sleep(0.2)
    finally:
        for _, process in processes:
            if process.poll() is None:
                process.terminate()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="conversation folders")
    parser.add_argument("--output", type=Path, required=True, help="codec directory; runs in it are continued")
    parser.add_argument("--domain", type=Path, help="domain file whose words are all kept")
    parser.add_argument(
        "--open_text",
        type=Path,
        action="append",
        default=[],
        help="sentences to learn sounds from, and how they are spoken",
    )
    parser.add_argument("--config", type=Path, help="YAML with a section 'codec'")
    parser.add_argument(
        "--audio", action="append", default=[], help="more sound for the acoustic half: NAME=DIR[:WEIGHT]"
    )
    parser.add_argument("--recordings", type=Path, action="append", default=[], help="people: manifest.jsonl folders")
    parser.add_argument("--noise_dir", type=Path)
    parser.add_argument("--rooms_dir", type=Path)
    parser.add_argument("--minutes", type=float, default=40.0, help="wall clock of each half")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    first, side_by_side = stage_commands(args)
    try:
        for command in first:
            wait([(command, start(command))])
        wait([(command, start(command)) for command in side_by_side])
    except StageError as exc:
        parser.exit(1, f"{exc}\n")


if __name__ == "__main__":
    main()
