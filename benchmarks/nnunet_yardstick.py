"""nnU-Net 2 on the cases of a federated run, for as many optimizer steps: a yardstick for the run's scores.

    python -m venv ~/nnunet && ~/nnunet/bin/pip install nnunetv2      # an environment of its own, with its own torch
    python benchmarks/nnunet_yardstick.py RUN --out FOLDER --nnunet ~/nnunet/bin

The run's training and validation cases are pooled and planned by nnU-Net (3d_fullres), trained on with its own recipe,
and its test cases are predicted and scored as the run's were. Its steps are those of all the run's sites together.
`--batch-size` replaces that of nnU-Net's plan, so that it sees as many patches as the sites did. With OUT below an
experiment, as in runs/experiments/full/hippocampus/others/nnunet, the page of results shows it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from amos_fl.cohort.nnunet import export_nnunet
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.experiments.others import AboutOther
from amos_fl.files import write_json
from amos_fl.metrics.folders import Rules, score_pairs
from amos_fl.metrics.pairs import pair_up
from amos_fl.metrics.rows import mean_rows, rows_by, sums_by_case, write_scores
from amos_fl.runs.folder import open_run
from amos_fl.runs.summary import number
from amos_fl.runs.work import steps_by_site

DATASET, EPOCHS = 701, 20
TRAINER = '''
import os

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class YardstickTrainer(nnUNetTrainer):
    """nnU-Net's own trainer, its schedule on a given number of steps."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["YARDSTICK_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["YARDSTICK_STEPS"]) // self.num_epochs
        self.num_val_iterations_per_epoch = 1
        self.save_every = 10**6

    def perform_actual_validation(self, save_probabilities=False):
        """Left out: the test cases alone are scored."""
'''


@dataclass(frozen=True)
class NnUNet:
    """nnU-Net's commands, with its folders below `work`, trained for `steps` optimizer steps."""

    programs: Path
    work: Path
    steps: int

    @classmethod
    def found(cls, programs: Path | None, work: Path, steps: int) -> "NnUNet":
        train = shutil.which("nnUNetv2_train", path=str(programs) if programs else None)
        if train is None:
            where = programs or "the PATH"
            sys.exit(f"nnUNetv2_train is not in {where}; install nnU-Net into an environment of its own (see --help)")
        (work / "trainer").mkdir(parents=True)
        (work / "trainer" / "yardstick.py").write_text(TRAINER)
        return cls(Path(train).parent, work, steps)

    @property
    def version(self) -> str:
        ask = "from importlib.metadata import version; print(version('nnunetv2'))"
        return subprocess.run(
            [self.programs / "python", "-c", ask], env=self._environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    def run(self, command: str, *arguments: str) -> float:
        """Run one of its commands; the seconds that it took."""
        started = time.perf_counter()
        done = subprocess.run([self.programs / f"nnUNetv2_{command}", *arguments], env=self._environment, check=False)
        if done.returncode:
            sys.exit(f"nnUNetv2_{command} failed with exit code {done.returncode}; see above")
        return time.perf_counter() - started

    @property
    def _environment(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # it may have another Python
        return {
            **ours,
            **{f"nnUNet_{part}": str(self.work / part) for part in ("raw", "preprocessed", "results")},
            **dict.fromkeys(("nnUNet_n_proc_DA", "nnUNet_def_n_proc"), "2"),
            "nnUNet_extTrainer": str(self.work / "trainer"),
            "nnUNet_compile": "0",
            "YARDSTICK_STEPS": str(self.steps),
            "YARDSTICK_EPOCHS": str(max(n for n in range(1, EPOCHS + 1) if self.steps % n == 0)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished federated run")
    parser.add_argument("--out", type=Path, required=True, help="where scores.csv and about.json go")
    parser.add_argument("--nnunet", type=Path, help="the folder of nnU-Net's commands; by default those on the PATH")
    parser.add_argument("--steps", type=int, help="optimizer steps; by default those of the run's sites together")
    parser.add_argument("--batch-size", type=int, help="patches in a step; by default as nnU-Net plans")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    if len(sys.argv) == 1:  # as `make bench` calls it, which has no run to measure
        parser.print_help()
        return
    given = parser.parse_args()
    folder = open_run(given.run)
    config, cohort = folder.config(), folder.cohort()
    steps = given.steps or config.rounds * sum(steps_by_site(config, cohort).values())
    with tempfile.TemporaryDirectory(prefix="nnunet-") as place:
        nnunet = NnUNet.found(given.nnunet, Path(place), steps)
        batch, seconds, predictions = _trained(nnunet, cohort, given)
        rules = Rules(organs=cohort.organs, tolerance_mm=config.evaluation.tolerance_mm)
        pairs = pair_up(predictions, None, cohort, split="test").pairs
        cases, problems = score_pairs(pairs, rules, seen_sites=cohort.seen_sites)
    if problems:
        sys.exit(f"{problems[0].case}: {problems[0].message}")
    write_scores(given.out / "scores.csv", cases, cohort.organs)
    options = [f"--{key.replace('_', '-')} {vars(given)[key]}" for key in ("steps", "batch_size") if vars(given)[key]]
    row = AboutOther(
        name=f"nnU-Net {nnunet.version}, 3d_fullres, batches of {batch}, {given.device}",
        command=" ".join(["python benchmarks/nnunet_yardstick.py RUN --out FOLDER", *options]),
        steps=steps,
        patches=steps * batch,
        seconds=seconds,
    )
    write_json(given.out / "about.json", row.model_dump())
    for mean in mean_rows(rows_by(sums_by_case(cases, cohort.organs), cohort.organs, "group", "modality")):
        print(f"{row.name}: {mean.over} ({mean.cases} cases): DSC {number(mean.dsc)}, NSD {number(mean.nsd)}")
    print(f"{row.steps} steps, {row.patches} patches, {row.seconds:.0f} s of training; in {given.out}")


def _trained(nnunet: NnUNet, cohort: Cohort, given: argparse.Namespace) -> tuple[int, float, Path]:
    """Train on a cohort's cases and predict its test cases: patches in a step, seconds of training, predictions."""
    exported = export_nnunet(cohort, nnunet.work / "raw", dataset_id=DATASET, name="Cohort")
    labels = json.loads((exported.folder / "dataset.json").read_text())["labels"]
    if {organ: value for organ, value in labels.items() if value} != {o: v for v, o in cohort.organs.items()}:
        raise AmosError(f"{given.run}: nnU-Net needs label values 1, 2, 3 and so on; see: amos-fl data relabel")
    nnunet.run("plan_and_preprocess", "-d", str(DATASET), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
    plans = nnunet.work / "preprocessed" / exported.folder.name / "nnUNetPlans.json"
    about = json.loads(plans.read_text())
    settings = about["configurations"]["3d_fullres"]
    settings["batch_size"] = given.batch_size or settings["batch_size"]
    plans.write_text(json.dumps(about))
    which = ("-tr", "YardstickTrainer", "-device", given.device)
    seconds = nnunet.run("train", str(DATASET), "3d_fullres", "0", *which)
    found = nnunet.work / "predictions"
    where = ("-i", str(exported.folder / "imagesTs"), "-o", str(found), "-d", str(DATASET))
    nnunet.run("predict", *where, "-c", "3d_fullres", "-f", "0", "-npp", "1", "-nps", "1", *which)
    return settings["batch_size"], seconds, found


if __name__ == "__main__":
    try:
        main()
    except AmosError as error:
        sys.exit(str(error))
