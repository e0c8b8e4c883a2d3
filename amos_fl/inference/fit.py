"""Least squares with weights that are not negative: more of a feature never means a lower value."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls


def fitted(
    features: Float[np.ndarray, "row feature"], values: Float[np.ndarray, " row"]
) -> tuple[float, Float[np.ndarray, " feature"]]:
    """Intercept and weights (0 or more) of the least squares fit of `values`, whatever the order of the rows.

    A feature that does not vary gets the weight 0.
    """
    rows = np.lexsort((values, *features.T))
    features, values = features[rows], values[rows]
    weights, _ = nnls(features - features.mean(axis=0), values - values.mean())
    return float(values.mean() - features.mean(axis=0) @ weights), weights
