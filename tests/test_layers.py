"""The import rules: data flows one way, the runtime half has no torch, and nothing lies about unused."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agent", "streaming", "models", "training")
MAY_IMPORT = {
    "run_agent": {"agent", "streaming", "models"},
    "agent": {"agent", "agent.domain", "streaming", "models"},
    "agent.domain": {"agent.domain", "models"},
    "streaming": {"streaming"},
    "models": {"models"},
    "training": {"training", "agent.domain", "models"},
}
ALSO_ALLOWED = {
    ("training/evaluate_agent.py", "agent"),
    ("training/engine_pool.py", "agent"),
    ("training/suite.py", "agent"),
    ("training/intelligibility.py", "agent"),
    ("training/endpoints.py", "agent"),
    ("training/answers.py", "agent"),
    ("training/evaluate_prosody.py", "agent"),
    ("training/endpoints.py", "streaming"),
    ("training/interruptions.py", "agent"),
    ("training/compare_voices.py", "agent"),
    ("training/evaluate_prosody.py", "agent"),
    ("training/realtime_client.py", "agent"),
}
FORBIDDEN_NAMES = {"utils", "util", "common", "base", "manager", "helpers", "helper", "misc"}
TORCH_LIBRARIES = {"torch", "transformers", "peft", "accelerate", "torchaudio", "onnxscript", "tensorboard"}
RUNTIME_MODELS = (
    "artefacts",
    "errors",
    "features",
    "graph",
    "prosody",
    "runtime",
    "sampling",
    "spoken_text",
    "synthesis",
    "score",
    "tokenizer",
)
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 50


def sources() -> list[Path]:
    """Our Python files outside the tests, relative to the root."""
    files = [ROOT / "run_agent.py", *(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))]
    return sorted(p.relative_to(ROOT) for p in files if p.is_file())


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports, at any depth: `a.b` and `a.b.c` for `from a.b import c`."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named_modules(path: Path) -> Iterator[str]:
    """Text constants of a file: a module may also be named there, to be imported when it is needed."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def layer(path: Path) -> str:
    return layer_of(module_name(path))


def layer_of(name: str) -> str:
    """The layer of a dotted name: its package, or the one package inside another that is a layer of its own."""
    return "agent.domain" if f"{name}.".startswith("agent.domain.") else name.split(".")[0]


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_entry_point(path: Path) -> bool:
    return any(isinstance(n, ast.If) and "__name__" in ast.unparse(n.test) for n in parse(path).body)


def is_runtime(path: Path) -> bool:
    """Whether this file belongs to the half that must work without torch."""
    if path.parts[0] == "models":
        return path.stem in RUNTIME_MODELS or path.stem.startswith("runtime")
    return layer(path) in {"run_agent", "agent", "agent.domain", "streaming"}


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_go_one_way(path: Path) -> None:
    """A file imports only the layers below its own."""
    for name in imports(path):
        target = layer_of(name)
        if target in MAY_IMPORT and (path.as_posix(), target) not in ALSO_ALLOWED:
            assert target in MAY_IMPORT[layer(path)], f"{path} imports {name}"


@pytest.mark.parametrize("path", [p for p in sources() if is_runtime(p)], ids=str)
def test_runtime_files_import_no_torch(path: Path) -> None:
    """No file of the runtime half names torch or a library that brings it, not even inside a function."""
    assert not {name.split(".")[0] for name in imports(path)} & TORCH_LIBRARIES


@pytest.mark.parametrize("path", [p for p in sources() if p.parts[0] in {"agent", "streaming"}], ids=str)
def test_runtime_packages_import_only_runtime_models(path: Path) -> None:
    """The agent package reaches into models only for the half without torch."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "models" and len(parts) > 1:
            assert parts[1] in RUNTIME_MODELS or parts[1].startswith("runtime"), f"{path} imports {name}"


def test_models_package_imports_nothing() -> None:
    """`import models` is free: its __init__ holds at most a docstring."""
    assert all(isinstance(n, ast.Expr) for n in parse(Path("models/__init__.py")).body)


def test_no_file_has_a_name_that_says_nothing() -> None:
    """No module is called utils, common, base and the like, or shadows the standard library."""
    stems = {p: p.stem for p in sources() if p.stem != "__init__"}
    assert not [p for p, stem in stems.items() if stem in FORBIDDEN_NAMES]
    assert not [p for p, stem in stems.items() if len(p.parts) == 1 and stem in sys.stdlib_module_names]


def test_every_file_is_used_or_runnable() -> None:
    """Each file is imported by a non-test file or is an entry point."""
    imported = {name for path in sources() for found in (imports, named_modules) for name in found(path)}
    unused = [
        str(path)
        for path in sources()
        if path.stem != "__init__" and module_name(path) not in imported and not is_entry_point(path)
    ]
    assert not unused


def test_files_and_functions_stay_small() -> None:
    """No file grows past its cap and no function past its own."""
    too_long = []
    for path in sources():
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            too_long.append(f"{path}: {lines} lines")
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    too_long.append(f"{path}:{node.lineno} {node.name}: {length} lines")
    assert not too_long


def test_only_entry_points_print() -> None:
    """`print` is for commands; packages log."""
    printing = [
        f"{path}:{node.lineno}"
        for path in sources()
        if not is_entry_point(path)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing


def test_no_data_is_run() -> None:
    """Nothing that is read can be code: no pickle, no eval, and the loaders that could unpickle are told not to."""
    faults = []
    for path in sources():
        faults += [
            f"{path} imports {name}" for name in imports(path) if name in {"pickle", "marshal", "shelve", "dill"}
        ]
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = name in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"} or (
                (name == "np.load" and given.get("allow_pickle") != "False")
                or (name == "torch.load" and given.get("weights_only") != "True")
                or given.get("shell") == "True"
            )
            faults += [f"{path}:{node.lineno} {name}"] if unsafe else []
    assert not faults


def test_daemon_starts_without_torch() -> None:
    """Importing what the daemon imports leaves torch unloaded, also by way of third parties."""
    code = f"""
import sys, run_agent, agent.daemon, models.runtime
loaded = set({sorted(TORCH_LIBRARIES)}) & set(sys.modules)
sys.exit(", ".join(sorted(loaded)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
