"""The queue of `amos-fl annotate`: which case needs a person most, and who gets it."""

import numpy as np
import pytest
from labelling import OPEN, Desk, said

from amos_fl.annotate.ledger import Need, PreLabelled
from amos_fl.annotate.need import need_of
from amos_fl.annotate.state import project_state
from amos_fl.metrics import dsc


def blobs(*boxes: tuple[int, slice, slice, slice]) -> np.ndarray:
    label = np.zeros((40, 40, 40), np.uint8)
    for organ, *box in boxes:
        label[tuple(box)] = organ
    return label


def test_need_grows_with_disagreement_implausible_volumes_and_broken_pieces() -> None:
    organs = {1: "spleen", 2: "liver"}
    few, many = slice(2, 8), slice(10, 30)
    spleen, liver = (1, few, few, few), (2, many, many, many)
    whole = blobs(spleen, liver)
    assert need_of(whole, [whole, whole], 0.2, organs, [1, 2]) == Need(disagreement=0, implausible=0, broken=0)

    shifted = blobs((1, slice(5, 11), slice(2, 8), slice(2, 8)), liver)
    apart = need_of(whole, [whole, shifted], 0.2, organs, [1, 2])
    assert apart.disagreement == pytest.approx((1 - dsc(whole == 1, shifted == 1)) / 2)
    assert apart.reasons == ("the 2 predictions disagree: DSC 0.75 between them, least spleen 0.50, liver 1.00",)

    small = need_of(whole, [whole], 0.01, organs, [1, 2])
    assert small.implausible == 1
    assert "implausible volume: spleen of 2.16 ml (usual: 20 to 2500 ml), liver of 80 ml" in small.reasons[0]
    assert need_of(blobs(liver), [blobs(liver)], 0.2, organs, [1, 2]).reasons == ("not drawn at all: spleen",)

    torn = blobs(spleen, liver, (1, slice(34, 38), slice(34, 38), slice(34, 38)))
    broken = need_of(torn, [torn], 0.2, organs, [1, 2])
    assert broken.broken == 0.5
    assert broken.reasons == ("broken: spleen (1 loose piece, 12.8 ml)",)


def test_the_queue_begins_with_the_greatest_need_and_ties_go_by_name(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, part in ((OPEN[2], 0.5), (OPEN[0], 0.5), (OPEN[1], 0.7)):
        need = Need(disagreement=part, implausible=0, broken=0, reasons=(f"made for {case}",))
        event = project_state(desk.project).cases[case].prelabelled[1]
        desk.project.add(PreLabelled(round=1, case=case, sha256=event.sha256, need=need))
    assert [state.case for state in project_state(desk.project).queue("waiting")] == [OPEN[1], OPEN[0], OPEN[2]]
    assert desk.do("queue") == 0
    shown = capsys.readouterr().out
    assert shown.index(f"made for {OPEN[1]}") < shown.index(f"made for {OPEN[0]}") < shown.index(f"made for {OPEN[2]}")
    assert desk.do("next", "--by", "anna", "--role", "junior") == 0
    shown = capsys.readouterr().out
    assert f"{OPEN[1]}: yours now" in shown
    assert f"made for {OPEN[1]}" in shown
    assert desk.do("next", "--by", "ben", "--role", "junior", "-n", "2") == 0
    assert f"{OPEN[0]}: yours now" in capsys.readouterr().out
    assert desk.do("next", "--by", "anna", "--role", "junior") == 0
    assert f"{OPEN[1]}: already in your hands" in capsys.readouterr().out
    assert desk.do("next", "--by", "anna", "--role", "junior", "--case", OPEN[0]) == 2
    assert "ben has had it since" in said(capsys)
