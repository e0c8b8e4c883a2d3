"""Small runs that are killed at random moments and resumed: `python tests/killed_at_random.py --kills 100 --terms 20`.

Every run must end with the weights and scores of one that nobody disturbed, and no process and no unfinished file may
be left. The moments are drawn from a seed; what a process does at one depends on the machine. The commands run in
forked children of a process that has imported everything, so that most of the time is theirs. Linux, for its /proc.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

MARK = "AMOS_FL_KILLED_AT_RANDOM"
LEFT_S = 30.0
"""So long the processes of a run may outlive it: on a busy machine Ray's need some time to notice."""


@dataclass
class Findings:
    """What was done, and what was not as it should be."""

    runs: int = 0
    kills: int = 0
    terms: int = 0
    longest_left_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def start(arguments: list[str], log: Path) -> int:
    """A forked child that runs one command line; its process id. It hears no request before it takes them as it does.

    Before that, Python has not come so far as to say anything: SIGTERM ends it with the signal's own exit code.
    """
    from amos_fl import stopping
    from amos_fl.cli.main import main

    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.REQUESTS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["amos-fl", *arguments]
        stopping.interrupt_on_request()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        main()
    except KeyboardInterrupt:  # heard before the command line was looked at
        os._exit(stopping.exit_code())
    except SystemExit as leaving:
        sys.stdout.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    os._exit(1)


