"""The models of replies: what an honest site can find out passes both checks, and nothing else ends in a traceback."""

import json
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from amos_fl.invalid import what_is_wrong
from amos_fl.metrics.scores import OrganScore, Scores, reported_organs
from amos_fl.metrics.table import scores_to_json
from amos_fl.planning.fingerprint import fingerprint_of_grid, merged
from amos_fl.planning.histogram import Histogram
from amos_fl.runs.evaluation import MOST_CASES, Evaluation, SumsOfSite
from amos_fl.strict_json import MOST_DEPTH, parsed
from amos_fl_clients.federation.error_replies import ReplyWithheld
from amos_fl_clients.federation.messages import DESCRIBE, FINGERPRINT, METRICS, SITE
from amos_fl_clients.federation.replies import check_reply
from amos_fl_clients.federation.reply_models import MODELS, Asked, BadReply, Description, claimed_site, read_reply
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_server.federation.engines.inline import InlineGrid

ORGANS = {1: "ball", 2: "box", 7: "=organ"}
MODALITIES = ("CT", "MR")
NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
InlineGrid(lambda message, context: message, ["A"])  # sets Flower's identity of this process


def answer(kind: str, numbers: dict[str, Any], texts: dict[str, Any]) -> Message:
    values = {key: value if key == "site" else json.dumps(value) for key, value in texts.items()}
    content = RecordDict({METRICS: MetricRecord(numbers), SITE: ConfigRecord(values)})
    return Message(content, reply_to=Message(RecordDict(), 1, kind))


def at_the_site(folder: Any = ".") -> SiteSettings:
    shares = {"share_case_scores": "named", "share_histograms": True, "withhold_counts_below": 1}
    return SiteSettings.model_validate({"site": "A", "cohort": "c", "store": "s", "state": "t", **shares})


@st.composite
def organ_scores(draw: st.DrawFn) -> OrganScore:
    """What `score_case` can return for an organ."""
    share, ml = st.floats(0, 1), st.floats(1e-6, 5000)
    match draw(st.sampled_from(["scored", "missed", "hallucinated", "absent"])):
        case "scored":
            hd95 = draw(st.floats(0, 500) | st.just(math.nan))
            return OrganScore(draw(share), draw(share), "scored", draw(ml), draw(ml), hd95)
        case "missed":
            return OrganScore(0.0, 0.0, "missed", draw(ml), 0.0)
        case "hallucinated":
            return OrganScore(0.0, 0.0, "hallucinated", 0.0, draw(ml))
        case _:
            return OrganScore(math.nan, math.nan, "absent", 0.0, 0.0)


@st.composite
def scored_cases(draw: st.DrawFn) -> dict[str, tuple[str, dict[int, OrganScore]]]:
    scores = st.dictionaries(st.sampled_from(sorted(ORGANS)), organ_scores())
    return draw(st.dictionaries(NAMES, st.tuples(st.sampled_from(MODALITIES), scores), max_size=4))


def evaluation_of(cases: dict[str, tuple[str, dict[int, OrganScore]]], shared: bool) -> tuple[Message, Asked]:
    """A reply made as a site makes it, and what is known of the site."""
    sums = Scores()
    for modality, scores in cases.values():
        sums.add({o: s for o, s in scores.items() if o in reported_organs(ORGANS, modality)})
    modalities = sorted({modality for modality, _ in cases.values()})
    told = [{"case": n, "modality": m, "scores": scores_to_json(s)} for n, (m, s) in cases.items()] if shared else []
    texts = {"site": "A", "scores": sums.to_dict(), "modalities": modalities, "cases": told}
    described = Description.model_validate(
        {
            "site": "A",
            "modalities": list(MODALITIES),
            "cases": {"train": 1, "val": 0, "test": len(cases)},
            "annotated": sorted(ORGANS),
        }
    )
    asked = Asked(ORGANS, site="A", described=described, split="test")
    return answer("evaluate", {"num-examples": len(cases), "seconds": 1.5}, texts), asked


