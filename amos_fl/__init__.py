"""Federated learning for organ segmentation in abdominal CT and MR, one site per scanner.

What a script needs, each loaded when it is first used, so that `import amos_fl` costs nothing and
`amos_fl.read_cohort` does not load torch. `__init__.pyi` lists the names and where each of them is:

>>> import amos_fl
>>> amos_fl.plan_named("coarse").patch
(24, 24, 24)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
