"""Pictures of an experiment: the same slices of unseen patients, as the networks of its steps see them.

They are drawn from predictions that runs keep (`evaluation.predictions`). The plane is chosen by the reference alone,
and the patients by their place among the site's scores under the first network, so that no picture is picked by eye.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from amos_fl.cohort.reference import label_of
from amos_fl.cohort.table import Case
from amos_fl.escape import markdown
from amos_fl.experiments.preset import Pictures, Preset
from amos_fl.experiments.workspace import Workspace
from amos_fl.metrics.rows import rows_by_case, sums_by_case
from amos_fl.metrics.table import organs_of_scores, read_scores
from amos_fl.pictures.planes import planes_of
from amos_fl.pictures.preview import row_of, write_preview
from amos_fl.runs.folder import RunFolder
from amos_fl.volumes.nifti import read_image, read_label, reconcile

QUARTILES = {1: (0.5,), 2: (0.25, 0.75), 3: (0.25, 0.5, 0.75)}
HEIGHT = 220
"""Of a slice, in pixels."""


def write_pictures(preset: Preset, workspace: Workspace, beside: Path) -> list[str]:
    """Draw an experiment's pictures into the folder `beside`; returns Markdown that shows them.

    Pictures of which a step is not done, or kept no predictions, are left out.

    Raises:
        AmosError: a scan or a prediction cannot be read.
    """
    works, parts = workspace.works(preset.name), []
    for number, wanted in enumerate(preset.pictures, start=1):
        steps = {title: works[step] for title, step in wanted.steps.items() if step in works}
        if len(steps) < len(wanted.steps) or not all(workspace.done(work) for work in steps.values()):
            continue
        runs = {title: RunFolder(workspace.root / work.folder) for title, work in steps.items()}
        for case in _cases(wanted, next(iter(runs.values()))):
            kept = {title: run.path / "predictions" / case.site / f"{case.case}.nii.gz" for title, run in runs.items()}
            if not all(file.is_file() for file in kept.values()):
                continue
            name = f"{number}-{case.site}-{case.case}.png"
            write_preview(beside / name, _row(case, kept))
            shown = f"{case.case} of {case.site}: the scan, the reference, and {', '.join(runs)}"
            parts.append(f"![{markdown.text(shown)}]({beside.name}/{name})\n")
        if parts:
            shown = f"From left to right: the scan, the reference, {', '.join(runs)}."
            parts.append(f"{markdown.text(f'{wanted.title} {shown}')}\n")
    return parts


def _cases(wanted: Pictures, first: RunFolder) -> list[Case]:
    """The site's test cases nearest to the quartiles of their mean DSC under a run."""
    file = first.path / "scores.csv"
    scores = [case for case in read_scores(file) if case.site == wanted.site]
    means = {row.case: row.dsc for row in rows_by_case(sums_by_case(scores, organs_of_scores(file)))}
    ranked = sorted(means, key=lambda name: (means[name], name))
    named = {ranked[round(share * (len(ranked) - 1))] for share in QUARTILES[wanted.cases]} if ranked else set()
    cases = [case for case in first.cohort().of(site=wanted.site, split="test") if case.case in named]
    return sorted(cases, key=lambda case: means[case.case])


def _row(case: Case, predictions: Mapping[str, Path]) -> Image.Image:
    """One axial slice: the scan, the reference, and every prediction, outlined and named."""
    image = read_image(case.image)
    assert case.label is not None, "a test case that was scored has a reference"
    reference = reconcile(image, label_of(case, case.annotated), case.label.name).array
    maps = {
        "reference": reference,
        **{t: reconcile(image, read_label(f, range(256)), f.name).array for t, f in predictions.items()},
    }
    values = np.arange(256, dtype=np.uint8)
    values[~np.isin(values, case.annotated)] = 0
    planes = {
        title: planes_of(image, reference, values[array.astype(np.uint8)], case.modality, chosen_by=reference)[0]
        for title, array in maps.items()
    }
    return row_of(f"{case.case}, {case.site}", planes, HEIGHT)
