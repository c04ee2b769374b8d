"""Networks written to files, each with the answers that its file gives when read back."""

import copy
import io
import re
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.onnx import operators

from rlkd import models
from rlkd.engine.task import Answer
from rlkd.errors import UserError

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
"""Of the files of each format."""
_OPSET = 17  # the first whose operators torch's tracing exporter writes a detector with


def write_safetensors(
    network: nn.Module, fresh: Callable[[Path], nn.Module], answer: Callable[[nn.Module], Answer]
) -> Callable[[Path], Answer]:
    """Return what writes weights alone.

    Args:
        network: has the weights.
        fresh: builds another network and gives it a file's weights.
        answer: makes answers of a network.
    """

    def write(path: Path) -> Answer:
        path.write_bytes(models.as_safetensors(network))
        return answer(fresh(path))

    return write


def write_torch_export(
    network: nn.Module, example: Float[Tensor, "2 c h w"]
) -> Callable[[Path], Answer]:
    """Return what writes a classifier by `torch.export`, for any number of images at once."""

    def write(path: Path) -> Answer:
        with _exporting(network, "torch_export"):
            batch = torch.export.Dim("batch")
            program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
            for module in program.graph_module.modules():
                for node in module.graph.nodes if isinstance(module, GraphModule) else ():
                    node.meta.pop("stack_trace", None)  # which names files of this machine
            content = io.BytesIO()
            torch.export.save(program, content)
        path.write_bytes(content.getbuffer())
        with _exporting(network, "torch_export"):
            read = torch.export.load(io.BytesIO(path.read_bytes())).module()
        return lambda images: [read(images)]

    return write


def write_onnx(network: nn.Module, example: Float[Tensor, "2 c h w"]) -> Callable[[Path], Answer]:
    """Return what writes a classifier as ONNX, `images` to `logits`, any number at once."""

    def write(path: Path) -> Answer:
        with _exporting(network, "onnx"):
            program: Any = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            for node in program.model.graph.all_nodes():
                node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # as above
            content = program.model_proto.SerializeToString()
        return _read_back(network, path, content)

    return write


def write_detector_onnx(
    network: nn.Module, example: Float[Tensor, "3 h w"]
) -> Callable[[Path], Answer]:
    """Return what writes a detector as ONNX: one `image` to `boxes`, `labels` and `scores`.

    By torch's older exporter, which follows the operators of one call: `torch.export` does not get
    through torchvision's choice of proposals, whose number depends on the image.
    """

    def write(path: Path) -> Answer:
        content: Any = io.BytesIO()
        with _exporting(network, "onnx"):
            torch.onnx.export(
                _resizing_exactly(network),
                ([example],),
                content,
                dynamo=False,
                opset_version=_OPSET,
                input_names=["image"],
                output_names=["boxes", "labels", "scores"],
                dynamic_axes={
                    "image": {1: "height", 2: "width"},
                    **{name: {0: "objects"} for name in ("boxes", "labels", "scores")},
                },
            )
        return _read_back(network, path, content.getbuffer())

    return write


def _resizing_exactly(detector: nn.Module) -> nn.Module:
    """Return a detector whose graph resizes images to the very pixel that the detector does.

    torchvision's own graph computes sizes in float32 and floors them, which at some sizes (488 to a
    shorter side of 320) gives a row less than its Python, which computes in float64.
    """
    exact = copy.deepcopy(detector)
    transform: Any = exact.transform
    if transform.fixed_size is not None:
        return exact

    # Not numbers one by one, which the exporter takes for float32.
    limits = torch.tensor([transform.min_size[-1], transform.max_size], dtype=torch.float64)

    def resize(image: Tensor, target: None = None) -> tuple[Tensor, None]:
        shape = operators.shape_as_tensor(image)[-2:].double()
        scale = (limits / torch.stack([shape.min(), shape.max()])).min()
        height, width = (shape * scale).floor().long()
        size: Any = (height, width)
        return F.interpolate(image[None], size=size, mode="bilinear")[0], target

    transform.resize = resize
    return exact


def _read_back(network: nn.Module, path: Path, content: bytes | memoryview) -> Answer:
    """Write an ONNX file and return its answers; a full disk is no fault of the exporter's."""
    path.write_bytes(content)
    with _exporting(network, "onnx"):
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        session: Any = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        (name,) = (each.name for each in session.get_inputs())

    def answer(image: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(each) for each in session.run(None, {name: image.numpy()})]

    return answer


@contextmanager
def _exporting(network: nn.Module, name: str) -> Generator[None]:
    """Tell the user why a network cannot be written, and hush what exporters say meanwhile.

    Raises:
        UserError: if a package is missing, or the exporter does not get through.
    """
    try:
        said = io.StringIO()
        with (
            redirect_stdout(said),  # where graphs are printed
            redirect_stderr(said),
            warnings.catch_warnings(action="ignore"),
            torch.no_grad(),
        ):
            yield
    except ImportError as error:
        raise UserError(
            f"format={name} needs packages that are not installed ({error}): "
            "pip install 'rlkd[export]'"
        ) from error
    except Exception as error:  # whatever an exporter meets in a network's own code
        plain = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip()  # without torch.onnx's colours
        reason = (plain.splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"format={name} does not hold this {type(network).__name__} ({reason}): "
            "give format=safetensors"
        ) from error
