"""Whether two names mean one organ, however a dataset spells them."""

import re

_OTHER_NAMES = {
    "arota": "aorta",
    "gallbladder": "gall bladder",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
    "ivc": "inferior vena cava",
    "vena cava inferior": "inferior vena cava",
    "adrenal": "adrenal gland",
    "suprarenal gland": "adrenal gland",
    "urinary bladder": "bladder",
    "prostate or uterus": "prostate uterus",
}
"""Spellings of AMOS's release, of TotalSegmentator, BTCV and others, without a side."""
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}


def organ_key(name: str) -> str:
    """A spelling that names of the same organ share: no capitals, no signs, the side first, British as American.

    >>> organ_key("Kidney_Left"), organ_key("left kidney"), organ_key("postcava")
    ('left kidney', 'left kidney', 'inferior vena cava')
    """
    words = re.findall(r"[^\W_]+", name.casefold())
    sides = [_SIDES[word] for word in words if word in _SIDES]
    rest = " ".join(word for word in words if word not in _SIDES)
    return " ".join([*sides, _OTHER_NAMES.get(rest, rest)])