def waited_for(pid: int, seconds: float) -> int | None:
    """The exit code of a child (negative: a signal), or None where it still runs after so long."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def marked(mark: str, command: int) -> list[str]:
    """The processes, of whatever parent, that were started below a command with this mark and process id."""
    from amos_fl_server.federation.engines.ray_watch import processes_of

    found = []
    of_ray = processes_of(command)  # some of Ray's write over their environment
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if int(entry.name) in of_ray or f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ')[:80]!r}")
            except OSError:
                continue
    return found


def unfinished(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*.tmp.*")]


def result_of(run: Path) -> tuple[list[str], bytes]:
    from amos_fl.runs.folder import open_run

    return [entry["weights_sha256"] for entry in open_run(run).ledger()], (run / "scores.csv").read_bytes()


def command(place: Path, config: Path) -> list[str]:
    """How a user begins a run, or goes on with it."""
    run = place / "run"
    where = ["--resume", str(run)] if (run / "config.yaml").exists() else ["--config", str(config), "--out", str(run)]
    return ["simulate", *where, "--store", str(place / "store")]


def disturbed(
    place: Path,
    config: Path,
    whole: tuple[list[str], bytes],
    signals: list[int],
    moment: Callable[[], float],
    found: Findings,
) -> list[int]:
    """One run, sent these signals at moments (seconds after a start), and carried to its end; the signals left over."""
    place.mkdir()
    mark, log = place.name, place / "log.txt"
    os.environ[MARK] = mark
    start_number = 0
    while True:
        start_number += 1
        sent = signals[0] if signals else 0
        killed_left = set(unfinished(place))
        pid = start(command(place, config), log)
        code = waited_for(pid, moment() if sent else 3600.0)
        finished = code is not None
        where = f"{place.name}, start {start_number}"
        if finished:
            if code != 0:
                found.problems.append(f"{where}: exit code {code}")
        else:
            os.kill(pid, sent)
            signals = signals[1:]
            code = waited_for(pid, 120.0)
            if code is None:
                os.kill(pid, signal.SIGKILL)
                found.problems.append(f"{where}: did not stop within 120 s of signal {sent}")
                waited_for(pid, 10.0)
            wanted = (-signal.SIGKILL,) if sent == signal.SIGKILL else (128 + sent, 0)
            if code not in wanted:
                found.problems.append(f"{where}: exit code {code} after signal {sent}")
            found.kills += sent == signal.SIGKILL
            found.terms += sent != signal.SIGKILL
        ended = time.monotonic()
        while (left := marked(mark, pid)) and time.monotonic() - ended < LEFT_S:
            time.sleep(0.1)
        found.longest_left_s = max(found.longest_left_s, time.monotonic() - ended)
        if left:
            found.problems.append(f"{where}: still there: {'; '.join(left)}")
        # What an earlier one left that was killed is removed by a run that goes on, not by one stopped before.
        files = set(unfinished(place)) - (set() if finished else killed_left)
        if files and (finished or sent != signal.SIGKILL):
            found.problems.append(f"{where}: unfinished files: {', '.join(sorted(files))}")
        if finished:
            break
    if "Traceback" in log.read_text():
        found.problems.append(f"{place.name}: a traceback in log.txt")
    if not (place / "run/scores.csv").exists() or result_of(place / "run") != whole:
        found.problems.append(f"{place.name}: other weights or scores than the undisturbed run")
    return signals


def settings(root: Path, engine: str, prepare_workers: int) -> dict[str, Any]:
    from federations import tiny_config

    where = {"name": "ray", "cpus_per_site": 1, "parallel_sites": 2} if engine == "ray" else {"name": "inline"}
    config = tiny_config(
        cohort=str(root),
        rounds=3,
        local_steps=1,
        optimizer_state="keep",
        evaluation={"every": 2},
        training={"batch_size": 1, "threads": 1},
        engine=where,
        prepare_workers=prepare_workers,
    )
    return config.model_dump(mode="json")


def killed_at_random(
    place: Path, *, kills: int, terms: int, ray_share: float, per_run: int, seed: int, limit_s: float = 1e9
) -> Findings:
    """So many signals, `per_run` of them to each run, a share of the runs under Ray; none begins after `limit_s`."""
    from conftest import write_tiny_cohort

    random = np.random.default_rng(seed)
    write_tiny_cohort(place / "cohort")
    signals = [int(sent) for sent in random.permutation([signal.SIGKILL] * kills + [signal.SIGTERM] * terms)]
    found, wholes, lengths_s = Findings(), {}, {}
    begun = time.monotonic()
    while signals and time.monotonic() - begun < limit_s:
        number = found.runs
        engine = "ray" if int((number + 1) * ray_share) > int(number * ray_share) else "inline"
        workers = 2 if engine == "inline" and number % 8 == 1 else 1
        kind = f"{engine}-{workers}"
        config = place / f"{kind}.json"
        if kind not in wholes:
            config.write_text(json.dumps(settings(place / "cohort", engine, workers)))
            whole = place / f"whole-{kind}"
            whole.mkdir()
            os.environ[MARK] = whole.name
            at = time.monotonic()
            if (code := waited_for(start(command(whole, config), whole / "log.txt"), 600.0)) != 0:
                raise RuntimeError(f"{whole}: exit code {code}\n{(whole / 'log.txt').read_text()}")
            wholes[kind], lengths_s[kind] = result_of(whole / "run"), time.monotonic() - at
        mine, later = signals[:per_run], signals[per_run:]
        moment = partial(random.uniform, 0.0, 0.7 * lengths_s[kind])
        left = disturbed(
            place / f"{number:03d}-{kind}",
            config,
            wholes[kind],
            mine,
            moment,
            found,
        )
        signals = [*left, *later]
        found.runs += 1
        print(f"{kind} {time.monotonic() - begun:.0f} s: {found}", flush=True)
    if len(set(map(repr, wholes.values()))) > 1:
        found.problems.append("the undisturbed runs of the engines differ")
    return found


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--terms", type=int, default=20)
    options.add_argument("--ray-share", type=float, default=0.2)
    options.add_argument("--per-run", type=int, default=4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--limit-s", type=float, default=1e9)
    options.add_argument("--place", type=Path)
    given = options.parse_args()
    import torch  # noqa: F401 - once for all the children

    import amos_fl.cli.simulate  # noqa: F401
    import amos_fl_server.federation.simulate  # noqa: F401

    folder = given.place or Path(tempfile.mkdtemp(prefix="killed-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = killed_at_random(
        folder,
        kills=given.kills,
        terms=given.terms,
        ray_share=given.ray_share,
        per_run=given.per_run,
        seed=given.seed,
        limit_s=given.limit_s,
    )
    print(result)
    sys.exit(bool(result.problems))
