"""Federated learning for organ segmentation in abdominal CT and MR, one site per scanner.

The public names are loaded on first use, so that `import amos_fl` costs almost nothing and `amos_fl.read_cohort` does
not load torch. `__init__.pyi` lists the names and their modules:

>>> import amos_fl
>>> amos_fl.plan_named("coarse").patch
(24, 24, 24)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
