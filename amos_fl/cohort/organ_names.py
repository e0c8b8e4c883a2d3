"""Compare organ names, however a dataset spells them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
    "glnd adrenal": "adrenal gland",
    "a aorta": "aorta",
    "v venacava i": "inferior vena cava",
    "prostate or uterus": "prostate uterus",
}
"""Spellings of AMOS's release, of TotalSegmentator, BTCV, radiotherapy (AAPM TG-263) and others, without a side."""
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}


def organ_key(name: str) -> str:
    """A canonical spelling of an organ's name: no capitals or punctuation, the side first, British and American alike.

    >>> organ_key("Kidney_Left"), organ_key("left kidney"), organ_key("postcava")
    ('left kidney', 'left kidney', 'inferior vena cava')
    """
    words = re.findall(r"[^\W_]+", name.casefold())
    sides = [_SIDES[word] for word in words if word in _SIDES]
    rest = " ".join(word for word in words if word not in _SIDES)
    return " ".join([*sides, _OTHER_NAMES.get(rest, rest)])


@dataclass(frozen=True)
class OtherMeaning:
    """A label value that means different organs here and there; `there` is None if only the value differs."""

    label: int
    here: str
    there: str | None
    label_there: int | None

    def sentence(self, here: str, there: str) -> str:
        """The difference in words; `here` and `there` are phrases such as "in this cohort" and "in the run"."""
        if self.there is not None:
            return f"label {self.label} is {self.here[:60]} {here} and {self.there[:60]} {there}"
        return f"{self.here[:60]} is label {self.label} {here} and {self.label_there} {there}"


def other_meanings(
    here: Mapping[int, str], there: Mapping[int, str], used: Collection[int] | None = None
) -> list[OtherMeaning]:
    """The label values of `here` (only `used`, if given) that mean other organs `there`.

    Names of one organ may be spelled differently, and either side may lack organs of the other.

    >>> other_meanings({1: "Liver", 2: "heart"}, {1: "liver", 2: "spleen", 3: "aorta"})
    [OtherMeaning(label=2, here='heart', there='spleen', label_there=None)]
    >>> other_meanings({7: "liver"}, {6: "liver"})[0].sentence("here", "there")
    'liver is label 7 here and 6 there'
    """
    labels = {organ_key(name): label for label, name in there.items()}
    found = []
    for label, name in here.items():
        if used is not None and label not in used:
            continue
        key = organ_key(name)
        if label in there and organ_key(there[label]) != key:
            found.append(OtherMeaning(label, name, there[label], labels.get(key)))
        elif label not in there and key in labels:
            found.append(OtherMeaning(label, name, None, labels[key]))
    return found


def difference_in_words(
    here: Mapping[int, str],
    there: Mapping[int, str],
    words: tuple[str, str],
    used: Collection[int] | None = None,
) -> str:
    """The first label value that means another organ, and how many more do; empty if none does.

    >>> difference_in_words({1: "heart", 2: "lung"}, {1: "spleen", 2: "liver"}, ("here", "in the run"))
    'label 1 is heart here and spleen in the run (and 1 more label means another organ)'
    """
    found = other_meanings(here, there, used)
    if not found:
        return ""
    more = len(found) - 1
    rest = f" (and {more} more label{'s mean other organs' if more > 1 else ' means another organ'})" if more else ""
    return found[0].sentence(*words) + rest


def same_organs(one: Mapping[int, str], other: Mapping[int, str]) -> bool:
    """Whether both have the same label values for the same organs, however they are spelled."""
    return {label: organ_key(name) for label, name in one.items()} == {
        label: organ_key(name) for label, name in other.items()
    }
