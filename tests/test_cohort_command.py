"""`amos-fl data` and how the command line speaks of errors, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fake_amos import write_release

COMMAND = [sys.executable, "-m", "amos_fl.cli.main"]


def amos_fl(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("amos") / "amos22")


def test_amos22_writes_the_cohort_and_prints_the_counts_beside_table_2(release: Path) -> None:
    done = amos_fl("data", "amos22", release.parent, "--protocol", "paper")
    assert done.returncode == 0, done.stderr
    assert (release.parent / "cohort.csv").is_file()
    row = next(line for line in done.stdout.splitlines() if "Prisma" in line and "│" in line)
    assert [word for word in row.replace("│", " ").split() if word.isdigit()] == ["33", "20", "11"] * 2
    assert "Differences from Table 2\n  - none" in done.stdout
    assert "ours: which of the 53 Prisma cases" in done.stdout


def test_held_out_sites_and_another_output_file(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "c-unseen.csv"
    done = amos_fl("data", "amos22", release, "--hold-out", "C,B", "--hold-out", "a", "--out", out)
    assert done.returncode == 0, done.stderr
    lines = out.read_text().splitlines()
    assert not [line for line in lines if line.split(",")[1] in "ABC" and line.split(",")[3] != "test"]
    assert "C: train 0, val 0, test 100" in done.stdout
    assert amos_fl("data", "amos22", release, "--out", tmp_path / "a-folder").returncode == 0
    assert [path.name for path in (tmp_path / "a-folder").iterdir()] == ["cohort.csv"]


def test_check_leaves_with_2_on_errors_and_with_0_on_warnings(tmp_path: Path) -> None:
    image = np.full((8, 8, 4), -1000.0)
    image[2:6, 2:6] = 40
    label = np.zeros((8, 8, 4), np.uint8)
    label[3:5, 3:5, 1:3] = 6
    for name, array in (("image", image), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    header = "case,site,modality,split,image,label,annotated\n"
    (tmp_path / "cohort.csv").write_text(header + "a,A,CT,train,image.nii.gz,label.nii.gz,\n")
    done = amos_fl("data", "check", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "liver of 0.008 ml (usual: 400 to 7000 ml)" in done.stdout
    assert "1 case of 1 site: 0 errors, 1 warning" in done.stdout
    (tmp_path / "label.nii.gz").unlink()
    done = amos_fl("data", "check", tmp_path / "cohort.csv")
    assert done.returncode == 2
    assert "label.nii.gz: no such file" in done.stdout
    assert "1 error, 0 warnings" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["data", "amos22", "nowhere"],
            "amos-fl: nowhere: no such folder; give the folder in which amos22.zip was unpacked",
        ),
        (["data", "amos22", ".", "--protocol", "papr"], "--protocol is 'papr': choose paper, release or public"),
        (["data", "check", "nowhere.csv"], "amos-fl: nowhere.csv: no such cohort file"),
        (["data", "phantom", "out", "--size", "huge"], "--size is 'huge': choose quick or full"),
        (["data", "phantom", "out", "--cases", "some"], "--cases some: give demo, all, or ids from 1 to 600"),
    ],
)
def test_wrong_input_is_one_plain_line_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    done = amos_fl(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data", "chek"], "no such command 'chek'; did you mean 'check'?"),
        (["dat"], "no such command 'dat'; did you mean 'data'?"),
        (["--verson"], "no such option '--verson'; did you mean '--version'?"),
        (["data", "check"], "data check needs COHORT; see amos-fl data check --help"),
        (["data", "check", "x", "--workers", "0"], "--workers is 0: must be a whole number, at least 1"),
        (["data", "check", "x", "--workers", "few"], "--workers is 'few': must be a whole number, at least 1"),
        (["predict", "x", "y"], "predict needs --out; see amos-fl predict --help"),
    ],
)
def test_wrong_usage_is_one_plain_line_too(arguments: list[str], sentence: str) -> None:
    done = amos_fl(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"amos-fl: {sentence}\n")


def test_a_full_disk_and_a_file_that_may_not_be_written_are_one_plain_line() -> None:
    program = "import errno\nfrom amos_fl.cli import main\n"
    for number, sentence in (
        ("ENOSPC", "no space is left on the disk while writing x.csv"),
        ("EACCES", "amos-fl: x.csv: permission denied"),
    ):
        fails = f"def fails(**_): raise OSError(errno.{number}, 'no', '.12-ab.tmp.x.csv')"
        code = f"{program}{fails}\nmain.app = fails\nmain.main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_version_is_told() -> None:
    done = amos_fl("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "amos-fl")


def test_help_and_version_load_no_library_for_learning() -> None:
    code = (
        "import sys\nfrom amos_fl.cli import main\nmain.run(['data', '--help'])\n"
        "print([m for m in ('torch', 'monai', 'flwr', 'ray', 'numpy', 'nibabel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
