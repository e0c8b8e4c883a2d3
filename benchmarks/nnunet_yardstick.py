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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from amos_fl.cohort.nnunet import export_nnunet
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
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished federated run")
    parser.add_argument("--out", type=Path, required=True, help="where scores.csv and about.json go")
    parser.add_argument("--nnunet", type=Path, help="the folder of nnU-Net's commands; by default those on the PATH")
    parser.add_argument("--steps", type=int, help="optimizer steps; by default those of the run's sites together")
    parser.add_argument("--batch-size", type=int, help="patches in a step; by default as nnU-Net plans")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    given = parser.parse_args()
    folder = open_run(given.run)
    config, cohort = folder.config(), folder.cohort()
    steps = given.steps or config.rounds * sum(steps_by_site(config, cohort).values())
    epochs = max(n for n in range(1, EPOCHS + 1) if steps % n == 0)
    with tempfile.TemporaryDirectory(prefix="nnunet-") as place:
        work = Path(place)
        exported = export_nnunet(cohort, work / "raw", dataset_id=DATASET, name="Cohort")
        labels = json.loads((exported.folder / "dataset.json").read_text())["labels"]
        if {organ: value for organ, value in labels.items() if value} != {o: v for v, o in cohort.organs.items()}:
            raise AmosError(f"{given.run}: nnU-Net needs label values 1, 2, 3 and so on; see: amos-fl data relabel")
        (work / "trainer").mkdir()
        (work / "trainer" / "yardstick.py").write_text(TRAINER)
        environment = {
            **os.environ,
            **{f"nnUNet_{part}": str(work / part) for part in ("raw", "preprocessed", "results")},
            "nnUNet_extTrainer": str(work / "trainer"),
            "nnUNet_compile": "0",
            "YARDSTICK_STEPS": str(steps),
            "YARDSTICK_EPOCHS": str(epochs),
            "OMP_NUM_THREADS": str(config.training.threads),
        }
        environment.pop("PYTHONPATH", None)  # of this program, and nnU-Net may have another Python

        def nnunet(command: str, *arguments: str) -> float:
            """Run one of nnU-Net's commands; the seconds that it took."""
            program = str(given.nnunet / f"nnUNetv2_{command}") if given.nnunet else f"nnUNetv2_{command}"
            started = time.perf_counter()
            try:
                subprocess.run([program, *arguments], env=environment, check=True)
            except FileNotFoundError:
                sys.exit(
                    f"{program}: not there; install nnU-Net into an environment: pip install nnunetv2 (see --help)"
                )
            except subprocess.CalledProcessError as error:
                sys.exit(f"{program} failed with exit code {error.returncode}; see above")
            return time.perf_counter() - started

        nnunet("plan_and_preprocess", "-d", str(DATASET), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
        plans = work / "preprocessed" / exported.folder.name / "nnUNetPlans.json"
        about = json.loads(plans.read_text())
        if given.batch_size:
            about["configurations"]["3d_fullres"]["batch_size"] = given.batch_size
            plans.write_text(json.dumps(about))
        batch = about["configurations"]["3d_fullres"]["batch_size"]
        which = ("-tr", "YardstickTrainer", "-device", given.device)
        seconds = nnunet("train", str(DATASET), "3d_fullres", "0", *which)
        source, found = str(exported.folder / "imagesTs"), work / "predictions"
        nnunet("predict", "-i", source, "-o", str(found), "-d", str(DATASET), "-c", "3d_fullres", "-f", "0", *which)
        pairs = pair_up(found, None, cohort, split="test").pairs
        rules = Rules(organs=cohort.organs, tolerance_mm=config.evaluation.tolerance_mm)
        cases, problems = score_pairs(pairs, rules, seen_sites=cohort.seen_sites)
    if problems:
        sys.exit(f"{problems[0].case}: {problems[0].message}")
    write_scores(given.out / "scores.csv", cases, cohort.organs)
    told = " ".join(["python benchmarks/nnunet_yardstick.py RUN --out OUT", *_options(given)])
    version = about.get("nnunet_version", "2")
    name = f"nnU-Net {version}, 3d_fullres, batches of {batch}"
    row = AboutOther(name=name, command=told, steps=steps, patches=steps * batch, seconds=seconds)
    write_json(given.out / "about.json", row.model_dump())
    for mean in mean_rows(rows_by(sums_by_case(cases, cohort.organs), cohort.organs, "group", "modality")):
        print(f"{row.name}: {mean.over} ({mean.cases} cases): DSC {number(mean.dsc)}, NSD {number(mean.nsd)}")
    print(f"{steps} steps, {steps * batch} patches, {seconds:.0f} s with validation; in {given.out}")


def _options(given: argparse.Namespace) -> list[str]:
    return [f"--{key.replace('_', '-')} {value}" for key, value in vars(given).items() if value and key in _TOLD]


_TOLD = ("steps", "batch_size", "device")

if __name__ == "__main__":
    try:
        main()
    except AmosError as error:
        sys.exit(str(error))
