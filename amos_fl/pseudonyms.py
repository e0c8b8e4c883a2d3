"""Pseudonyms: names that stay the same from run to run and that nobody can guess without a key (HMAC, RFC 2104)."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from amos_fl.errors import AmosError
from amos_fl.files import unfinished_name

_KEY_BYTES = 32


def secret_key(path: Path) -> bytes:
    """The key in a file, made on first use, readable by its owner alone.

    It comes from the system's source of secrets, because a run's seed would not be secret.

    Raises:
        AmosError: the file holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = unfinished_name(path)
    if not path.exists():
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
        try:
            os.link(beside, path)  # of two processes, the first one's key stays
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise AmosError(f"{path}: is no key for pseudonyms", "restore it from a backup; a new one gives other names")
    return key


def pseudonym(key: bytes, name: str) -> str:
    """12 hexadecimal digits that stand for a name. Without the key a guessed name cannot be verified.

    >>> pseudonym(bytes(32), "DOE^JOHN")
    '872e37219e71'
    """
    return hmac.new(key, name.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:12]
