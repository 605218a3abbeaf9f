"""The daemon's configuration file and its overrides."""

from pathlib import Path

import pytest
import yaml

from agent.config import AgentConfig, load_config, load_token
from agent.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_holds_the_defaults(repo_root: Path) -> None:
    """configs/agent.yaml documents every setting with the value it has anyway."""
    path = repo_root / "configs" / "agent.yaml"
    assert load_config(path) == AgentConfig()
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == AgentConfig().model_dump(mode="json")


def test_without_a_file_the_defaults_hold() -> None:
    """No file and no overrides is fine."""
    assert load_config(None) == AgentConfig()


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    """A file of comments changes nothing."""
    assert load_config(write(tmp_path, "# nothing\n")) == AgentConfig()


def test_overrides_win(tmp_path: Path) -> None:
    """The command line is stronger than the file, at any depth and with YAML values."""
    path = write(tmp_path, "vad: {silence_duration_ms: 300}\nserver:\nlocal:\n")
    config = load_config(path, ["vad.silence_duration_ms=400", "server.port=9000", "reply.max_lead_ms=null"])
    assert config.vad.silence_duration_ms == 400
    assert config.server.port == 9000
    assert config.reply.max_lead_ms is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vad: {sensitivity: 1}", "unknown key 'vad.sensitivity'; known: detector, threshold"),
        ("vads: {}", "unknown key 'vads'; known: server, session"),
        ("vad: {threshold: 5}", "vad.threshold"),
        ("vad: [1]", "'vad' is a section with settings (got [1])"),
        ("a\tb\x00", "not valid YAML (unacceptable character #x0000"),
        ("- a\n- b\n", "expected sections"),
        ("vad: {threshold: 0.5\n", "line 2"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    """The error names the file and the key (or the line)."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("vad.sensitivity=1", "vad.sensitivity"),
        ("vad.threshold=high", "the command line (vad.threshold=high)"),
        ("vad.threshold", "section.key=value"),
        ("=3", "section.key=value"),
        ("vad.threshold=[1", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(override: str, says: str) -> None:
    """The error repeats what was typed."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert says in str(caught.value)


def test_a_value_is_no_section() -> None:
    """An override cannot go below a value."""
    with pytest.raises(ConfigError, match="not a section"):
        load_config(None, ["vad.threshold=0.4", "vad.threshold.low=0.1"])


def test_where_the_token_is_from(tmp_path: Path) -> None:
    """The flag is stronger than the environment, that than the file; without any there is none."""
    path = tmp_path / "token"
    path.write_text("token-of-the-file-1234\n")
    environment = {"REPARTEE_TOKEN": "token-of-the-environment"}
    assert load_token("token-of-the-flag-1234", environment, path) == "token-of-the-flag-1234"
    assert load_token(None, environment, path) == "token-of-the-environment"
    assert load_token(None, {}, path) == "token-of-the-file-1234"
    assert load_token(None, {}, None) is None


def test_a_token_that_cannot_be_used(tmp_path: Path) -> None:
    """The error says where it is from and what is wrong, and does not repeat it."""
    with pytest.raises(ConfigError, match="none cannot be read"):
        load_token(None, {}, tmp_path / "none")
    (tmp_path / "token").write_bytes(b"\xff" * 32)
    with pytest.raises(ConfigError, match="token cannot be read"):
        load_token(None, {}, tmp_path / "token")
    for flag, environment in (("sesame", {}), (None, {"REPARTEE_TOKEN": "sesame"})):
        with pytest.raises(ConfigError, match="at least 16") as caught:
            load_token(flag, environment, None)
        assert "sesame" not in str(caught.value)


def test_half_a_certificate(tmp_path: Path) -> None:
    """A certificate without its key is an error of the section."""
    with pytest.raises(ConfigError, match="tls_cert and tls_key belong together"):
        load_config(None, [f"server.tls_cert={tmp_path}"])


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(tmp_path / "none.yaml")
