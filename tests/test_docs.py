"""The README tells the truth: its tree is the tree, and its commands are commands."""

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE_FOLDERS = ("agent", "streaming", "models", "training", "configs", "tests")
SOURCE_SUFFIXES = {".py", ".yaml", ".html", ".js", ".css"}
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.\-]+/?)(?: {2,}(?P<purpose>\S.*))?$")


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def tree() -> dict[str, str]:
    """The README's file tree: path (folders end in `/`) -> purpose. Two spaces of indent are one level."""
    block = readme().split("```tree\n")[1].split("```")[0]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in filter(str.strip, block.splitlines()):
        match = TREE_LINE.match(line)
        assert match, f"not a line of the tree: {line!r}"
        depth = len(match["indent"]) // 2
        path = "/".join([*folders[:depth], match["name"].rstrip("/")])
        if match["name"].endswith("/"):
            folders[depth:] = [match["name"].rstrip("/")]
            path += "/"
        assert path not in found, f"{path} twice"
        found[path] = match["purpose"] or ""
    return found


def source_files() -> set[str]:
    """Every source file that deserves a line; `test_<module>.py` of an existing module is covered by its folder's."""
    files = [p for p in ROOT.iterdir() if p.suffix == ".py"]
    files += [p for folder in SOURCE_FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in SOURCE_SUFFIXES]
    files = [p for p in files if ROOT / "models" / "pretrained" not in p.parents]
    names = {p.relative_to(ROOT).as_posix() for p in files if p.name != "__init__.py"}
    modules = {Path(name).stem for name in names if not name.startswith("tests/")}
    return {name for name in names if not (name.startswith("tests/test_") and Path(name).stem[5:] in modules)}


def commands() -> list[str]:
    """Each line of the README's shell blocks that is a command, with continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", readme(), flags=re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def test_every_path_in_the_tree_exists() -> None:
    """The tree names no file that is not there."""
    assert not [path for path in tree() if not (ROOT / path).exists()]


def test_every_file_in_the_tree_has_a_purpose() -> None:
    """One line a file says what it is for."""
    assert not [path for path, purpose in tree().items() if not purpose]


def test_every_source_file_is_in_the_tree() -> None:
    """A new file needs a line in the README."""
    assert not sorted(source_files() - tree().keys())


@pytest.mark.parametrize("command", commands())
def test_commands_name_things_that_exist(command: str) -> None:
    """Make targets, modules, scripts and configuration files in the README's commands exist."""
    words = shlex.split(command, comments=True)
    while words and "=" in words[0] and not words[0].startswith("-"):
        words.pop(0)
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
        assert {w for w in words[1:] if "=" not in w and not w.startswith("-")} <= targets
    if "-m" in words and words[words.index("-m") + 1] not in {"venv", "pip", "pytest", "http.server"}:
        module = ROOT / words[words.index("-m") + 1].replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    for word in words:
        if word.startswith(("configs/", "tests/", "models/")) or word == "run_agent.py":
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", readme(), flags=re.S))
def test_python_examples_compile(code: str) -> None:
    """The README's Python is Python."""
    assert ast.parse(code).body


def test_documented_flags_exist() -> None:
    """Every long flag shown with a module of ours is one its package defines."""
    missing = []
    for command in commands():
        words = shlex.split(command, comments=True)
        if "-m" in words and words[words.index("-m") + 1].startswith(("training.", "agent.")):
            sources = sorted((ROOT / words[words.index("-m") + 1].split(".")[0]).rglob("*.py"))
        elif "run_agent.py" in words:
            sources = [ROOT / "run_agent.py", *sorted((ROOT / "agent").glob("*.py"))]
        else:
            continue
        known = "".join(path.read_text(encoding="utf-8") for path in sources)
        missing += [f"{command}: {w}" for w in words if w.startswith("--") and f'"{w.split("=")[0]}"' not in known]
    assert not missing
