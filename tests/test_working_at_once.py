"""Two processes on one folder: one works, and the other is told who does. And processes that are told to go."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from federations import federate, hashes, resume, tiny_config

from amos_fl import stopping
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, AmosWarning, Interrupted
from amos_fl.files import remove_abandoned, unfinished_name, whole_folder
from amos_fl.locks import HOLDERS, AtWork, at_work, is_held
from amos_fl.owner import identity, is_alive
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Event, SiteWork
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import PlannedRun, create_group

HOLD = (
    "import sys, time; from pathlib import Path; from amos_fl.locks import at_work\n"
    "with at_work(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)\n"
)


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_who_comes_second_is_told_who_works_there_until_that_process_is_dead(tmp_path: Path) -> None:
    host = os.uname().nodename
    with held_by_another(tmp_path) as holder:
        told = rf"process {holder.pid} on {host} has worked here since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        with pytest.raises(AtWork, match=told), at_work(tmp_path):
            pass
        assert is_held(tmp_path)
        with at_work(tmp_path, to="report"):
            pass  # another kind of work
    holder.wait()
    assert not is_held(tmp_path)
    with at_work(tmp_path):
        assert json.loads((tmp_path / HOLDERS).read_text())["pid"] == os.getpid()
    assert not (tmp_path / HOLDERS).exists()


def test_the_whole_command_of_who_works_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/amos-fl", "simulate", "--strategy", "fedprox", "--out", "a run"])
    command = r"\(amos-fl simulate --strategy fedprox --out 'a run'\); wait for it"
    with at_work(tmp_path), pytest.raises(AtWork, match=command), at_work(tmp_path):
        pass


def test_a_run_is_not_carried_out_begun_or_grouped_by_two(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    folder = create_run(tmp_path / "run", tiny_config(), tiny_cohort)
    with held_by_another(tmp_path / "run"), pytest.raises(AtWork, match="has worked here since"):
        resume(folder.path, store)
    with held_by_another(tmp_path / "new"), pytest.raises(AtWork):
        create_run(tmp_path / "new", tiny_config(), tiny_cohort)
    with held_by_another(tmp_path / "group"), pytest.raises(AtWork):
        create_group(tmp_path / "group", "sweep", [PlannedRun("one", tiny_config(), tiny_cohort)])


def test_of_two_commands_begun_together_on_one_out_one_runs(tmp_path: Path, tiny_root: Path, store: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(tiny_config(cohort=str(tiny_root), rounds=1, local_steps=1).model_dump(mode="json")))
    command = [sys.executable, "-m", "amos_fl.cli.main", "simulate", "--config", str(file)]
    command += ["--out", str(tmp_path / "run"), "--store", str(store)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = sorted((process.communicate()[1], process.returncode) for process in both)
    assert sorted(code for _, code in ends) == [0, 2]
    [words] = [words for words, code in ends if code == 2]
    assert "has worked here since" in words or "holds a run already" in words
    assert len(RunFolder(tmp_path / "run").ledger()) == 1


def test_a_holder_on_another_machine_that_left_no_word_is_named(tmp_path: Path) -> None:
    about = {"pid": 7, "host": "node12", "since": "2026-01-02 03:04:05+00:00", "owner": "0" * 7 + "1" + "0" * 8}
    (tmp_path / HOLDERS).write_text(json.dumps(about))
    with pytest.warns(AmosWarning, match="process 7 on node12 has worked here since 2026-01-02"), at_work(tmp_path):
        pass


def test_a_run_that_was_killed_while_it_was_made_can_be_begun_anew(tmp_path: Path, tiny_cohort: Cohort) -> None:
    made = create_run(tmp_path / "run", tiny_config(), tiny_cohort)
    (made.path / "config.yaml").unlink()
    assert create_run(tmp_path / "run", tiny_config(), tiny_cohort).config().rounds == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/cohort.csv").write_bytes((made.path / "cohort.csv").read_bytes())
    with pytest.raises(AmosError, match="is not empty"):
        create_run(tmp_path / "mine", tiny_config(), tiny_cohort)


def test_what_a_dead_process_of_this_machine_left_goes_at_once_also_where_its_number_is_used_again(
    tmp_path: Path,
) -> None:
    told = "from amos_fl.files import unfinished_name; from pathlib import Path; import os\n"
    told += "print(unfinished_name(Path('x.nii.gz')), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", told], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        dead = tmp_path / process.stdout.readline().strip()
        dead.touch()
        assert remove_abandoned([dead]) == []
        process.kill()
    reused = tmp_path / dead.name.replace(f".{process.pid}-", f".{os.getpid()}-")
    elsewhere = tmp_path / dead.name.replace(identity()[:8], "0123abcd")
    mine = tmp_path / unfinished_name(Path("mine")).name
    for path in (reused, elsewhere, mine):
        path.touch()
    assert set(remove_abandoned(tmp_path.glob(".*.tmp.*"))) == {dead, reused}
    assert remove_abandoned([elsewhere, mine], locked=True) == [elsewhere]
    assert is_alive(os.getpid(), identity())


def test_a_folder_is_cleared_of_leftovers_when_something_is_written_there(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    left = tmp_path / f".{gone.pid}-{identity()}abcdef.tmp.labels"
    left.mkdir()
    with whole_folder(tmp_path / "new"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    longest = tmp_path / ("ä" * 120 + "12345678.nii.gz")
    beside = unfinished_name(longest)
    assert len(os.fsencode(longest.name)) == 255
    assert 250 < len(os.fsencode(beside.name)) <= 255
    assert beside.name.endswith(".nii.gz")


@pytest.mark.parametrize("request_", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_stops_a_run_between_two_steps_as_ctrl_c_does(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, request_: signal.Signals
) -> None:
    steps: list[SiteWork] = []

    def tell(event: Event) -> None:
        if isinstance(event, SiteWork) and event.activity == "train" and event.round == 2:
            steps.append(event)
            signal.raise_signal(request_)
            signal.raise_signal(request_)  # as `timeout` does, which tells the process and its group

    before = signal.getsignal(request_)
    with pytest.raises(Interrupted):
        federate(tmp_path / "run", tiny_cohort, store, tell, rounds=2)
    assert len(steps) == 1
    assert signal.getsignal(request_) is before
    whole = federate(tmp_path / "whole", tiny_cohort, store, rounds=2)
    assert hashes(resume(tmp_path / "run", store)) == hashes(whole)


SLOW_WORK = """
import os, time
from amos_fl.files import whole_folder

