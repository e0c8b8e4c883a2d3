"""Eight hospitals and a SuperLink in containers: the simulation's weights, strangers, kills, restarts, a cut."""

import time
from pathlib import Path

from eight_sites import IMAGE, SITES, Federation, docker, wait_until

HERE = Path(__file__).parent
BRIEF = ("--strategy", "fedavg", "--set", "training.threads=1", "--rounds", "2", "--local-steps", "3")
SETTINGS = (*BRIEF, "--set", "evaluation.every=2")
RUN = ("run", "--rm", "-T", "coordinator", "deploy", "run")
UNTIL_DONE_S = 1500.0


def test_the_weights_are_those_of_the_simulation_and_of_flowers_own(federation: Federation) -> None:
    printed = federation.compose(*RUN, *SETTINGS, "--out", "/runs/deployed", seconds=UNTIL_DONE_S)
    assert "Test scores by site" in printed
    federation.in_the_image("amos-fl", "simulate", *SETTINGS, "--out", "/runs/simulated", seconds=UNTIL_DONE_S)
    federation.in_the_image(
        *("python", "/tests/flower_simulation.py", "/runs/simulated", "/runs/by-flower"),
        more=("--volume", f"{HERE}:/tests:ro"),
        seconds=UNTIL_DONE_S,
    )
    hashes = federation.weights("simulated")
    assert len(hashes) == 2
    assert federation.weights("deployed") == hashes
    assert federation.weights("by-flower") == hashes
    last = "checkpoints/round_0002/weights.safetensors"
    final = (federation.run_folder("simulated") / last).read_bytes()
    assert (federation.run_folder("deployed") / last).read_bytes() == final
    assert (federation.run_folder("by-flower") / last).read_bytes() == final
    left = {path.name for path in federation.run_folder("deployed").iterdir()}
    assert {"ledger.jsonl", "scores.csv", "checkpoints", "report.html", "summary.md"} <= left
    trained = [set(entry["sites"]) for entry in federation.ledger("deployed")]
    assert trained == [set("ABCGH")] * 2
    assert not any(entry["missing"] for entry in federation.ledger("deployed"))

    # Once more, with the SuperLink and the server killed in the second round: the submit service takes the run up again
    # from its last whole round, and sites, which keep their momentum, roll theirs back.
    federation.compose(*RUN, *SETTINGS, "--out", "/runs/killed", "--detach")
    wait_until("round 1", lambda: len(federation.ledger("killed")) == 1, UNTIL_DONE_S)
    wait_until("training in round 2", lambda: any(federation.doing(s)[:2] == ("train", 2) for s in SITES), UNTIL_DONE_S)
    federation.kill("superlink")
    again = "run killed: brought up again after round 1 of 2"
    wait_until("the submit service", lambda: again in federation.log("submit"), UNTIL_DONE_S)
    printed = federation.compose(*RUN, "--resume", "/runs/killed", seconds=UNTIL_DONE_S)
    assert "Test scores by site" in printed
    assert federation.weights("killed") == hashes
    assert federation.containers()["superlink"]["RestartCount"] >= 1


