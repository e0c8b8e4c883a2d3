"""Errors with one plain sentence that names the file, site or setting, what is wrong, and the remedy."""

import errno
from collections.abc import Sequence
from typing import Literal

Code = Literal[
    "bad-input",  # whatever has no code of its own
    "bad-reply",
    "disk-full",
    "diverged",
    "failed",  # a fault in a program
    "file-unreadable",
    "no-test-labels",
    "not-connected",
    "out-of-memory",
    "paused",
    "process-died",
    "refused",
    "timed-out",
    "unknown-label-value",
]
"""Error codes for programs: sentences are for people, and may be reworded at any time."""

_NAMED = 5
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because a disk, a quota or a file size limit is exhausted."""
    return isinstance(error, OSError) and error.errno in _FULL


class AmosError(Exception):
    """Bad input or settings: the command line prints the sentence and exits with code 2.

    The sentence consists of `what` is wrong and, if given separately, the `remedy`. Programs that treat one kind of
    error specially check its `code`.

    >>> error = AmosError("a.nii: cannot be read", "check its permissions")
    >>> str(error), error.remedy, error.code
    ('a.nii: cannot be read; check its permissions', 'check its permissions', 'bad-input')
    """

    exit_code = 2
    code: Code = "bad-input"

    def __init__(self, what: str = "", remedy: str = "", *, code: Code | None = None) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what, self.remedy = what, remedy
        if code is not None:
            self.code = code

    def of(self, subject: str) -> "AmosError":
        """The same error, prefixed with `subject`."""
        return AmosError(f"{subject}: {self.what}", self.remedy, code=self.code)


def code_of(error: BaseException) -> Code:
    """The code of any error.

    >>> code_of(OSError(errno.ENOSPC, "No space left on device")), code_of(KeyError("a"))
    ('disk-full', 'failed')
    """
    if isinstance(error, AmosError):
        return error.code
    if is_disk_full(error):
        return "disk-full"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own is no MemoryError
        return "out-of-memory"
    return "file-unreadable" if isinstance(error, OSError) else "failed"


def already_exists(path: object, remedy: str) -> AmosError:
    """What would be written is there already, and nothing is overwritten.

    >>> print(already_exists("a.yaml", "name another file"))
    a.yaml: already exists; name another file
    """
    return AmosError(f"{path}: already exists", remedy)


class DiskFull(AmosError):  # noqa: N818 - named after what happened
    """The disk of prepared scans is full, so the next scan would fail too."""

    code: Code = "disk-full"


def all_of(errors: Sequence[AmosError], total: int, noun: str) -> AmosError:
    """Combine the errors of some of `total` things into one; a single error stays as it is.

    >>> print(all_of([AmosError("a.nii: is empty"), AmosError("b.nii: is truncated")], 9, "case"))
    2 of 9 cases cannot be used: a.nii: is empty; b.nii: is truncated
    """
    if len(errors) == 1:
        return errors[0]
    more = f"; and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
    named = "; ".join(str(error) for error in errors[:_NAMED])
    return AmosError(f"{len(errors)} of {total} {noun}s cannot be used: {named}{more}")


class RunStopped(AmosError):  # noqa: N818 - named after what happened
    """A run that could not continue (too few sites answered); its last checkpoint remains. Exit code 3."""

    exit_code = 3


class Interrupted(Exception):  # noqa: N818 - a request that was granted, not an error
    """The user asked to stop (Ctrl-C) and the work stopped between two steps."""


class TrainingDiverged(AmosError):  # noqa: N818 - named after what happened
    """The loss is not finite; the site's update is withheld."""

    code: Code = "diverged"


class SiteTimeout(AmosError):  # noqa: N818 - named after what happened
    """A site used more than its time for one round."""

    code: Code = "timed-out"


class AmosWarning(UserWarning):
    """Something a user should know that does not stop the work."""
