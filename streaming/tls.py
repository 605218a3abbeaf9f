"""Certificates for wss://: given ones, or one of our own making."""

import contextlib
import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
from pathlib import Path

from streaming.errors import TlsError

CERT_NAME, KEY_NAME = "cert.pem", "key.pem"
_VALID_DAYS = 3_650
_EARLIER = datetime.timedelta(days=1)  # clocks differ


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS 1.2 or newer.

    Raises:
        TlsError: a file cannot be read, or they do not belong together; the message names them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        why = "the key is encrypted" if isinstance(exc, ValueError) else exc.strerror or exc
        raise TlsError(f"the certificate {cert} and the key {key} cannot be used ({why})") from exc
    return context


def trusting(cert: Path) -> ssl.SSLContext:
    """What a client needs to trust one certificate.

    Raises:
        TlsError: it cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=str(cert))
    except OSError as exc:
        raise TlsError(f"{cert} holds no certificate that can be read ({exc.strerror or exc})") from exc


def fingerprint(cert: Path) -> str:
    """SHA-256 of the first certificate in a PEM file, as ``AB:CD:…``.

    Raises:
        TlsError: it cannot be read.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(_first_certificate(cert.read_text(encoding="ascii", errors="replace")))
    except (OSError, ValueError) as exc:
        raise TlsError(f"{cert} holds no certificate that can be read ({exc})") from exc
    return hashlib.sha256(der).digest().hex(":").upper()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """The certificate and the key in this folder; they are made when there are none, for this machine as it is then.

    Raises:
        TlsError: the folder cannot be written, or the cryptography package is missing.
    """
    cert, key = folder / CERT_NAME, folder / KEY_NAME
    if cert.is_file() and key.is_file():
        return cert, key
    cert_pem, key_pem = _make()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(key, key_pem, 0o600)  # first: with the certificate there, both are
        _write(cert, cert_pem, 0o644)
    except OSError as exc:
        raise TlsError(f"the certificate cannot be kept in {folder} ({exc.strerror})") from exc
    return cert, key


def state_folder() -> Path:
    """Where this user's programs keep what they made."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "repartee"


def _make() -> tuple[bytes, bytes]:
    """A certificate for this machine, by its names and its addresses in the network, and its key, both PEM."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as exc:
        raise TlsError("a certificate needs the cryptography package: pip install 'repartee[tls]'") from exc
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "repartee")])
    host = socket.gethostname().lower()
    names = [x509.DNSName(name) for name in sorted({"localhost", host, f"{host}.local"}) if name.isascii()]
    now = datetime.datetime.now(datetime.UTC)
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([*names, *map(x509.IPAddress, _own_addresses())]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(own_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
        .sign(key, hashes.SHA256())
    )
    unencrypted = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)


def _own_addresses() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The loopback's, and those from which this machine speaks to others; nothing is sent to find them."""
    found = {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
    for family, anywhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):  # for examples only
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((anywhere, 9))
            found.add(ipaddress.ip_address(probe.getsockname()[0]))
    return sorted(found, key=str)


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def _first_certificate(pem: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in pem or end not in pem:
        raise ValueError("no PEM certificate")
    return begin + pem.split(begin)[1].split(end)[0] + end


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")
