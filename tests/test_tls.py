"""Certificates: of our own making, and given ones."""

import socket
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from streaming.errors import TlsError
from streaming.tls import fingerprint, self_signed, server_context, state_folder


def test_a_certificate_is_made_once(tmp_path: Path) -> None:
    """It is kept, only its owner can read the key, and both belong together."""
    cert, key = self_signed(tmp_path / "state")
    before = cert.read_bytes(), key.read_bytes()
    assert self_signed(tmp_path / "state") == (cert, key)
    assert (cert.read_bytes(), key.read_bytes()) == before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert server_context(cert, key).minimum_version == ssl.TLSVersion.TLSv1_2
    assert sorted(path.name for path in key.parent.iterdir()) == ["cert.pem", "key.pem"]


def test_the_certificate_has_the_names_that_others_use(tmp_path: Path) -> None:
    """The machine's name, also as it announces itself in a local network, and its addresses."""
    cert, _ = self_signed(tmp_path)
    names = x509.load_pem_x509_certificate(cert.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    host = socket.gethostname().lower()
    assert {"localhost", host, f"{host}.local"} <= set(names.value.get_values_for_type(x509.DNSName))
    addresses = {str(address) for address in names.value.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "::1"} <= addresses
    for address in addresses - {"::1"}:  # they are this machine's
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as bound:
            bound.bind((address, 0))


def test_the_fingerprint_is_openssls(tmp_path: Path) -> None:
    """It reads as other programs show it."""
    cert, _ = self_signed(tmp_path)
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(cert), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip().endswith(f"={fingerprint(cert)}")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing file, no certificate, and a key of another certificate are one sentence with the names."""
    cert, key = self_signed(tmp_path / "a")
    _, other = self_signed(tmp_path / "b")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    for pair in ((tmp_path / "none.pem", key), (empty, key), (cert, other)):
        with pytest.raises(TlsError) as caught:
            server_context(*pair)
        assert str(pair[0]) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(TlsError, match=r"empty\.pem"):
        fingerprint(empty)


def test_a_key_with_a_password_is_refused(tmp_path: Path) -> None:
    """Nobody is there to type it: the daemon says so instead of asking."""
    cert, key = self_signed(tmp_path)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-out", str(locked), "-aes128", "-passout", "pass:x"], check=True
    )
    with pytest.raises(TlsError, match="encrypted"):
        server_context(cert, locked)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """The folder is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TlsError, match="file/state"):
        self_signed(tmp_path / "file" / "state")


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the user's, as the system says."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "repartee"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder().parts[-3:] == (".local", "state", "repartee")
