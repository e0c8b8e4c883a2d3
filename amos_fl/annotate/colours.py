"""Organ names and colours for the viewers: a label description for ITK-SNAP, a colour table for 3D Slicer."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from amos_fl.files import write_text
from amos_fl.pictures.preview import colours_of

ITK_SNAP, SLICER = "labels_itksnap.txt", "labels_slicer.ctbl"


def write_colours(folder: Path, organs: Mapping[int, str]) -> None:
    """Write both files into a folder."""
    colours = {label: tuple(int(c) for c in colours_of(np.array(label))) for label in organs}
    snap = ['    0     0    0    0        0  0  0    "Clear Label"']
    slicer = ["# names and colours of the organs", "0 background 0 0 0 0"]
    for label, organ in organs.items():
        red, green, blue = colours[label]
        snap.append(f'{label:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{organ}"')
        slicer.append(f"{label} {organ.replace(' ', '_')} {red} {green} {blue} 255")
    write_text(folder / ITK_SNAP, "\n".join(snap) + "\n")
    write_text(folder / SLICER, "\n".join(slicer) + "\n")
