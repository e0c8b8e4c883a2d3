"""The organs of a cohort: which label value is which organ."""

AMOS_ORGANS: dict[int, str] = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gall bladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "pancreas",
    11: "right adrenal gland",
    12: "left adrenal gland",
    13: "duodenum",
    14: "bladder",
    15: "prostate/uterus",
}
"""AMOS's fifteen organs by label value (the release spells 8 "arota" and calls 9 "postcava")."""

NOT_REPORTED_IN_MR = (14, 15)
"""Bladder and prostate/uterus: outside the field of view of nearly every AMOS MR scan."""
