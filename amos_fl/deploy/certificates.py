"""The deployment's own authority and the certificate of its SuperLink (X.509, RFC 5280).

The authority signs only SuperLink certificates: sites authenticate with their own keys. A new certificate from the same
authority requires no change at the sites.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from amos_fl.deploy.keys import new_key, write_secret
from amos_fl.errors import AmosError
from amos_fl.files import write_text

AUTHORITY_DAYS = 3650
_BACKDATED = timedelta(hours=1)
"""A certificate is valid from shortly before it is made, for clocks that are slow."""
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


@dataclass(frozen=True)
class Authority:
    """A certificate that signs others, and its key (which the repr hides)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def checked_host(name: str) -> str:
    """A host name or an IP address as a certificate can hold it.

    Raises:
        AmosError: it is neither.

    >>> checked_host("fl.example.org"), checked_host("10.0.0.7")
    ('fl.example.org', '10.0.0.7')
    """
    if not _is_address(name) and (not _HOST.fullmatch(name) or len(name) > 253 or _looks_like_ipv4(name)):
        raise AmosError(f"--host {name}: is no host name or IP address; give it without https:// and without a port")
    return name


def _looks_like_ipv4(name: str) -> bool:
    return all(part.isdigit() for part in name.rstrip(".").split("."))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def new_authority(name: str, *, days: int = AUTHORITY_DAYS, now: datetime | None = None) -> Authority:
    """A self-signed authority that may sign servers and no further authorities."""
    key = new_key()
    subject = _name(f"amos-fl authority of {name}"[:64])
    certificate = (
        _certificate(subject, subject, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Authority(certificate, key)


def write_authority(folder: Path, authority: Authority) -> None:
    _write_key(folder / "ca.key", authority.key)
    write_certificate(folder / "ca.crt", authority.certificate)


def read_authority(folder: Path) -> Authority:
    """The authority in a folder.

    Raises:
        AmosError: it is missing or damaged, or its key belongs to another certificate.
    """
    certificate = read_certificate(folder / "ca.crt")
    try:
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except OSError:
        raise AmosError(f"{folder / 'ca.key'}: the authority's key is not there, or cannot be read") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AmosError(f"{folder / 'ca.key'}: is not the key of ca.crt beside it; restore both from one backup")
    return Authority(certificate, key)


def write_server_certificate(
    folder: Path, authority: Authority, names: Sequence[str], *, days: int, now: datetime | None = None
) -> x509.Certificate:
    """Make a new key and a certificate for `names` (host names and IP addresses): server.key (0600), server.crt."""
    key = new_key()
    alternatives = [
        x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name) for name in names
    ]
    certificate = (
        _certificate(_name(names[0][:64]), authority.certificate.subject, key.public_key(), days, now)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    _write_key(folder / "server.key", key)
    write_certificate(folder / "server.crt", certificate)
    return certificate


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file.

    Raises:
        AmosError: no file, or it holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError:
        raise AmosError(f"{path}: no such certificate, or it cannot be read") from None
    except ValueError:
        raise AmosError(f"{path}: holds no certificate") from None


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    write_text(path, certificate.public_bytes(Encoding.PEM).decode())


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate in hexadecimal, as `openssl x509 -fingerprint -sha256` gives it with colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, now: datetime | None
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