@given(cases=scored_cases(), shared=st.booleans())
def test_whatever_cases_score_the_sites_answer_passes_both_checks(
    cases: dict[str, tuple[str, dict[int, OrganScore]]], shared: bool
) -> None:
    reply, asked = evaluation_of(cases, shared)
    check_reply(reply, at_the_site(), organs=ORGANS, form=None)
    found = read_reply(reply, cast(Any, MODELS["evaluate"]), asked)
    told = found.model_dump(include={"modalities", "scores", "cases"})
    texts = reply.content.config_records[SITE]
    assert told == {key: json.loads(str(texts[key])) for key in told}
    site = {"seen": True, "split": "test", "seconds": 1.5, **told}
    kept = {"round": 3, "sites": {"A": site}, "missing": {"B": "gone"}}
    assert Evaluation.model_validate(json.loads(json.dumps(kept))).round == 3


@given(
    grids=st.lists(
        st.tuples(
            st.sampled_from(MODALITIES),
            st.tuples(*[st.integers(4, 320)] * 3),
            st.tuples(*[st.floats(0.3, 12)] * 3),
            st.lists(st.integers(-2048, 4095), max_size=9),
        ),
        min_size=1,
        max_size=6,
    ),
    below=st.integers(1, 3),
)
def test_whatever_grids_scans_have_the_fingerprint_passes_both_checks(grids: list[Any], below: int) -> None:
    found = merged(
        fingerprint_of_grid(m, shape, mm, Histogram.of(hu) if m == "CT" and hu else None) for m, shape, mm, hu in grids
    )
    told = found.withholding(below)
    reply = answer(FINGERPRINT, {}, {"site": "A", "fingerprint": told.model_dump(mode="json")})
    site = at_the_site().model_copy(update={"withhold_counts_below": below})
    check_reply(reply, site, organs=ORGANS, form=None)
    described = Description.model_validate(
        {
            "site": "A",
            "modalities": sorted({grid[0] for grid in grids}),
            "cases": {"train": len(grids), "val": 0, "test": 0},
            "annotated": [1],
        }
    )
    asked = Asked(ORGANS, site="A", described=described)
    assert read_reply(reply, cast(Any, MODELS[FINGERPRINT]), asked).told == told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HONEST = {
    DESCRIBE: (
        {},
        {
            "site": "A",
            "description": {
                "site": "A",
                "modalities": ["CT"],
                "cases": {"train": 3, "val": 1, "test": 1},
                "annotated": [1, 2],
                "synthetic": False,
            },
        },
    ),
    "train": ({"num-examples": 3, "cases": 3, "steps": 2, "train_loss": 1.5, "seconds": 0.5}, {"site": "A"}),
}


def all_paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, value in inner for found in all_paths(value, (*path, key)))]


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = with_value(data[path[0]], path[1:], value)
    return copy


def refusal_of(check: Callable[[], object]) -> str:
    """The words of a refusal, empty where there is none; any other error is one of the program."""
    try:
        check()
    except (BadReply, ReplyWithheld) as refusal:
        return str(refusal)
    return ""


def refused_or_read(reply: Message, kind: str, asked: Asked) -> None:
    for check in (
        lambda: read_reply(reply, cast(Any, MODELS[kind]), asked),
        lambda: check_reply(reply, at_the_site(), organs=ORGANS, form=None),
    ):
        said = refusal_of(check)
        assert len(said) < 400
        assert said.isprintable()
    claimed_site(reply)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_honest_reply_with_any_other_value_in_it_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([DESCRIBE, "evaluate"]))
    if kind == "evaluate":
        reply, asked = evaluation_of(data.draw(scored_cases()), shared=data.draw(st.booleans()))
    else:
        reply, asked = answer(kind, *HONEST[kind]), Asked(ORGANS)
    texts = reply.content.config_records[SITE]
    key = data.draw(st.sampled_from(sorted(set(texts) - {"site"})))
    honest = json.loads(str(texts[key]))
    value = with_value(honest, data.draw(st.sampled_from(all_paths(honest))), data.draw(JSON))
    texts[key] = data.draw(st.sampled_from([json.dumps(value), json.dumps(value)[:-1], "[" * 3000 + json.dumps(value)]))
    refused_or_read(reply, kind, asked)


@given(
    key=st.sampled_from(sorted(HONEST["train"][0])),
    value=st.integers()
    | st.floats()
    | st.booleans()
    | st.lists(st.integers(), max_size=3)
    | st.just(10**400)
    | st.just(-(10**400)),
)
def test_a_trainings_numbers_are_read_or_refused(key: str, value: Any) -> None:
    reply = answer("train", *HONEST["train"])
    cast(Any, reply.content[METRICS])._data[key] = value
    reply.content["arrays"] = ConfigRecord({})
    refused_or_read(reply, "train", Asked(ORGANS, site="A", steps=2, weight=3))


