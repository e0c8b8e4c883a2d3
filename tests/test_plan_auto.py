"""A federation that makes its plan from its sites' fingerprints, without moving a scan."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from federations import federate, hashes, resume
from hospitals import hospital, json_of
from test_site_policy import federate_with

from amos_fl.api.settings import resolve_run
from amos_fl.cli.main import run
from amos_fl.cli.settings import layers_of
from amos_fl.cohort.amos22 import import_amos22
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.phantom.release import write_release
from amos_fl.planning.fingerprint import Fingerprint
from amos_fl.planning.measure import fingerprint_of_cases, measured_cases
from amos_fl.planning.planner import plan_from
from amos_fl.planning.settings import PlanningSettings
from amos_fl.runs.config import resolve
from amos_fl.runs.events import Event, RoundFinished, Said, SiteWork
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.layers import Layer
from amos_fl_clients.federation.error_replies import ReplyWithheld
from amos_fl_clients.federation.messages import FINGERPRINT
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.replies import check_reply

AUTO = {"plan": "auto", "planning": {"memory_gb": 0.05}, "rounds": 2, "local_steps": 1}


def sent(folder: RunFolder) -> Fingerprint:
    return Fingerprint.model_validate(json.loads((folder.path / "fingerprint.json").read_text())["fingerprint"])


def pooled(cohort: Cohort) -> Fingerprint:
    return fingerprint_of_cases(measured_cases(cohort), cohort.organs)


def asked(folder: RunFolder, site: str) -> list[str]:
    log = (folder.site(site) / "state" / "audit.log").read_text()
    return [word.partition("=")[2] for line in log.splitlines() for word in line.split() if word.startswith("asked=")]


@pytest.fixture(scope="module")
def eight_scanners(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """One phantom scan of each of the eight scanners, each of them to train on."""
    root = tmp_path_factory.mktemp("phantom") / "release"
    write_release(root, seed=5, cases=[2, 1, 202, 209, 236, 501, 507, 553])
    cohort = import_amos22(root, protocol="paper").cohort
    return replace(cohort, cases=tuple(replace(case, split="train") for case in cohort.cases))


def test_the_federated_fingerprint_of_eight_phantom_sites_is_the_pooled_one(
    tmp_path: Path, eight_scanners: Cohort, store: Path
) -> None:
    assert eight_scanners.sites == tuple("ABCDEFGH")
    folder = federate(
        tmp_path / "run", eight_scanners, store, plan="auto", planning={"memory_gb": 0.02}, rounds=1, local_steps=0
    )
    assert sent(folder) == pooled(eight_scanners)
    settings = PlanningSettings(auto=True, memory_gb=0.02)
    assert folder.config().plan == plan_from(pooled(eight_scanners), 15, settings, name="auto")
    assert sent(folder).MR.intensity.total == 0


def test_the_plan_is_in_the_run_folder_and_only_who_trains_was_asked(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    said: list[Event] = []
    folder = federate(tmp_path / "run", tiny_cohort, store, said.append, **AUTO)
    config = folder.config()
    assert config.plan.name == "auto"
    assert config.plan.spacing_mm == (8, 8, 8)
    assert not config.lacks_plan
    assert sent(folder) == pooled(tiny_cohort)
    assert [FINGERPRINT in asked(folder, site) for site in "ABDG"] == [True, True, False, True]
    # Nobody prepares a case before there is a plan, and everybody does afterwards.
    assert asked(folder, "D")[:2] == ["query.describe", "query.describe"]
    plan_said = next(i for i, e in enumerate(said) if isinstance(e, Said) and "24x24x20 voxels of 8x8x8 mm" in e.text)
    prepared = [i for i, e in enumerate(said) if isinstance(e, SiteWork) and e.activity == "prepare"]
    assert min(prepared) > plan_said
    assert "plan was made from the fingerprints of A, B, G" in (folder.path / "summary.md").read_text()


def test_a_run_that_made_its_plan_gives_the_weights_of_one_that_was_given_it(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    made = federate(tmp_path / "made", tiny_cohort, store, **AUTO)
    plan = made.config().plan.model_dump(mode="json")
    given = federate(tmp_path / "given", tiny_cohort, store, **{**AUTO, "plan": plan, "planning": {}})
    assert hashes(made) == hashes(given)
    assert made.run_id != given.run_id


def test_a_resumed_run_keeps_its_plan_and_asks_nobody_again(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    whole = federate(tmp_path / "whole", tiny_cohort, store, **AUTO)

    def stop(event: Event) -> None:
        if isinstance(event, RoundFinished):
            raise Interrupted("stopped by the test")

    with pytest.raises(Interrupted):
        federate(tmp_path / "run", tiny_cohort, store, stop, **AUTO)
    count = asked(RunFolder(tmp_path / "run"), "A").count(FINGERPRINT)
    folder = resume(tmp_path / "run", store)
    assert hashes(folder) == hashes(whole)
    assert count == asked(folder, "A").count(FINGERPRINT) == 1


def test_a_site_that_refuses_is_named_and_left_out_of_the_plan_and_trains_all_the_same(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    policy = {"A": {"share_histograms": False}}
    folder = federate_with(tmp_path / "run", tiny_cohort, store, policy, **AUTO)
    about = json.loads((folder.path / "fingerprint.json").read_text())
    assert about["left_out"] == {"A": "refused by site A: it does not share histograms of its scans"}
    assert about["sites"] == ["B", "G"]
    assert sent(folder) == pooled(tiny_cohort.only(["B", "G"]))
    assert sorted(folder.ledger()[0]["sites"]) == ["A", "B", "G"]


def test_where_every_site_refuses_there_is_no_plan(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    policy = {site: {"share_histograms": False} for site in "ABG"}
    with pytest.raises(AmosError, match=r"plan auto: no training site has sent its fingerprint \(A: refused by site A"):
        federate_with(tmp_path / "run", tiny_cohort, store, policy, **AUTO)


def test_a_hospital_shares_no_histogram_unless_it_says_so(tmp_path: Path, tiny_cohort: Cohort) -> None:
    with pytest.raises(Refusal, match=r"^refused by site A: it does not share histograms of its scans$"):
        hospital(tmp_path / "a", tiny_cohort).ask(FINGERPRINT)
    site = hospital(tmp_path / "b", tiny_cohort, share_histograms=True)
    found = Fingerprint.model_validate(json_of(site.ask(FINGERPRINT), "fingerprint"))
    assert found == pooled(tiny_cohort.only(["A"])).withholding(3)
    assert found.withheld
    assert "asked=query.fingerprint answer=sent records=metrics,site" in site.audit[-1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: f["CT"]["intensity"]["counts"].update({"7": 2}), "fewer than the site tells"),
        (lambda f: f["CT"]["intensity"]["counts"].update({"a_train_0": 9}), "a bin that is no number"),
        (lambda f: f["CT"].update(case="a_train_0"), "a value that is not on the list"),
        (lambda f: f["MR"]["intensity"]["counts"].update({"7": 9}), "intensities of MR"),
        (lambda f: f.update(patient=1), "a group that is no modality"),
    ],
)
def test_a_fingerprint_that_says_more_than_it_may_is_withheld(
    tmp_path: Path, tiny_cohort: Cohort, change: object, why: str
) -> None:
    site = hospital(tmp_path, tiny_cohort, share_histograms=True)
    reply = site.ask(FINGERPRINT)
    check_reply(reply, site.settings, organs=tiny_cohort.organs, form=None)
    record = reply.content.config_records["site"]
    fingerprint = json.loads(str(record["fingerprint"]))
    change(fingerprint)  # pyright: ignore[reportCallIssue]
    record["fingerprint"] = json.dumps(fingerprint)
    with pytest.raises(ReplyWithheld, match=r"its reply was withheld: .*fingerprint"):
        check_reply(reply, site.settings, organs=tiny_cohort.organs, form=None)


@pytest.mark.slow  # Ray takes about ten seconds to start
def test_ray_makes_the_plan_of_the_inline_engine(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    ray = {"name": "ray", "cpus_per_site": 1, "parallel_sites": 2}
    inline = federate(tmp_path / "inline", tiny_cohort, store, **AUTO)
    other = federate(tmp_path / "ray", tiny_cohort, store, engine=ray, **AUTO)
    assert other.config().plan == inline.config().plan
    assert hashes(other) == hashes(inline)


# --- the command ----------------------------------------------------------------------------------


def test_the_written_plan_is_taken_by_plan_config_and_set(
    tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    store = ["--store", str(tmp_path / "store")]
    assert run(["plan", str(tiny_root), "-o", str(file), "--memory-gb", "0.05", "--workers", "1", *store]) == 0
    shown = capsys.readouterr().out
    assert "24 x 24 x 20" in shown
    written = yaml.safe_load(file.read_text())["plan"]
    cohort = Layer("a test", {"cohort": str(tiny_root)})
    for given in (
        layers_of(None, {"plan": str(file)}, None),
        layers_of(file, {}, None),
        layers_of(None, {}, [f"plan={file}"]),
    ):
        assert resolve_run([cohort, *given])[0].plan.model_dump(mode="json") == written
    assert run(["simulate", "--cohort", str(tiny_root), "--dry-run", "--plan", "auto", *store]) == 0
    settings = yaml.safe_load(capsys.readouterr().out.partition("Labelled cases")[0])
    assert settings["plan"]["name"] == "auto"
    assert settings["planning"]["auto"] is True


def test_by_site_the_sum_is_compared_with_the_pooled_cases_and_withholding_is_bounded(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", str(tiny_root), "--workers", "1", "--store", str(tmp_path)]
    assert run([*command, "--by-site"]) == 0
    assert "The sum of the 3 sites' fingerprints equals the fingerprint of the pooled cases." in capsys.readouterr().out
    assert run([*command, "--by-site", "--withhold", "2", "--splits", "train,val,test"]) == 0
    shown = capsys.readouterr().out
    assert "With counts withheld" in shown
    assert "sent ±" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["simulate", "--plan", "nowhere.yaml"],
            "nowhere.yaml: no such plan file; write one with 'amos-fl plan COHORT",
        ),
        (["simulate", "--plan", "amos-pet"], "no plan 'amos-pet'; there are coarse, amos-ct, amos-mr, auto"),
        (["plan", ".", "--splits", "tset"], "no such cohort file"),
    ],
)
def test_a_plan_that_is_none_is_said_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_damaged_plan_file_names_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("plan:\n  spacing_mm: [1, 1]\n  patch: [16, 16, 16]\n")
    with pytest.raises(AmosError, match=rf"{file}: spacing_mm"):
        resolve([Layer("command line", {"plan": str(file)})])


def test_a_later_plan_takes_the_place_of_one_that_was_to_be_made() -> None:
    auto = Layer("a file", {"plan": "auto", "planning": {"memory_gb": 4}})
    named = Layer("command line", {"plan": "amos-ct"})
    assert resolve([auto]).lacks_plan
    assert not resolve([auto, named]).lacks_plan
    assert resolve([auto, named]).plan.name == "amos-ct"
    assert resolve([named, auto]).lacks_plan
    assert resolve([named]).science() == resolve([auto, named]).science()
    assert resolve([auto]).science()["planning"]["memory_gb"] == 4
