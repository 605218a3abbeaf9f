"""What every test shares: one thread per library, no downloads, a seeded generator, the shipped models."""

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """One compute thread (more only fight on small machines) and no model hub, set before torch is imported."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240)


@pytest.fixture(scope="session")
def shipped_models() -> Path:
    """The shipped artefacts; their absence is a failure, because they are part of the repository."""
    from models.artefacts import SHIPPED  # onnxruntime, only after pytest_configure

    assert SHIPPED.is_dir(), f"{SHIPPED} is missing"
    return SHIPPED


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy checkpoints in ``codec`` and ``s2s``, exported in ``models``; made once, never to be changed in place."""
    from tests.tiny import export_tiny  # brings torch, which not every test needs

    folder = tmp_path_factory.mktemp("tiny")
    export_tiny(folder)
    return folder