def test_a_killed_hospital_is_named_and_comes_back_and_a_cut_of_a_minute_heals(federation: Federation) -> None:
    settings = (*BRIEF, "--rounds", "3", "--local-steps", "20", "--set", "evaluation.every=3")
    following = federation.start(*RUN, *settings, "--out", "/runs/disturbed")
    wait_until("training at B", lambda: federation.doing("b")[:2] == ("train", 1), UNTIL_DONE_S)
    b = federation.container("site-b")
    docker("kill", "--signal", "KILL", b)
    wait_until("the end of round 1", lambda: len(federation.ledger("disturbed")) == 1, UNTIL_DONE_S)
    docker("start", b)
    wait_until("training at C", lambda: federation.doing("c")[:2] == ("train", 2), UNTIL_DONE_S)
    c = federation.container("site-c")
    docker("network", "disconnect", federation.network("to-c"), c)
    time.sleep(60)  # the minute is the subject
    docker("network", "connect", federation.network("to-c"), c)
    printed, _ = following.communicate(timeout=UNTIL_DONE_S)
    assert following.returncode == 0, printed[-6000:]
    first, _, last = federation.ledger("disturbed")
    assert "B" not in first["sites"]
    assert list(first["missing"]) == ["B"]
    assert "site B" in printed
    assert "B" in last["sites"]
    assert not {site for entry in federation.ledger("disturbed") for site in entry["missing"]} - {"B", "C"}

    # That run did not wait for C. The cut has healed: by itself C is connected again, and trains in the next run.
    admit = ("run", "--rm", "-T", "coordinator", "deploy", "admit")
    wait_until("C", lambda: federation.compose(*admit).count("online") == len(SITES), UNTIL_DONE_S)
    federation.compose(*RUN, *SETTINGS, "--rounds", "1", "--out", "/runs/healed", seconds=UNTIL_DONE_S)
    [healed] = federation.ledger("healed")
    assert set(healed["sites"]) == set("ABCGH")
    assert not healed["missing"]


def test_who_is_not_registered_has_a_foreign_authority_or_no_tls_gets_nowhere(federation: Federation) -> None:
    federation.in_the_image("amos-fl", "deploy", "init", "/runs/foreign", "--sites", "A", "--demo-keys")
    foreign = federation.beside / "foreign/sites/site-a"
    ours = federation.site("a")
    key = "keys/for-the-demonstration-only.key"

    def tried(name: str, *options: str, settings: Path = ours, own_key: Path = ours, trusted: Path = ours) -> str:
        """What a SuperNode on the network of site A says that is started with these files; it must end by itself."""
        stranger = f"{federation.name}-{name}"
        try:
            docker(
                *("run", "--detach", "--init", "--name", stranger, "--network", federation.network("to-a")),
                *("--user", federation.user, "--read-only", "--tmpfs", "/tmp:mode=1777"),
                *(
                    "--volume",
                    f"{foreign}/state:/site/state",
                    "--volume",
                    f"{settings}:/site:ro",
                    "--volume",
                    f"{own_key / key}:/key:ro",
                ),
                *("--volume", f"{trusted / 'ca.crt'}:/ca.crt:ro", IMAGE),
                *("amos-fl-site", "supernode", "/site", "--superlink", "superlink:8000", "--max-retries", "1"),
                *("--auth-supernode-private-key", "/key", *options),
            )
            assert docker("wait", stranger, seconds=300) != "0", name
            return docker("logs", stranger)
        finally:
            docker("rm", "--force", stranger, check=False)

    unregistered = tried("unregistered", "--root-certificates", "/ca.crt", own_key=foreign)
    assert "the SuperLink at superlink:8000 does not know this key" in unregistered
    assert "No SuperNode found with the given public key" in federation.log("superlink", 400)
    untrusted = tried("foreign", "--root-certificates", "/ca.crt", trusted=foreign)
    assert "the SuperLink at superlink:8000 is not trusted" in untrusted
    plain = tried("plain", "--insecure")
    assert "TLS is not enabled" in plain

    # The same in plain words, from the hospital's side.
    said = docker(
        *("run", "--rm", "--network", federation.network("to-a"), "--user", federation.user, "--read-only"),
        *("--tmpfs", "/tmp:mode=1777", "--volume", f"{foreign}:/site:ro", "--env", "COLUMNS=300", IMAGE),
        *("amos-fl", "deploy", "check", "/site"),
        check=False,
    )
    assert "the SuperLink's certificate was not signed by the authority in ca.crt" in said
    # And nobody of all of them was taken in.
    status = federation.compose("run", "--rm", "-T", "coordinator", "deploy", "admit")
    assert status.count("online") == len(SITES)