def not_parsed(text: bytes | str, most_bytes: int) -> str:
    """Why a text is not parsed, empty where it is."""
    try:
        parsed(text, most_bytes=most_bytes)
    except ValueError as refusal:
        return str(refusal) if type(refusal) is ValueError else repr(refusal)
    return ""


@given(texts=st.binary(max_size=200) | st.text(max_size=200))
def test_json_of_anybody_is_a_value_or_a_plain_sentence(texts: bytes | str) -> None:
    said = not_parsed(texts, 150)
    assert not said or said.startswith(("it is ", "a key ", "a number "))


@given(JSON)
def test_json_that_python_writes_reads_back(value: Any) -> None:
    text = json.dumps(value)
    said = not_parsed(text, 10**6)
    if said:
        assert "NaN" in said or "digits" in said
    else:
        assert parsed(text, most_bytes=10**6) == json.loads(text)


def test_json_is_bounded_before_it_is_parsed_and_read_in_one_way() -> None:
    assert parsed("[" * MOST_DEPTH + "]" * MOST_DEPTH, most_bytes=1000)
    for text, why in {
        "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1): "nested too deeply",
        "[" * 100_000: "nested too deeply",
        '{"a": 1, "b": {"c": 1, "c": 1}}': "a key appears twice",
        "1" * 41: "more than 40 digits",
        "1e999": "too large",
        "-Infinity": "NaN or infinite",
        '"' + "é" * 100_000 + '"': "longer than 200000 bytes",
        '"\ud800"': "not Unicode",
        "": "not JSON",
        "{'a': 1}": "not JSON",
    }.items():
        with pytest.raises(ValueError, match=why):
            parsed(text, most_bytes=200_000)


def sums(**values: Any) -> dict[str, Any]:
    one = Scores.of([{1: OrganScore(0.5, 0.5, "scored", 2.0, 1.0)}]).to_dict()["organs"]["1"]
    return {"cases": 3, "organs": {"1": {**one, **values}}}


@pytest.mark.parametrize(
    "values",
    [
        {"dsc_sum": 2**41},
        {"nsd_sum": 2**41},
        {"dsc_sum": 0.5},
        {"dsc_sum": -1},
        {"counted": 2},
        {"counted": 0},
        {"scored": 4},
        {"missed": 1},
        {"absent": 3},
        {"hd95_counted": 2},
        {"hd95_sum": 5},
        {"reference_ml_sum": 2**44},
        {"volume_error_sum": 0},
        {"volume_error_sum": 2**60},
        {"scored": MOST_CASES + 1},
    ],
)
def test_sums_that_no_cases_have_are_refused_where_no_case_is_told(values: dict[str, Any]) -> None:
    SumsOfSite.model_validate(sums())
    with pytest.raises(ValidationError):
        SumsOfSite.model_validate(sums(**values))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {**sums(), "cases": -1},
        {**sums(), "organs": {"liver": sums()["organs"]["1"]}},
        {**sums(), "organs": {"1": {"dsc": 3}}},
        {**sums(), "organs": [1]},
        "none",
    ],
)
def test_what_are_not_sums_per_organ_is_refused(data: Any) -> None:
    with pytest.raises(ValidationError):
        SumsOfSite.model_validate(data)


def test_what_is_wrong_repeats_nothing_of_what_was_sent() -> None:
    poison = "<script>\x1b POISON"
    for data in ({poison: 1}, {"cases": poison}, {"cases": 1, "organs": {poison: {}}}, {"cases": 1, "organs": poison}):
        with pytest.raises(ValidationError) as found:
            SumsOfSite.model_validate(data)
        assert "POISON" not in what_is_wrong(found.value, SumsOfSite)


def test_a_site_is_named_by_its_claim_only_where_that_is_a_name() -> None:
    assert claimed_site(answer("train", *HONEST["train"])) == "A"
    for claim in ("", "../x", "a b", "<b>", "x" * 300):
        assert claimed_site(answer("train", {}, {"site": claim})) is None
    assert claimed_site(Message(RecordDict(), reply_to=Message(RecordDict(), 1, "train"))) is None
