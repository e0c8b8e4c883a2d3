"""What of the scores of a site's test cases goes to the coordinator, in words for the hospital."""

import re

from amos_fl.wording import counted
from amos_fl_clients.federation.audit import AUDIT_LOG
from amos_fl_clients.federation.settings import SiteSettings

_SENT = re.compile(r"^(\S+) .*\basked=evaluate .*\bsplit=test .*\banswer=sent ")
_MORE = {
    "none": "No picture and no case name is sent.",
    "pseudonyms": "No picture is sent, but the scores and volumes of each case, under a pseudonym.",
    "named": "No picture is sent, but the scores and volumes of each case, with its name.",
}


def scores_in_words(settings: SiteSettings) -> str:
    """What is sent of the scores on test cases by the site's settings, and how often it has been, by its audit log."""
    sums = (
        "Nothing is sent of these scores either: the settings refuse evaluation on test."
        if "test" in settings.refuse_evaluation_on
        else "The sums of these scores and volumes are sent to the coordinator when a run asks for them; of one case "
        "they are its own."
    )
    more = _MORE["none"] if "test" in settings.refuse_evaluation_on else _MORE[settings.share_case_scores]
    return " ".join(part for part in (more, sums, _so_far(settings)) if part)


def _so_far(settings: SiteSettings) -> str:
    try:
        lines = (settings.state / AUDIT_LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    times = [found[1] for line in lines if (found := _SENT.match(line))]
    if not times:
        return ""
    return f"By {AUDIT_LOG} scores on test cases were sent {counted(len(times), 'time')}, last at {times[-1]}."
