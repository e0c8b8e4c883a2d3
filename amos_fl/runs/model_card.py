"""The card beside the chosen weights: what the network is for, and what it is not."""

from typing import TYPE_CHECKING

from amos_fl.cohort.table import Cohort
from amos_fl.escape import markdown
from amos_fl.runs.calibration import AGREEMENT_COLUMNS, CALIBRATION, FAILURE, Calibration
from amos_fl.runs.config import RunConfig
from amos_fl.runs.expected import read_measured
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.stored import read_stored
from amos_fl.runs.summary import PHANTOM_NOTE, score_table
from amos_fl.runs.wording import (
    target_in_words,
    unlearned_in_words,
    untrained_in_words,
    untrained_sites,
    work_in_words,
)

if TYPE_CHECKING:
    from amos_fl.runs.results import Results


def model_card(folder: RunFolder, config: RunConfig, cohort: Cohort, results: "Results") -> str:
    """The text of `model/MODEL_CARD.md`."""
    about = folder.about()
    plan = config.plan
    lower, upper = plan.ct_clip_hu
    spacing, patch = " x ".join(f"{s:g}" for s in plan.spacing_mm), " x ".join(map(str, plan.patch))
    labels = markdown.text(", ".join(f"{label} {organ}" for label, organ in cohort.organs.items()))
    hashes = {entry["round"]: entry["weights_sha256"] for entry in folder.entries()}
    scores = score_table(results.by_group, "group") if results.by_group else "No test case was scored."
    data = f"{PHANTOM_NOTE}\n" if folder.synthetic else ""
    chosen = results.chosen.of
    start = f"- The run {markdown.text(folder.start_sentence)}\n" if folder.start_sentence else ""
    untrained = untrained_sites(config, cohort, folder.entries())
    work = markdown.text(work_in_words(config, cohort, untrained))
    unlike = "".join(f"{markdown.text(sentence)}.\n\n" for sentence in untrained_in_words(untrained))
    channels = len(cohort.organs) + 1
    never = "".join(
        f"- {markdown.text(sentence[0].upper() + sentence[1:])}\n" for sentence in unlearned_in_words(folder, cohort)
    )
    modalities = sorted({case.modality for case in cohort.of(split="train", labelled=True)})
    normalised = {
        "CT": f"CT is clipped to [{lower:g}, {upper:g}] HU, minus {plan.ct_mean_hu:g}, over {plan.ct_sd_hu:g}",
        "MR": "MR is z-scored",
    }
    return f"""# Model card

**Not a medical device.** These weights are for research. They are not approved for diagnosis or treatment.

## Intended use

Segmentation of {target_in_words(cohort.organs)} in {" and ".join(modalities)} scans, to study
federated training and how its result carries over to other scanners.

- Output: {labels}
{never}- Network: `{config.model}`, 1 input channel, {channels} output channels: background, then the organs
- Plan {markdown.code(plan.name)}: spacing {spacing} mm, patch {patch} (x, y, z)
- {"; ".join(normalised[modality] for modality in modalities)}

## Training

{data}- {work[0].upper()}{work[1:]}
{start}- Weights: {chosen}; SHA-256 {hashes.get(results.chosen.round, "unknown")}
- Cohort: {len(cohort.cases)} cases, SHA-256 of its table {about.cohort_sha256}
- Versions: {", ".join(f"{name} {value}" for name, value in about.versions.items())}

## Scores on test cases

{unlike}{scores}
{_expected(folder)}
## Limits

Scores on scanners that took part in training say little about others: compare the rows of seen and unseen
scanners. An organ that was not annotated at a site was not learned there. Scans of other body regions, of
children, or with other contrasts than the training sites' were not tested.
"""


def _expected(folder: RunFolder) -> str:
    """What is known of the DSC to be expected without a label; empty without a calibration."""
    file = folder.path / "model" / CALIBRATION
    if not file.exists():
        return ""
    learned: Calibration = read_stored(file, Calibration, "remove it, or make it again with amos-fl calibrate")
    found = read_measured(folder)
    groups = {"validation, left out": learned.validation, **(found.groups if found else {})}
    rows = "".join(f"| {' | '.join([name, *one.cells()])} |\n" for name, one in groups.items())
    sites = markdown.text(", ".join(learned.sites))
    return f"""
## Expected DSC

`calibration.json` says what DSC to expect of an organ in a prediction without a label. It was learned on validation
cases of {sites}. Below {learned.flag_below:.2f} an organ is flagged; a failure is a DSC below {FAILURE:g}.

| cases of | {" | ".join(AGREEMENT_COLUMNS)} |
|---|---:|---:|---:|---:|---:|---:|---:|
{rows}"""
