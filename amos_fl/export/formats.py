"""A network as one file that needs none of its code: TorchScript or ONNX, compared with the network itself."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amos_fl.errors import AmosError
from amos_fl.export.command import opened
from amos_fl.randomness import generator
from amos_fl.volumes.plan import Triple
from amos_fl.wording import first_line

TOLERANCE = 1e-4
"""How far a logit of the file may be from the network's, in parts of the largest logit (or of 1, if that is more)."""


def write_torchscript(network: nn.Module, patch: Triple, folder: Path, model: str) -> Path:
    """Write `network.ts` into a folder: a trace of the network, in evaluation mode, for any number of windows.

    Raises:
        AmosError: it cannot be traced, or the trace gives other logits than the network.
    """
    path = folder / "network.ts"

    def write(windows: Tensor) -> None:
        traced: Any = torch.jit.trace(network, windows, check_trace=False)
        _follow_the_windows(traced)
        torch.jit.save(traced, str(path))

    _write_and_compare(network, patch, folder, f"model {model}: cannot be written as TorchScript", write)
    return path


def write_onnx(network: nn.Module, patch: Triple, folder: Path, model: str) -> Path:
    """Write `network.onnx` into a folder: `windows` (window, 1, x, y, z) to `logits` (window, class, x, y, z).

    Raises:
        AmosError: the extra `export` is not installed, the network uses what ONNX does not have, or onnxruntime gives
        other logits than the network.
    """
    try:
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports] - the extra may be missing
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports] - torch.onnx needs it
    except ImportError:
        raise AmosError("ONNX needs more packages", 'install them with: pip install "amos-fl[export]"') from None
    path = folder / "network.onnx"

    def write(windows: Tensor) -> None:
        any_number = torch.export.Dim("window", min=1, max=4096)
        with _FlatAttention():
            made = torch.onnx.export(
                network,
                (windows,),
                dynamo=True,
                dynamic_shapes=({0: any_number},),
                input_names=["windows"],
                output_names=["logits"],
                verbose=False,
            )
        assert made is not None
        made.save(path)

    _write_and_compare(network, patch, folder, f"model {model}: cannot be written as ONNX", write)
    return path


def _write_and_compare(
    network: nn.Module, patch: Triple, folder: Path, what: str, write: Callable[[Tensor], None]
) -> None:
    remedy = "choose another format with --to, or use 'amos-fl predict'"
    network.eval()
    with torch.no_grad(), _quiet():
        one, several = _windows(1, patch), _windows(3, patch)
        wanted = [network(one), network(several)]  # first: networks keep constants that they make when they first run
        try:
            write(several)
            found = [opened(folder, torch.get_num_threads())(windows) for windows in (one, several)]
        except Exception as error:  # whatever a converter raises about a network that it does not understand
            raise AmosError(f"{what} ({first_line(_root(error))})", remedy) from error
    for logits, ours in zip(found, wanted, strict=True):
        off = float((logits - ours).abs().max()) if logits.shape == ours.shape else np.inf
        if not off <= TOLERANCE * max(1.0, float(ours.abs().max())):
            raise AmosError(f"{what}: its logits would be off by {off:.2g}", remedy)


def _follow_the_windows(traced: Any) -> None:
    """Have a trace make its own tensors (positions, masks) where its input is: it noted the device of the tracing."""
    for part in traced.modules():
        try:
            graph = part.graph
        except RuntimeError:  # a part whose forward is never called
            continue
        tensors = [value for value in graph.inputs() if value.type().kind() == "TensorType"]
        constants = graph.findAllNodes("prim::Constant")
        noted = [each for each in constants if each.output().type().kind() == "DeviceObjType"]
        if tensors and noted:
            device = graph.create("prim::device", [tensors[0]], 1)
            device.output().setType(noted[0].output().type())
            graph.prependNode(device)
            for each in noted:
                each.output().replaceAllUsesWith(device.output())


class _FlatAttention(TorchFunctionMode):
    """Attention with one dimension of batches in place of several (nnFormer's windows), which the converter knows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or args[0].dim() <= 4:
            return func(*args, **kwargs)
        batches = args[0].shape[:-3]
        flat = [each.flatten(0, -4) for each in args[:3]]
        if (mask := kwargs.get("attn_mask")) is not None:
            kwargs = {**kwargs, "attn_mask": mask.flatten(0, -4)}
        return func(*flat, **kwargs).unflatten(0, batches)


def _root(error: BaseException) -> BaseException:
    """The first of the errors that led to this one: the converters wrap each in advice about themselves."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _windows(number: int, patch: Triple) -> Float[Tensor, "window 1 x y z"]:
    draw = generator(0, "windows of an export", number)
    return torch.from_numpy(draw.standard_normal((number, 1, *patch), np.float32))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converters' messages about their own insides: whether the file is right is measured."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
