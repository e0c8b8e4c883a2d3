"""Replies that no honest site sends, by name: the kind of request, and what is done to the honest reply.

Every text that could show up somewhere holds `MARK`, so that a test can look for it in whatever a run leaves.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from amos_fl.codecs import PLACES, SCALES
from amos_fl.codecs import VALUES as CHANGED
from amos_fl.metrics.scores import UNIT
from amos_fl_clients.federation.messages import ARRAYS, DESCRIBE, FINGERPRINT, METRICS, SITE
from amos_fl_clients.federation.records import LAYOUT, VALUES, packed, record_of, views_of

MARK = "POISON"
HTML = f"<script>alert('{MARK}')</script>"
FORMULA = f'=HYPERLINK("http://{MARK}.example","{MARK}")'
ANSI = f"\x1b[2J\x1b]0;{MARK}\a"
MARKDOWN = f"[{MARK}](http://{MARK}.example) | **x** |"
HUGE = "1" + "0" * 400
DEEP = "[" * 100_000 + "]" * 100_000

Tamper = Callable[[Message], None]


def without(*path: str | int) -> Callable[[Any], None]:
    """A change that takes one entry out, deep inside."""

    def change(data: Any) -> None:
        *outer, last = path
        for key in outer:
            data = data[key]
        del data[last]

    return change


def put(record: str, key: str, value: object) -> Tamper:
    """A value in one of the records of values, past the checks of Flower's own that only this process has."""

    def tamper(reply: Message) -> None:
        getattr(reply.content[record], "_data", reply.content[record])[key] = value  # pyright: ignore[reportIndexIssue]

    return tamper


def drop(record: str, key: str) -> Tamper:
    def tamper(reply: Message) -> None:
        del reply.content[record][key]  # pyright: ignore[reportIndexIssue, reportArgumentType]

    return tamper


def changed(key: str, change: Callable[[Any], object]) -> Tamper:
    """The JSON of a text, changed in place, or another one in its place."""

    def tamper(reply: Message) -> None:
        data = json.loads(str(reply.content.config_records[SITE][key]))
        other = change(data)
        reply.content.config_records[SITE][key] = json.dumps(data if other is None else other)

    return tamper


def record(name: str, value: ArrayRecord | MetricRecord | ConfigRecord) -> Tamper:
    def tamper(reply: Message) -> None:
        reply.content[name] = value

    return tamper


def no_record(name: str) -> Tamper:
    def tamper(reply: Message) -> None:
        del reply.content[name]

    return tamper


def nothing(reply: Message) -> None:
    for name in list(reply.content):
        del reply.content[name]


def weights(change: Callable[[dict[str, np.ndarray]], object], serialise: Any = packed) -> Tamper:
    def tamper(reply: Message) -> None:
        arrays = {name: array.copy() for name, array in views_of(reply.content.array_records[ARRAYS]).items()}
        change(arrays)
        reply.content[ARRAYS] = serialise(arrays.items())

    return tamper


def filled(value: float) -> Tamper:
    def fill(arrays: dict[str, np.ndarray]) -> None:
        arrays[first(arrays)].flat[0] = value

    return weights(fill)


def times(factor: float) -> Tamper:
    def scale(arrays: dict[str, np.ndarray]) -> None:
        for array in arrays.values():
            if array.dtype.kind == "f":
                array *= factor

    return weights(scale)


def first(arrays: dict[str, np.ndarray]) -> str:
    return next(name for name, array in arrays.items() if array.ndim > 1)


def of_bytes(data: bytes) -> Array:
    return Array(np.frombuffer(data, np.uint8))


