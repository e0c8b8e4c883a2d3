"""The figure of expected against true DSC, and what it says in words."""

from markupsafe import Markup

from amos_fl.report.figures import panels_of
from amos_fl.report.palette import INK, MUTED, SEEN, UNSEEN
from amos_fl.report.svg import page_style, to_svg
from amos_fl.runs.calibration import FAILURE, FALSE_ALARMS, Agreement
from amos_fl.runs.expected import MeasuredAgreement

_PANELS = (("seen", SEEN), ("unseen", UNSEEN))
_MARKERS = {"CT": "o", "MR": "D"}
COLUMNS = ("case", "site", "modality", "seen", "organ", "expected_dsc", "dsc")


def expected_against_true(name: str, found: MeasuredAgreement) -> Markup:
    """A mark for every organ of a test case: the expected DSC to the right, the true one upwards; CT and MR apart.

    Marks left of the line are flagged, those below the other line failed.
    """
    groups = [(group, colour) for group, colour in _PANELS if group in found.groups]
    with page_style():
        figure, panels = panels_of(len(groups), 4.9, sharey=True)
        for axes, (group, colour) in zip(panels, groups, strict=True):
            for modality, marker in _MARKERS.items():
                rows = [one for one in found.organs if (one.seen, one.modality) == (group == "seen", modality)]
                if rows:
                    xs, ys = [one.expected_dsc for one in rows], [one.dsc for one in rows]
                    axes.plot(
                        xs, ys, marker, color=colour, markersize=3.2, alpha=0.5, markeredgewidth=0, label=modality
                    )
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.axvline(found.flag_below, color=INK, linewidth=1)
            axes.axhline(FAILURE, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
            correlation = found.groups[group].pearson
            told = f", r = {correlation.in_words()}" if correlation else ""
            axes.set(title=f"{group} scanners{told}", xlabel="expected DSC", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.set_box_aspect(1)
            axes.legend(loc="upper left")
        if groups:
            panels[0].set_ylabel("true DSC")
        return to_svg(figure, name, "Expected against true DSC", told_of(found))


def told_of(found: MeasuredAgreement) -> str:
    """The correlations and the operating point in sentences."""
    parts = [
        f"An organ is flagged where the expected DSC is below {found.flag_below:.2f}, so chosen on validation "
        f"cases that {FALSE_ALARMS:.0%} of the organs above a DSC of {FAILURE:g} are flagged."
    ]
    for group, _ in _PANELS:
        if about := found.groups.get(group):
            parts.append(_of_group(group, about, found.missed.get(group, 0)))
    return " ".join(parts)


def _of_group(group: str, about: Agreement, missed: int) -> str:
    rank = f", rank correlation {about.spearman.in_words()}" if about.spearman else ""
    correlation = f"correlation {about.pearson.in_words()}{rank}; " if about.pearson else ""
    lacking = f" Of {missed} more, nothing was drawn." if missed else ""
    return (
        f"On {group} scanners ({about.organs} organs of {about.cases} cases): {correlation}"
        f"{_share(about.failures_flagged, about.failures)} failures are flagged, and "
        f"{_share(about.sound_flagged, about.sound)} of the others.{lacking}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "0 of 0"
