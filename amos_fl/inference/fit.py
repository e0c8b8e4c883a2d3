"""Least squares with weights that are not negative: more of a feature never means a lower value."""

import math

import numpy as np
from jaxtyping import Float

SWEEPS = 10_000
SETTLED = 1e-12


def fitted(
    features: Float[np.ndarray, "row feature"], values: Float[np.ndarray, " row"]
) -> tuple[float, Float[np.ndarray, " feature"]]:
    """Intercept and weights (0 or more) of the least squares fit of `values`.

    Coordinate descent on the normal equations (Franc et al. 2005), whose sums are exact, so that the result depends on
    neither the order of rows nor the machine's BLAS. A feature that does not vary gets the weight 0.
    """
    number = features.shape[1]
    means = np.array([math.fsum(column) / len(column) for column in features.T])
    mean = math.fsum(values) / len(values)
    centred, targets = features - means, values - mean
    squares = np.array([[math.fsum(a * b) for b in centred.T] for a in centred.T]).reshape(number, number)
    products = [math.fsum(column * targets) for column in centred.T]
    weights = [0.0] * number
    for _ in range(SWEEPS):
        moved = 0.0
        for i in range(number):
            if squares[i, i] <= SETTLED:
                continue
            others = math.fsum(squares[i, j] * weights[j] for j in range(number) if j != i)
            new = max(0.0, (products[i] - others) / squares[i, i])
            moved, weights[i] = max(moved, abs(new - weights[i])), new
        if moved < SETTLED:
            break
    intercept = mean - math.fsum(w * m for w, m in zip(weights, means, strict=True))
    return intercept, np.array(weights)
