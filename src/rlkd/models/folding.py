"""A frozen network that computes the same in fewer operations."""

import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental import optimization
from torch.nn import functional as F

from rlkd.models.outputs import keep_hooks

_RELUS = (F.relu, torch.relu, torch.relu_)
_SUMS = (operator.add, operator.iadd, torch.add)
_JOINED: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_JOINED_SUM: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise_", None)
"""What torch.compile has convolutions of a CPU do; None where torch was built without oneDNN."""
_BFLOAT16: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)


def folded(network: nn.Module) -> nn.Module:
    """Return a copy of a network that gives the same logits sooner.

    Batch norms become part of the convolutions before them, and on a CPU so do a ReLU after a
    convolution and the addition of a residual branch between the two: the same up to rounding.
    Hooks on its modules may no longer fire.

    Args:
        network: in evaluation mode; returned as it is where it cannot be traced, or where a batch
            norm follows one of several calls of a layer: it would be folded into all of them.
    """
    try:
        if _norms_a_tied_layer(network):
            return network
        made = optimization.fuse(network)
        assert isinstance(made, fx.GraphModule)
        if _JOINED is not None and _JOINED_SUM is not None:
            _join(made)
    except Exception:  # a network's own code may raise anything when it is traced
        return network
    return keep_hooks(made, network)


def _norms_a_tied_layer(network: nn.Module) -> bool:
    """Return whether a batch norm follows one of several uses of a layer's weights."""
    traced = fx.symbolic_trace(network)
    nodes: Any = traced.graph.nodes
    uses = Counter(str(node.target) for node in nodes if node.op == "call_module")
    uses.update(str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr")
    before = (
        node.args[0]
        for node in nodes
        if node.op == "call_module"
        and isinstance(traced.get_submodule(str(node.target)), nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
    )
    return any(isinstance(each, fx.Node) and uses[str(each.target)] > 1 for each in before)


class JoinedConvolution(nn.Module):
    """A convolution, a ReLU after it, and an addition between them where there is one.

    One loop does them on a CPU, where no gradient is asked for.

    Args:
        convolution: padded with zeros.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(
        self,
        image: Tensor,
        added: Tensor | None = None,
    ) -> Tensor:
        """Return relu(convolution(image) + added); `added` may be overwritten."""
        held = self.convolution
        if not self._joins(image) or (added is not None and not self._fits(image, added)):
            output = held(image)
            return F.relu(output if added is None else output + added)
        shape = held.padding, held.stride, held.dilation, held.groups
        if added is None:
            return _JOINED(image, held.weight, held.bias, *shape, "relu", [], "")
        return _JOINED_SUM.binary(
            added, image, held.weight, held.bias, *shape, "add", 1.0, "relu", [], ""
        )

    def _joins(self, image: Tensor) -> bool:
        return (
            image.device.type == "cpu"
            and image.dim() == 4
            and image.dtype == self.convolution.weight.dtype
            and (image.dtype == torch.float32 or (image.dtype == torch.bfloat16 and _BFLOAT16()))
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()  # which joins them itself
        )

    def _fits(self, image: Tensor, added: Tensor) -> bool:
        """Return whether the output has the shape and the type of what is added to it."""
        held = self.convolution
        sizes = zip(
            image.shape[2:],
            held.kernel_size,
            held.stride,
            held.dilation,
            (int(each) for each in held.padding),
            strict=True,
        )
        high_wide = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in sizes]
        return added.dtype == image.dtype and list(added.shape) == [
            len(image), held.out_channels, *high_wide
        ]  # fmt: skip


def _join(network: fx.GraphModule) -> None:
    nodes: Any = network.graph.nodes
    for node in list(nodes):
        if node.op != "call_module":
            continue
        held = network.get_submodule(node.target)
        if type(held) is nn.Identity and not _hooked(held):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
    for relu in list(nodes):
        if not _is_relu(relu, network):
            continue
        before = relu.args[0]
        added = None
        if before.target in _SUMS and len(before.args) == 2 and not before.kwargs:
            before, added = _parted(before, network)
        if not _is_own(before, network):
            continue
        # Where the convolution stands: by the ReLU's place what it reads may have been overwritten.
        with network.graph.inserting_before(before):
            given = before.args if added is None else (*before.args, added)
            joined = network.graph.call_module(before.target, given)
        held = network.get_submodule(before.target)
        assert isinstance(held, nn.Conv2d)
        network.set_submodule(before.target, JoinedConvolution(held))
        total = relu.args[0]
        relu.replace_all_uses_with(joined)
        for each in dict.fromkeys((relu, total, before)):
            network.graph.erase_node(each)
    network.graph.lint()
    network.recompile()


def _parted(total: Any, network: fx.GraphModule) -> tuple[Any, Any]:
    """Return the convolution of a sum, and the other part, which nobody uses any more."""
    for before, added in (total.args, total.args[::-1]):
        if (
            len(total.users) == 1
            and _is_own(before, network)
            and before is not added
            and isinstance(added, fx.Node)
            and added < before
            and _is_convolution(added, network)
            and all(each is total or _is_convolution(each, network) for each in added.users)
            and all(each is total or each < before for each in added.users)
        ):
            return before, added
    return None, None


def _is_own(node: Any, network: fx.GraphModule) -> bool:
    """Return whether a node is a convolution that is called here alone, for one use alone."""
    if not _is_convolution(node, network) or len(node.users) != 1 or len(node.args) != 1:
        return False
    held = network.get_submodule(node.target)
    calls = [each for each in network.graph.nodes if each.target == node.target]
    plain = isinstance(held, nn.Conv2d) and held.padding_mode == "zeros"
    return plain and not isinstance(held.padding, str) and len(calls) == 1


def _is_convolution(node: Any, network: fx.GraphModule) -> bool:
    if not isinstance(node, fx.Node) or node.op != "call_module" or node.kwargs:
        return False
    held = network.get_submodule(str(node.target))
    return type(held) in (nn.Conv2d, JoinedConvolution) and not _hooked(held)


def _is_relu(node: Any, network: fx.GraphModule) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node) or len(node.args[0].users) != 1:
        return False
    if node.op == "call_module":
        held = network.get_submodule(str(node.target))
        return type(held) is nn.ReLU and not _hooked(held)
    return (node.op == "call_method" and node.target == "relu") or node.target in _RELUS


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)  # pyright: ignore[reportPrivateUsage]
