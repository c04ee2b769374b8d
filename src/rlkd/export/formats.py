"""Networks written to files, each with the answers that its file gives when read back."""

import copy
import io
import re
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.onnx import operators

from rlkd import models
from rlkd.engine.task import Answer, Format
from rlkd.errors import UserError

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
"""Of the files of each format."""
_OPSET = 17  # the first whose operators torch's tracing exporter writes a detector with


@dataclass(frozen=True)
class Safetensors(Format):
    """Weights alone.

    Args:
        network: has the weights.
        fresh: builds another network and gives it a file's weights.
        answer: makes answers of a network.
    """

    network: nn.Module
    fresh: Callable[[Path], nn.Module]
    answer: Callable[[nn.Module], Answer]

    def write(self, path: Path) -> None:
        """Write the weights."""
        path.write_bytes(models.as_safetensors(self.network))

    def read(self, path: Path) -> Answer:
        """Return the answers of a fresh network with the file's weights."""
        return self.answer(self.fresh(path))


@dataclass(frozen=True)
class TorchExport(Format):
    """A classifier by `torch.export`, for any number of images at once.

    Args:
        network: the classifier.
        example: images that it is traced with.
    """

    network: nn.Module
    example: Float[Tensor, "2 c h w"]

    def write(self, path: Path) -> None:
        """Write the program."""
        with _exporting(self.network, "torch_export"):
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(self.network, (self.example,), dynamic_shapes=shapes)
            for module in program.graph_module.modules():
                for node in module.graph.nodes if isinstance(module, GraphModule) else ():
                    node.meta.pop("stack_trace", None)  # which names files of this machine
            content = io.BytesIO()
            torch.export.save(program, content)
        path.write_bytes(content.getbuffer())

    def read(self, path: Path) -> Answer:
        """Return the program's answers."""
        with _exporting(self.network, "torch_export"):
            read = torch.export.load(io.BytesIO(path.read_bytes())).module()
        return lambda images: [read(images)]


@dataclass(frozen=True)
class Onnx(Format):
    """A classifier as ONNX, `images` to `logits`, any number at once.

    Args:
        network: the classifier.
        example: images that it is traced with; for a detector one image.
    """

    network: nn.Module
    example: Float[Tensor, "..."]

    def write(self, path: Path) -> None:
        """Write the graph; a full disk is no fault of the exporter's."""
        with _exporting(self.network, "onnx"):
            content = self.content()
        path.write_bytes(content)

    def read(self, path: Path) -> Answer:
        """Return what onnxruntime makes of an input."""
        with _exporting(self.network, "onnx"):
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

    def content(self) -> bytes:
        """Return the bytes of the file."""
        program: Any = torch.onnx.export(
            self.network,
            (self.example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        for node in program.model.graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # as above
        return program.model_proto.SerializeToString()


@dataclass(frozen=True)
class DetectorOnnx(Onnx):
    """A detector as ONNX: one `image` to `boxes`, `labels` and `scores`.

    By torch's older exporter, which follows the operators of one call: `torch.export` does not get
    through torchvision's choice of proposals, whose number depends on the image.
    """

    def content(self) -> bytes:
        """Return the bytes of the file."""
        content: Any = io.BytesIO()
        torch.onnx.export(
            _resizing_exactly(self.network),
            ([self.example],),
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
        return content.getvalue()


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


@contextmanager
def _exporting(network: nn.Module, name: str) -> Generator[None]:
    """Report why a network cannot be written, and silence the exporters meanwhile.

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
            "pip install onnx onnxscript onnxruntime"
        ) from error
    except Exception as error:  # whatever an exporter meets in a network's own code
        plain = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip()  # without torch.onnx's colours
        reason = (plain.splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"format={name} does not hold this {type(network).__name__} ({reason}): "
            "give format=safetensors"
        ) from error
