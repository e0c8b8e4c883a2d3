"""SNOMED CT codes of organs, by which DICOM names them in any language (DICOM PS3.16, context groups of anatomy)."""

from dataclasses import dataclass

from amos_fl.cohort.organ_names import organ_key

_CODES = {
    "spleen": ("78961009", "Spleen"),
    "kidney": ("64033007", "Kidney"),
    "gall bladder": ("28231008", "Gallbladder"),
    "esophagus": ("32849002", "Esophagus"),
    "liver": ("10200004", "Liver"),
    "stomach": ("69695003", "Stomach"),
    "aorta": ("15825003", "Aorta"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "pancreas": ("15776009", "Pancreas"),
    "adrenal gland": ("23451007", "Adrenal gland"),
    "duodenum": ("38848004", "Duodenum"),
    "bladder": ("89837001", "Bladder"),
    "prostate": ("41216001", "Prostate"),
    "uterus": ("35039007", "Uterus"),
}
_ANY = ("91772007", "Organ")


@dataclass(frozen=True)
class OrganCode:
    """A code with its meaning, and the side (left, right or none)."""

    value: str
    meaning: str
    side: str = ""


def code_of(organ: str) -> OrganCode:
    """The code of an organ, however it is spelled; of one that is not known, or that is one of two, "Organ".

    >>> code_of("Kidney_L")
    OrganCode(value='64033007', meaning='Kidney', side='left')
    >>> code_of("prostate/uterus").meaning
    'Organ'
    """
    side, _, rest = organ_key(organ).partition(" ")
    if side in ("left", "right") and rest in _CODES:
        return OrganCode(*_CODES[rest], side)
    return OrganCode(*_CODES.get(organ_key(organ), _ANY))
