"""Choose the cases that a page shows: each site's best, median and worst, with the planes that the site kept."""

import math
from collections.abc import Mapping
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.metrics.scores import reported_organs
from amos_fl.pictures.planes import load_planes
from amos_fl.report.figures import score
from amos_fl.report.series import case_rows
from amos_fl.report.slices import plane_svg
from amos_fl.runs.record import RunRecord
from amos_fl.wording import listed


def chosen_examples(means: Mapping[str, float]) -> list[tuple[str, str]]:
    """Best, median (the better of the middle two) and worst case by their means; fewer if there are fewer cases.

    >>> chosen_examples({"p1": 0.5, "p2": 0.9, "p3": 0.7})
    [('Best', 'p2'), ('Median', 'p3'), ('Worst', 'p1')]
    """
    ranked = sorted((case for case, mean in means.items() if not math.isnan(mean)), key=lambda c: (-means[c], c))
    if len(ranked) < 2:
        return [("Only case", case) for case in ranked]
    middle = [("Median", ranked[(len(ranked) - 1) // 2])] if len(ranked) > 2 else []
    return [("Best", ranked[0]), *middle, ("Worst", ranked[-1])]


def site_examples(record: RunRecord) -> list[dict[str, Any]]:
    """For every site its examples, for a template; a case without a picture has no planes."""
    rows = case_rows(record)
    scores = {case.case: case for case in record.results.cases}
    organs, sites = record.cohort.organs, []
    for place, (group, modality, site) in enumerate(dict.fromkeys((r.group, r.modality, r.site) for r in rows)):
        mine = {r.case: r for r in rows if (r.group, r.modality, r.site) == (group, modality, site)}
        cases = []
        for rank, case in chosen_examples({name: row.dsc for name, row in mine.items()}):
            row = mine[case]
            name = f"case-{place}-{rank.split()[0].lower()}"
            counted = {
                organs[o]: s.dsc
                for o, s in scores[row.case].scores.items()
                if o in reported_organs(organs, modality) and not math.isnan(s.dsc)
            }
            worst = sorted(counted.items(), key=lambda item: (item[1], item[0]))[:3]
            said = listed([f"{organ} {score(dsc)}" for organ, dsc in worst])
            cases.append(
                {
                    "rank": rank,
                    "case": row.case,
                    "text": f"Mean DSC {score(row.dsc, 3)}, NSD {score(row.nsd, 3)}. Lowest DSC: {said}.",
                    "planes": case_planes(record, site, row.case, f"{rank} case {row.case} of site {site}", name),
                }
            )
        sites.append({"heading": f"{site}, {modality}, {group}", "cases": cases})
    return sites


def case_planes(record: RunRecord, site: str, case: str, title: str, name: str) -> list[dict[str, Any]]:
    """The planes that a run kept of a case, for a template; empty if it kept none."""
    try:
        planes = load_planes(record.folder.site(site) / "pictures" / f"{case}.npz")
    except AmosError:
        return []
    return [
        {
            # Equal heights side by side: each plane's width follows from its proportions.
            "share": f"{plane.grey.shape[1] / plane.grey.shape[0]:.3f}",
            "svg": plane_svg(plane, record.cohort.organs, f"{name}-{plane.view}", f"{title}, {plane.view}"),
        }
        for plane in planes
    ]
