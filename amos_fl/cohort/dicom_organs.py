"""Which structure of a DICOM label is which organ, by a label map or by their names."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from amos_fl.cohort.label_map import LabelMap, suggested
from amos_fl.cohort.organ_names import organ_key
from amos_fl.dicom.labels import DrawnStructure, Label
from amos_fl.errors import AmosError
from amos_fl.wording import nearest


class StructureNames:
    """The names of all structures of some labels, each counted once a label.

    A name that means several things by its codes, such as `Segment_1`, has each meaning behind it in brackets.
    """

    def __init__(self, labels: Iterable[Label]) -> None:
        labels = list(labels)
        self._meanings: dict[str, set[str]] = defaultdict(set)
        for structure in (structure for label in labels for structure in label.structures):
            self._meanings[structure.name].add(structure.meaning)
        named = [(self.of(structure), structure) for label in labels for structure in label.structures]
        self.counts: Counter[str] = Counter(name for name, structure in named if not structure.absent)
        self._structures = dict(named)

    def of(self, structure: DrawnStructure) -> str:
        """The name of a structure among the others."""
        several = len(self._meanings[structure.name] - {""}) > 1 or not structure.name
        return f"{structure.name} ({structure.meaning})".strip() if several and structure.meaning else structure.name

    def suggestion(self, organs: Mapping[int, str]) -> LabelMap:
        """A label map by name or, where the name says nothing, by the code's meaning."""
        by_name = suggested(dict(enumerate(sorted({self._structures[name].name for name in self.counts}), 1)), organs)
        found = {}
        for name in sorted(self.counts):
            structure = self._structures[name]
            found[name] = by_name[structure.name] or suggested({1: structure.meaning}, organs)[structure.meaning]
        return found

    def values(self, label_map: LabelMap, organs: Mapping[int, str]) -> tuple[dict[str, int], list[str]]:
        """The label value of each structure that is an organ, by its name; and notes on the label map.

        Raises:
            AmosError: the label map gives a structure an organ that is none of `organs`, or several.
        """
        by_key = {organ_key(organ): value for value, organ in organs.items()}
        by_key |= {str(value): value for value in organs}
        spelled = {organ_key(name): equals for name, equals in label_map.items()}
        for name, equals in label_map.items():
            if len(equals) > 1:
                several = " and ".join(map(repr, equals))
                raise AmosError(
                    f"label map: {name!r} equals {several}, and nothing says which voxel is which", "leave it empty"
                )
            if equals and organ_key(equals[0]) not in by_key:
                raise AmosError(f"label map: there is no organ {equals[0]!r}", nearest(equals[0], organs.values()))
        found = {}
        for name in self.counts:
            plain = self._structures[name].name
            equals = label_map.get(name, label_map.get(plain, spelled.get(organ_key(plain), ())))
            if equals:
                found[name] = by_key[organ_key(equals[0])]
        here = {*self.counts, *(organ_key(self._structures[name].name) for name in self.counts)}
        strangers = [name for name in label_map if name not in here and organ_key(name) not in here]
        return found, [f"the label map names {name!r}, which no label of the export has" for name in strangers]