def write(folder):
    with whole_folder(folder) as beside:
        (beside / "pid").write_text(str(os.getpid()))
        time.sleep(600)
"""
SLOW_PROGRAM = """
import sys
from pathlib import Path
from slow_work import write
from amos_fl import stopping
from amos_fl.workers import each

stopping.interrupt_on_request()
try:
    list(each(write, [Path(sys.argv[1]) / name for name in "abc"], workers=2))
except KeyboardInterrupt:
    print(stopping.words(), flush=True)
    sys.exit(stopping.exit_code())
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_they_work_for(tmp_path: Path, sent: signal.Signals) -> None:
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(SLOW_PROGRAM)
    (tmp_path / "slow_work.py").write_text(SLOW_WORK)
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, str(program), str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while len(pids := [path.read_text() for path in out.rglob("pid")]) < 2 or "" in pids:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(sent)
        try:
            words, complaints = process.communicate(timeout=60)
        finally:
            process.kill()
    if sent != signal.SIGKILL:  # Python's own tracker of semaphores says that they were left
        assert complaints == ""
    deadline = time.monotonic() + 30
    while any(alive(int(pid)) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if sent == signal.SIGKILL:
        assert process.returncode == -sent
        assert len(remove_abandoned(out.glob(".*.tmp.*"))) == 2
    else:
        assert process.returncode == 128 + sent
        assert words == ("interrupted\n" if sent == signal.SIGINT else f"stopped by {sent.name}\n")
        assert list(out.iterdir()) == []


TOLD_IN_A_CALLBACK = """
import signal, sys, time, weakref
from amos_fl import stopping

class Thing:
    def __del__(self):
        signal.raise_signal(int(sys.argv[1]))

stopping.interrupt_on_request()
thing = Thing()
if sys.argv[2] == "weak reference":
    Thing.__del__ = lambda self: None
    kept = weakref.ref(thing, lambda _: signal.raise_signal(int(sys.argv[1])))
try:
    del thing
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(stopping.exit_code())
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["weak reference", "__del__"])
def test_a_request_is_heard_in_a_callback_whose_errors_python_drops(sent: signal.Signals, where: str) -> None:
    command = [sys.executable, "-c", TOLD_IN_A_CALLBACK, str(int(sent)), where]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (128 + sent, "")


ASKED_IN_A_CALLBACK = """
import signal, weakref
from amos_fl import stopping
from amos_fl.errors import Interrupted

class Thing:
    pass

def on_request(count):
    raise Interrupted("stop")

stopping.interrupt_on_request()
thing = Thing()
kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
with stopping.taking_requests(on_request):
    del thing
print(stopping.requested())
"""


def test_a_run_that_is_asked_to_stop_in_such_a_callback_says_nothing_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKED_IN_A_CALLBACK], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("engine", "sent"),
    [
        pytest.param("inline", signal.SIGTERM),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_simulate_told_to_go_while_it_prepares_leaves_no_worker_and_nothing_half_written(
    tmp_path: Path, tiny_root: Path, engine: str, sent: signal.Signals
) -> None:
    own = {"name": engine, **({"cpus_per_site": 1, "parallel_sites": 2} if engine == "ray" else {})}
    settings = tiny_config(cohort=str(tiny_root), engine=own, prepare_workers=2, local_steps=100_000)
    file, run = tmp_path / "run.yaml", tmp_path / "run"
    file.write_text(json.dumps(settings.model_dump(mode="json")))
    command = [sys.executable, "-m", "amos_fl.cli.main", "simulate", "--config", str(file)]
    command += ["--out", str(run), "--store", str(tmp_path / "store")]
    environment = {**os.environ, "AMOS_FL_TOLD_TO_GO": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while not list(run.glob("sites/*/state/process.json")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(sent)
        said, complaints = process.communicate(timeout=120)
    assert process.returncode == 128 + sent
    assert f"stopped; continue with: amos-fl simulate --resume {run}" in " ".join(said.split())
    assert complaints == f"amos-fl: stopped by {sent.name}\n"
    assert list(tmp_path.rglob(".*.tmp.*")) == []
    deadline = time.monotonic() + 30
    while started_below(str(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started_below(mark: str) -> list[str]:
    """The processes that have a command's environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"AMOS_FL_TOLD_TO_GO={mark}".encode() in environ.read_bytes() and alive(int(environ.parent.name)):
                found.append(environ.parent.name)
        except OSError:
            continue
    return found


def test_a_command_that_computes_is_told_to_go(tmp_path: Path, tiny_root: Path) -> None:
    import shutil

    from amos_fl.cohort.table import read_cohort, write_cohort

    cohort = read_cohort(tiny_root)
    many = []
    for number in range(400):
        many += [type(case)(**{**vars(case), "case": f"{case.case}x{number}"}) for case in cohort.cases]
    write_cohort(type(cohort)(tuple(many), cohort.organs), tmp_path / "cohort.csv")
    shutil.copy(tiny_root / "organs.csv", tmp_path / "organs.csv")
    command = [sys.executable, "-m", "amos_fl.cli.main", "data", "check", str(tmp_path), "--workers", "2"]
    environment = {**os.environ, "AMOS_FL_TOLD_TO_GO": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while len(started_below(str(tmp_path))) < 4:  # with Python's tracker of resources
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=60)
    assert complaints.splitlines()[-1] == "amos-fl: stopped by SIGTERM"
    assert "Traceback" not in complaints
    assert process.returncode == 143
    assert started_below(str(tmp_path)) == []


def test_a_request_is_held_until_work_that_must_not_be_left_in_the_middle_is_done() -> None:
    heard: list[int] = []
    with stopping.taking_requests(heard.append):
        with stopping.held():
            with stopping.held():
                os.kill(os.getpid(), signal.SIGINT)
            assert not heard
            os.kill(os.getpid(), signal.SIGINT)
            assert not heard
        assert heard == [1, 2]
        os.kill(os.getpid(), signal.SIGINT)
        assert heard == [1, 2, 3]


@pytest.mark.parametrize(("sent", "code", "words"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "SIGTERM")])
def test_a_command_that_is_told_to_stop_while_it_imports_says_so_in_one_line(sent: str, code: int, words: str) -> None:
    program = (
        "import os, signal, sys\n"
        "class Teller:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'typer': os.kill(os.getpid(), signal.{sent})\n"
        "from amos_fl.cli.start import main\n"
        "sys.meta_path.insert(0, Teller())\n"
        "sys.argv = ['amos-fl', 'models']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
