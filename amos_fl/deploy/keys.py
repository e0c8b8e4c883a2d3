"""A site's key and the submitters' token, made where they are used and readable by their owner alone.

A site authenticates with an elliptic-curve key (NIST P-384) in OpenSSH's format, as Flower's SuperNodes require; the
public half is one line of text, and its fingerprint another, both as `ssh-keygen` writes them.
"""

import hashlib
import os
import secrets
from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from amos_fl.errors import AmosError
from amos_fl.files import whole_file, write_text

OTHERS_MAY = 0o077
"""The permissions that a secret's file must not have."""


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all; it is created with mode 0600."""
    with whole_file(path, private=True) as beside:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def write_private_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a key without a passphrase, as a service needs it, in OpenSSH's format."""
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in a file.

    Raises:
        AmosError: no file, others may read it, or it holds no elliptic-curve key.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError:
        raise AmosError(f"{path}: no such key", "make it with 'amos-fl deploy enroll'") from None
    except PermissionError:
        raise AmosError(f"{path}: this user may not read the key", "give the file to the user that runs this") from None
    if mode & OTHERS_MAY:
        raise AmosError(f"{path}: other users of this machine may read this key", "run 'chmod 600' on it")
    try:
        key = load_ssh_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        # The cause might quote the file, so it is left out.
        raise AmosError(f"{path}: holds no key that can be used", "make one with 'amos-fl deploy enroll --replace'")
    return key


_OF_SITE = "amos-fl site "


def site_comment(site: str) -> str:
    """The comment at the end of a site's public key."""
    return f"{_OF_SITE}{site}"


def site_of_public_key(path: Path) -> str | None:
    """The site that the comment of a public key names; None: it names none, or cannot be read."""
    try:
        comment = path.read_text(encoding="utf-8")[:10_000].strip().split(" ", 2)[2]
    except (OSError, UnicodeDecodeError, IndexError):
        return None
    return comment.removeprefix(_OF_SITE).partition(",")[0] if comment.startswith(_OF_SITE) else None


def public_line(key: ec.EllipticCurvePublicKey, comment: str) -> str:
    """The public half in one line, with a comment at its end."""
    return f"{key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()} {comment}\n"


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The public key in a file of one line.

    Raises:
        AmosError: no file, a private key, or no elliptic-curve key of a NIST curve.
    """
    try:
        text = path.read_bytes()[:10_000]
    except OSError:
        raise AmosError(f"{path}: no such public key, or it cannot be read") from None
    if b"PRIVATE KEY" in text:
        raise AmosError(
            f"{path}: is a private key, which must never leave its site",
            "have the site make another with 'amos-fl deploy enroll --replace' and send the .pub file",
        )
    try:
        key = load_ssh_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not key.curve.name.startswith("secp"):
        raise AmosError(
            f"{path}: holds no public key of a site", "it is the .pub file that 'amos-fl deploy enroll' made"
        )
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """The SHA-256 of a public key as `ssh-keygen -l` prints it."""
    return f"SHA256:{b64encode(_digest(key)).decode().rstrip('=')}"


def spoken_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """The first 128 bits of the fingerprint as eight groups of four digits from 0 to f, to be read aloud."""
    return spoken(_digest(key).hex())


def spoken(digits: str) -> str:
    """The first 32 hexadecimal digits in groups of four.

    >>> spoken("0123456789abcdef" * 4)
    '0123 4567 89ab cdef 0123 4567 89ab cdef'
    """
    return " ".join(digits[start : start + 4] for start in range(0, 32, 4))


def _digest(key: ec.EllipticCurvePublicKey) -> bytes:
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return hashlib.sha256(b64decode(line.split()[1])).digest()


def make_key(private: Path, public: Path, comment: str) -> ec.EllipticCurvePublicKey:
    """Make a key: the private half 0600, the public half beside it; return the public half."""
    key = new_key()
    write_private_key(private, key)
    write_text(public, public_line(key.public_key(), comment))
    return key.public_key()


def write_token(path: Path) -> str:
    """Make the secret token for submitting runs, and return its SHA-256, which the SuperLink keeps."""
    token = secrets.token_urlsafe(32)
    write_secret(path, token.encode() + b"\n")
    return token_hash(token)


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
