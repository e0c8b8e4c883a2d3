"""What a SuperLink needs before it starts, of which Flower makes a traceback or says nothing."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from amos_fl.deploy.certificates import read_certificate
from amos_fl.deploy.running import is_free
from amos_fl.errors import AmosError
from amos_fl.locks import AtWork, take
from amos_fl_clients.flower.programs import options_in

_HOST, _PORT = "127.0.0.1", "8000"
_RENEW = "renew it with 'amos-fl deploy init DIR --renew-certificates'"


def check_start(arguments: Sequence[str]) -> None:
    """Check the port and the certificate among the arguments of `flower-superlink`.

    Raises:
        AmosError: the port is taken; the certificate cannot be used, has expired, or has another key.
    """
    given = options_in(arguments)
    host, port = given.get("--host", _HOST), given.get("--port", _PORT)
    if port.isdigit() and 0 < int(port) < 65536 and not is_free(int(port), host):
        raise AmosError(
            f"port {port} of this machine is taken, perhaps by another SuperLink", "end that one, or choose a --port"
        )
    if "--ssl-certfile" in given and "--ssl-keyfile" in given:
        _check_certificate(Path(given["--ssl-certfile"]).expanduser(), Path(given["--ssl-keyfile"]).expanduser())


def _check_certificate(certificate: Path, key: Path) -> None:
    ends = read_certificate(certificate).not_valid_after_utc
    if ends < datetime.now(UTC):
        raise AmosError(f"{certificate}: this certificate has expired on {ends:%Y-%m-%d}", _RENEW)
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except ssl.SSLError:
        raise AmosError(
            f"{key}: is not the key of {certificate.name}", f"restore both from one backup, or {_RENEW}"
        ) from None
    except OSError as error:
        raise AmosError(f"{key}: cannot be read ({error.strerror})", f"restore it from a backup, or {_RENEW}") from None


@contextmanager
def only_superlink(arguments: Sequence[str]) -> Iterator[None]:
    """Hold a lock beside the database while this SuperLink runs, because two would each give sites half of a run.

    Raises:
        AmosError: another SuperLink has the database, or its folder may not be written.
    """
    given = options_in(arguments).get("--database", "")
    if not given or given.startswith(":"):  # in memory
        yield
        return
    database = Path(given).expanduser()
    try:
        lock = take(database.with_name(f"{database.name}.lock"))
    except AtWork:
        raise AmosError(f"{database}: another SuperLink runs on this database", "end it first") from None
    except OSError as error:
        raise AmosError(
            f"{database}: may not be written ({error.strerror})", "give its folder to the user that runs this"
        ) from None
    try:
        yield
    finally:
        lock.release()