def both_forms(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    reply.content[ARRAYS] = ArrayRecord({**arrays, **record_of(views_of(arrays).items())})


def layout(data: bytes) -> Tamper:
    def tamper(reply: Message) -> None:
        values = reply.content.array_records[ARRAYS][VALUES]
        reply.content[ARRAYS] = ArrayRecord({LAYOUT: of_bytes(data), VALUES: values})

    return tamper


def pickled(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    array = arrays[VALUES]
    arrays[VALUES] = Array(dtype=array.dtype, shape=array.shape, stype="pickle", data=array.data)


def shape_of_no_array(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    array = arrays[VALUES]
    arrays[VALUES] = Array(dtype="uint8", shape=(0, 10**30), stype="numpy.ndarray", data=array.data)


def organ(key: str, value: object) -> Tamper:
    """A value in the sums of the first organ."""

    def change(data: dict[str, Any]) -> None:
        next(iter(data["organs"].values()))[key] = value

    return changed("scores", change)


def of_case(key: str, value: object) -> Tamper:
    """A value in the scores of the first case's first organ."""

    def change(data: list[dict[str, Any]]) -> None:
        next(iter(data[0]["scores"].values()))[key] = value

    return changed("cases", change)


def case(key: str, value: object) -> Tamper:
    return changed("cases", lambda data: data[0].update({key: value}))


def all_perfect(reply: Message) -> None:
    """Sums and cases with scores of 1 everywhere, of as many cases as nobody has."""
    scores = json.loads(str(reply.content.config_records[SITE]["scores"]))
    scores["cases"] = 500
    for sums in scores["organs"].values():
        sums.update(dsc_sum=500 * UNIT, nsd_sum=500 * UNIT, counted=500, scored=500, missed=0, hallucinated=0, absent=0)
    reply.content.config_records[SITE]["scores"] = json.dumps(scores)
    reply.content.config_records[SITE]["cases"] = "[]"
    reply.content.metric_records[METRICS]["num-examples"] = 500


def perfect_of_few(reply: Message) -> None:
    """Perfect sums beside the honest cases."""
    scores = json.loads(str(reply.content.config_records[SITE]["scores"]))
    for sums in scores["organs"].values():
        sums.update(dsc_sum=UNIT, nsd_sum=UNIT, counted=1, scored=1, missed=0, hallucinated=0, absent=0)
    reply.content.config_records[SITE]["scores"] = json.dumps(scores)


def made_up_cases(count: int) -> Tamper:
    def tamper(reply: Message) -> None:
        (one,) = json.loads(str(reply.content.config_records[SITE]["cases"]))
        many = [{**one, "case": f"{MARK}-{number}"} for number in range(count)]
        scores = json.loads(str(reply.content.config_records[SITE]["scores"]))
        scores["cases"] = count
        for sums in scores["organs"].values():
            sums.update({key: value * count for key, value in sums.items()})
        reply.content.config_records[SITE].update({"cases": json.dumps(many), "scores": json.dumps(scores)})
        reply.content.metric_records[METRICS]["num-examples"] = count

    return tamper


def raw(key: str, text: object) -> Tamper:
    return put(SITE, key, text)


def twice(key: str, name: str, value: str) -> Tamper:
    """A key that is there once more, at the end, where it would count."""

    def tamper(reply: Message) -> None:
        text = str(reply.content.config_records[SITE][key])
        reply.content.config_records[SITE][key] = f'{text[:-1]}, "{name}": {value}}}'

    return tamper


def histogram(change: Callable[[dict[str, Any]], object], name: str = "intensity") -> Tamper:
    def tamper(data: dict[str, Any]) -> None:
        found = data["CT"][name]
        change(found if name == "intensity" else found[0])

    return changed("fingerprint", tamper)


def a_case_more(data: dict[str, Any]) -> None:
    data["CT"]["cases"] += 1
    for name in ("spacing", "shape", "extent_mm"):
        for axis in data["CT"][name]:
            axis["withheld"] += 1


TRAIN: dict[str, Tamper] = {
    "NaN in the weights": filled(np.nan),
    "infinity in the weights": filled(-np.inf),
    "weights of 1e30": filled(1e30),
    "all weights times 1e6": times(1e6),
    "all weights times -1000": times(-1000),
    "weights of another shape": weights(lambda a: a.update({first(a): a[first(a)][:1]})),
    "weights of another dtype": weights(lambda a: a.update({first(a): a[first(a)].astype(np.float64)})),
    "an array less": weights(lambda a: a.pop(first(a))),
    "an array more": weights(lambda a: a.update({f"{MARK}{HTML}": np.zeros(3, np.float32)})),
    "an array of another name": weights(lambda a: a.update({MARK: a.pop(first(a))})),
    "arrays of other names, in Flower's form": weights(lambda a: a.update({ANSI: a.pop(first(a))}), record_of),
    "no array": weights(lambda a: a.clear()),
    "arrays in both forms": both_forms,
    "a pickle": pickled,
    "a shape that no array has": shape_of_no_array,
    "a layout of other arrays": layout(b'[["%s","float32",[3]]]' % MARK.encode()),
    "a layout that is none": layout(b"\xff\xfe"),
    "a layout of a million arrays": layout(
        json.dumps([[f"{MARK}{n}", "float32", [0]] for n in range(1_000_000)]).encode()
    ),
    "a layout that is nested": layout(b"[" * 200_000),
    "a layout with a huge shape": layout(b'[["a","float32",[%s]]]' % HUGE.encode()),
    "a layout with a shape of negative numbers": layout(b'[["a","float32",[-1]]]'),
    "no weights": no_record(ARRAYS),
    "weights under another name": record("arrays2", record_of([(MARK, np.zeros(2))])),
    "weights in a record of values": record(ARRAYS, ConfigRecord({"a": MARK})),
    "no numbers": no_record(METRICS),
    "no texts": no_record(SITE),
    "nothing at all": nothing,
    "a record more": record(HTML, ConfigRecord({"a": MARK})),
    "numbers in a record of texts": record(METRICS, ConfigRecord({"cases": MARK})),
    "texts in a record of numbers": record(SITE, MetricRecord({"site": 1})),
    "a number more": put(METRICS, FORMULA, 1),
    "a text more": put(SITE, MARK, HTML),
    "another site's name": put(SITE, "site", "B"),
    "a formula for a name": put(SITE, "site", FORMULA),
    "bytes for a name": put(SITE, "site", MARK.encode()),
    "a list of names": put(SITE, "site", ["A", MARK]),
    **{f"no {key}": drop(METRICS, key) for key in ("num-examples", "cases", "steps", "train_loss", "seconds")},
    **{
        f"{key} is {name}": put(METRICS, key, value)
        for key in ("num-examples", "cases", "steps", "train_loss", "seconds")
        for name, value in {
            "a list": [1, 2],
            "negative": -5 if key != "train_loss" else -1e300,
            "10**400": 10**400,
            "infinite": float("inf"),
            "NaN": float("nan"),
            "a truth value": True,
        }.items()
    },
    "a loss that its method has nobody report": put(METRICS, "val_loss_before", 0.5),
    "a claimed weight": put(METRICS, "num-examples", 10**6),
    "claimed steps": put(METRICS, "steps", 10**6),
    "claimed cases": put(METRICS, "cases", 7),
    "a fraction of a case": put(METRICS, "cases", 3.0),
}

EVALUATE: dict[str, Tamper] = {
    "scores that are no JSON": raw("scores", f"{{{MARK}"),
    "scores that are empty": raw("scores", ""),
    "scores that are bytes": raw("scores", MARK.encode()),
    "scores that are a number": raw("scores", 7),
    "scores that are a list of texts": raw("scores", [MARK]),
    "scores that are null": raw("scores", "null"),
    "scores that are a JSON list": raw("scores", "[]"),
    "scores that are NaN": raw("scores", "NaN"),
    "scores that are nested": raw("scores", DEEP),
    "scores nested in objects": raw("scores", '{"a":' * 5000 + "1" + "}" * 5000),
    "scores of 20 MB": raw("scores", json.dumps({"cases": 1, "organs": {}, "note": MARK * 3_500_000})),
    "scores with a surrogate": raw("scores", '{"cases": 1, "organs": {"\ud800": {}}}'),
    "a number of 5000 digits": raw("scores", f'{{"cases": {"9" * 5000}, "organs": {{}}}}'),
    "a number of 400 digits": raw("scores", f'{{"cases": {HUGE}, "organs": {{}}}}'),
    "a number of 1e400": raw("scores", '{"cases": 1e400, "organs": {}}'),
    "a key that is there twice": twice("scores", "cases", "500"),
    "no cases in the scores": changed("scores", without("cases")),
    "no organs in the scores": changed("scores", without("organs")),
    "organs that are a list": changed("scores", lambda d: d.update(organs=[1, 2])),
    "sums of a site that are no object": changed("scores", lambda d: d["organs"].update({"1": MARK})),
    "an organ that nobody asked for": changed("scores", lambda d: d["organs"].update({"9": d["organs"]["1"]})),
    "an organ with HTML for a name": changed("scores", lambda d: d["organs"].update({HTML: d["organs"]["1"]})),
    "an organ called 01": changed("scores", lambda d: d["organs"].update({"01": d["organs"]["1"]})),
    "an organ 0": changed("scores", lambda d: d["organs"].update({"0": d["organs"]["1"]})),
    "more in the scores": changed("scores", lambda d: d.update({MARK: HTML})),
    "more in an organ": organ(MARK, 1),
    "a sum that is a text": organ("dsc_sum", FORMULA),
    "a sum that is a fraction": organ("dsc_sum", 0.5),
    "a DSC of 5": organ("dsc_sum", 5 * UNIT),
    "an NSD of 5": organ("nsd_sum", 5 * UNIT),
    "a negative DSC": organ("dsc_sum", -UNIT),
    "an NSD of -1": organ("nsd_sum", -UNIT),
    "a negative count": organ("missed", -1),
    "a count that is a truth value": organ("counted", True),
    "more outcomes than cases": organ("absent", 7),
    "a count of 10**400": organ("scored", 10**400),
    "counts that do not add up": organ("counted", 0),
    "HD95 of more cases than were scored": organ("hd95_counted", 900),
    "HD95 of no case": organ("hd95_sum", UNIT),
    "a volume of a planet": organ("reference_ml_sum", 10**36),
    "volume errors of no volume": organ("volume_error_sum", 10**25),
    "perfect scores from nowhere": all_perfect,
    "perfect sums of other cases": perfect_of_few,
    "scores of a million cases": changed("scores", lambda d: d.update(cases=1_000_000)),
    "scores of no case": changed("scores", lambda d: d.update(cases=0)),
    "100,000 made-up cases": made_up_cases(100_000),
    "two made-up cases": made_up_cases(2),
    "cases that are no list": raw("cases", "{}"),
    "cases that are nested": raw("cases", "[" * 600 + "]" * 600),
    "cases of 200 kB": raw("cases", DEEP),
    "no outcome in a case": changed("cases", without(0, "scores", "1", "outcome")),
    "no sum of DSC": changed("scores", without("organs", "1", "dsc_sum")),
    "no sums of an organ": changed("scores", without("organs", "1")),
    "a case without a name": changed("cases", without(0, "case")),
    "a case that is a text": raw("cases", json.dumps([HTML])),
    **{
        f"a case called {name}": case("case", value)
        for name, value in {
            "HTML": HTML,
            "a formula": FORMULA,
            "terminal codes": ANSI,
            "Markdown": MARKDOWN,
            "a path": f"../../{MARK}",
            "nothing": "",
            "a number": 7,
            "a megabyte": MARK * 200_000,
            "null": None,
        }.items()
    },
    "a case of another modality": case("modality", f"PET {MARK}"),
    "a case of the other modality": case("modality", "MR"),
    "more in a case": case(MARK, 1),
    "a case without scores": changed("cases", without(0, "scores")),
    "a case of an organ that nobody asked for": changed(
        "cases", lambda d: d[0]["scores"].update({"200": next(iter(d[0]["scores"].values()))})
    ),
    **{
        f"{key} of a case is {name}": of_case(key, value)
        for key, values in {
            "dsc": {"5": 5, "negative": -0.5, "a text": FORMULA, "a truth value": True, "a list": [1]},
            "nsd": {"-1": -1.0, "1e308": 1e308, "infinite": float("inf"), "NaN": float("nan")},
            "outcome": {"HTML": HTML, "another one": "absent", "null": None, "a number": 3},
            "reference_ml": {"negative": -1.0, "a planet's": 1e30, "null": None, "10**400": 10**400},
            "predicted_ml": {"a text": ANSI},
            "hd95_mm": {"negative": -3.0, "a light year": 1e19},
        }.items()
        for name, value in values.items()
    },
    "modalities that are a text": raw("modalities", json.dumps(HTML)),
    "modalities that nobody has": raw("modalities", json.dumps(["CT", MARK])),
    "modalities that are there twice": raw("modalities", '["CT", "CT"]'),
    "no modality": raw("modalities", "[]"),
    "another modality than it described": raw("modalities", '["MR"]'),
    "weights beside scores": record(ARRAYS, record_of([(MARK, np.zeros(2))])),
    "another site's name": put(SITE, "site", "G"),
    "no number of cases": drop(METRICS, "num-examples"),
    "another number of cases": put(METRICS, "num-examples", 3),
    "seconds that are infinite": put(METRICS, "seconds", float("inf")),
    "seconds that are a list": put(METRICS, "seconds", [1.0]),
    "negative seconds": put(METRICS, "seconds", -1.0),
    "no texts": no_record(SITE),
    "nothing at all": nothing,
}

DESCRIPTIONS: dict[str, Tamper] = {
    "no JSON": raw("description", MARK),
    "a list": raw("description", "[]"),
    "nested": raw("description", DEEP),
    "NaN": changed("description", lambda d: d["cases"].update(train=float("nan"))),
    "a key that is there twice": twice("description", "site", '"B"'),
    "another site's name inside": changed("description", lambda d: d.update(site="B")),
    "HTML for a name": put(SITE, "site", HTML),
    "a path for a name": changed("description", lambda d: d.update(site=f"../{MARK}")),
    "a name of a megabyte": put(SITE, "site", "A" * 1_000_000),
    "more than it may say": changed("description", lambda d: d.update({MARK: HTML})),
    "no modalities": changed("description", without("modalities")),
    "modalities of nobody": changed("description", lambda d: d.update(modalities=[HTML])),
    "cases without modalities": changed("description", lambda d: d.update(modalities=[])),
    "a million cases": changed("description", lambda d: d["cases"].update(test=1_000_000)),
    "10**400 cases": changed("description", lambda d: d["cases"].update(train=10**30)),
    "fewer than no cases": changed("description", lambda d: d["cases"].update(train=-1)),
    "half a case": changed("description", lambda d: d["cases"].update(train=1.5)),
    "true cases": changed("description", lambda d: d["cases"].update(train=True)),
    "a split less": changed("description", without("cases", "val")),
    "a split more": changed("description", lambda d: d["cases"].update({MARK: 1})),
    "cases that are a number": changed("description", lambda d: d.update(cases=7)),
    "organs that are texts": changed("description", lambda d: d.update(annotated=[FORMULA])),
    "an organ of 10**20": changed("description", lambda d: d.update(annotated=[10**20])),
    "organs of another run": changed("description", lambda d: d.update(annotated=[200, 201])),
    "organs that are there a million times": changed("description", lambda d: d.update(annotated=[1] * 1_000_000)),
    "synthetic, in a word": changed("description", lambda d: d.update(synthetic=MARK)),
    "a number more": put(METRICS, MARK, 1),
    "weights": record(ARRAYS, record_of([(MARK, np.zeros(2))])),
    "no texts": no_record(SITE),
    "nothing at all": nothing,
}

FINGERPRINTS: dict[str, Tamper] = {
    "no JSON": raw("fingerprint", MARK),
    "nested": raw("fingerprint", DEEP),
    "no group": changed("fingerprint", without("CT")),
    "a group more": changed("fingerprint", lambda d: d.update({MARK: d["CT"]})),
    "a million cases": changed("fingerprint", lambda d: d["CT"].update(cases=1_000_000)),
    "a case more than described": changed("fingerprint", a_case_more),
    "a modality that it does not have": changed("fingerprint", lambda d: d.update(CT=d["MR"], MR=d["CT"])),
    "a bin that is no number": histogram(lambda h: h["counts"].update({HTML: 5})),
    "a bin written otherwise": histogram(lambda h: h["counts"].update({"+7": 5})),
    "a bin of 10**400": histogram(lambda h: h["counts"].update({HUGE: 5})),
    "an intensity that no CT has": histogram(lambda h: h["counts"].update({"99999": 5})),
    "a count of 10**400": histogram(lambda h: h["counts"].update({"7": 10**400})),
    "a count of 0": histogram(lambda h: h["counts"].update({"7": 0})),
    "a negative count": histogram(lambda h: h["counts"].update({"7": -3})),
    "a count that is infinite": histogram(lambda h: h["counts"].update({"7": float("inf")})),
    "negative withheld counts": histogram(lambda h: h.update(withheld=-1)),
    "a spacing of 0": histogram(lambda h: h.update(counts={"0": 3}), "spacing"),
    "a spacing of a metre": histogram(lambda h: h.update(counts={"99999": 3}), "spacing"),
    "a shape of no voxel": histogram(lambda h: h.update(counts={"0": 3}), "shape"),
    "a shape between the bins": histogram(lambda h: h.update(counts={"13": 3}), "shape"),
    "one intensity, and far more often than all others": histogram(
        lambda h: h.update(counts={"-2048": 3 * 2**31}, withheld=0)
    ),
    "more voxels than a scan has": histogram(lambda h: h["counts"].update({"7": 10**14})),
    "two axes": changed("fingerprint", without("CT", "spacing", 2)),
    "a thousand axes": changed("fingerprint", lambda d: d["CT"].update(spacing=d["CT"]["spacing"] * 333)),
    "axes that are a text": changed("fingerprint", lambda d: d["CT"].update(shape=HTML)),
    "intensities of MR": changed("fingerprint", lambda d: d["MR"]["intensity"]["counts"].update({"7": 9})),
}


def places(change: Callable[[np.ndarray], object]) -> Tamper:
    return weights(lambda a: change(a[PLACES]))


ENCODED: dict[tuple[str, str], Tamper] = {
    ("fp16", "all changes of the largest half"): weights(lambda a: [array.fill(65504) for array in a.values()]),
    ("int8", "steps of NaN"): weights(lambda a: a[SCALES].fill(np.nan)),
    ("int8", "steps of 1e38"): weights(lambda a: a[SCALES].fill(1e38)),
    ("int8", "steps of another name"): weights(lambda a: a.update({MARK: a.pop(SCALES)})),
    ("top-k", "a place twice"): places(lambda at: at.__setitem__(1, at[0])),
    ("top-k", "a place that is far beyond"): places(lambda at: at.__setitem__(-1, 2**31 - 1)),
    ("top-k", "values of NaN"): weights(lambda a: a[CHANGED].fill(np.nan)),
    ("top-k", "values of 1e30"): weights(lambda a: a[CHANGED].fill(1e30)),
}
"""Encoded updates, by the run's codec."""

HOSTILE: dict[tuple[str, str], Tamper] = {
    **{(DESCRIBE, name): tamper for name, tamper in DESCRIPTIONS.items()},
    **{(FINGERPRINT, name): tamper for name, tamper in FINGERPRINTS.items()},
    **{("train", name): tamper for name, tamper in TRAIN.items()},
    **{("evaluate", name): tamper for name, tamper in EVALUATE.items()},
}
