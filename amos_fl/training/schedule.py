"""The learning rate as a function of a site's own step within its total."""


def polynomial_learning_rate(initial: float, step: int, total_steps: int, exponent: float = 0.9) -> float:
    """initial * (1 - step / total) ** exponent, for `step` = 0 .. total - 1 (nnU-Net; Chen et al. 2018).

    nnU-Net changes it once per epoch of 250 steps; here it changes every step.

    >>> polynomial_learning_rate(0.01, 0, 100)
    0.01
    >>> polynomial_learning_rate(0.01, 50, 100, exponent=1.0)
    0.005
    """
    return initial * (1 - min(step, total_steps) / total_steps) ** exponent
