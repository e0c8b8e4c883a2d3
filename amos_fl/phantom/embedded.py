"""The phantom cohort that a run uses when it is given no other, written once into the user's cache."""

from collections.abc import Callable
from pathlib import Path

from amos_fl.cohort.amos22 import import_amos22
from amos_fl.cohort.table import Cohort
from amos_fl.files import sha256_of_file, sha256_of_json, whole_folder
from amos_fl.phantom.release import demo_cases, write_release


def embedded_cohort(
    cache: Path, *, seed: int = 2, workers: int = 2, on_case: Callable[[int, int, str], None] | None = None
) -> Cohort:
    """The demonstration cohort of all eight scanners at `quick` size, with the paper's splits.

    It is written as an AMOS22 release and read back by the same import as the real one.
    """
    cases = demo_cases()
    # Another version of the phantom is another cohort.
    sources = [sha256_of_file(source) for source in sorted(Path(__file__).parent.glob("*.py"))]
    name = sha256_of_json([sources, seed, cases])[:12]
    root = cache / f"phantom-quick-{name}"
    if not root.is_dir():
        with whole_folder(root) as beside:
            write_release(beside, seed=seed, size="quick", cases=cases, workers=workers, on_case=on_case)
    return import_amos22(root, protocol="paper").cohort
