"""The entry point of `amos-fl`. Its imports take half a second; a request to stop then is heeded like a later one."""

import sys

from amos_fl import stopping
from amos_fl.threads import spin_briefly


def main() -> None:
    """Run the command line; see `amos_fl.cli.main.main` for the exit codes."""
    stopping.interrupt_on_request()
    spin_briefly()
    try:
        from amos_fl.cli.main import main as command
    except KeyboardInterrupt:
        print(f"amos-fl: {stopping.words()}", file=sys.stderr)
        sys.exit(stopping.exit_code())
    command()
