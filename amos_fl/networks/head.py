"""Find the arrays of a network that depend on the number of organs, by building it for two such numbers.

No network has to declare its head: deep-supervision heads, normalisation after a head and running statistics are found
like the last convolution.
"""

from torch import nn

from amos_fl.networks.registry import outline
from amos_fl.volumes.plan import Plan

Shapes = dict[str, tuple[int, ...]]


def shapes_of(network: nn.Module) -> Shapes:
    """The shape of every array of a network's state, by name."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def class_axes(model: str, plan: Plan, organ_count: int) -> dict[str, tuple[int, ...]]:
    """The head: for every array that depends on the organs, its axes that hold background and then the organs.

    An array whose size depends on the organs other than by one entry each has no such axis, `()`.

    >>> from amos_fl.volumes.plan import plan_named
    >>> class_axes("small", plan_named("coarse"), 15)["output_block.conv.conv.weight"]
    (0,)

    Raises:
        AmosError: no model of that name, or a plan that it cannot follow.
    """
    shapes = shapes_of(outline(model, plan, organ_count))
    one_more = shapes_of(outline(model, plan, organ_count + 1))
    axes: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        other = one_more.get(name, ())
        if other == shape:
            continue
        differ = [axis for axis, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b]
        one_place_each = len(shape) == len(other) and all(
            (shape[axis], other[axis]) == (organ_count + 1, organ_count + 2) for axis in differ
        )
        axes[name] = tuple(differ) if one_place_each else ()
    return axes
