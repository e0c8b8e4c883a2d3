"""The learning rate as a function of a site's own step within its total, and how far steps move the parameters."""

from amos_fl.training.settings import TrainingSettings


def polynomial_learning_rate(initial: float, step: int, total_steps: int, exponent: float = 0.9) -> float:
    """initial * (1 - step / total) ** exponent, for `step` = 0 .. total - 1 (nnU-Net; Chen et al. 2018).

    nnU-Net changes it once per epoch of 250 steps; here it changes every step.

    >>> polynomial_learning_rate(0.01, 0, 100)
    0.01
    >>> polynomial_learning_rate(0.01, 50, 100, exponent=1.0)
    0.005
    """
    return initial * (1 - min(step, total_steps) / total_steps) ** exponent


def displacement(settings: TrainingSettings, first_step: int, steps: int, total_steps: int) -> float:
    """How far the parameters move against a constant gradient of 1, in steps that begin without momentum.

    With Nesterov momentum m and rates r_k the gradient of step j moves them by r_j + sum over k >= j of
    r_k m^(k-j+1); this is the sum over all steps j. Without momentum it is the sum of the rates.

    >>> from amos_fl.training.settings import TrainingSettings
    >>> plain = TrainingSettings(learning_rate=0.5, learning_rate_exponent=0, momentum=0)
    >>> displacement(plain, 0, 3, 10)
    1.5
    """
    moved = behind = 0.0
    for step in reversed(range(first_step, first_step + steps)):
        rate = polynomial_learning_rate(settings.learning_rate, step, total_steps, settings.learning_rate_exponent)
        behind = settings.momentum * (rate + behind)
        moved += rate + behind
    return moved
