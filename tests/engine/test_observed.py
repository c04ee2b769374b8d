from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.support.runs import Ready
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import models
from rlkd.errors import UserError
from rlkd.losses import Objective, Term, cross_entropy, kd, pkt
from rlkd.models import Teacher
from rlkd.tasks.classification.forward import prepare_forward
from rlkd.temperature import ConstantTemperature
from rlkd.types import Batch


def gap(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    return (student_feature.mean() - teacher_feature.mean()).square()


def test_a_loss_gets_the_pair_of_features_that_its_term_names(
    ready: Ready, student: nn.Module, teacher: Teacher, batch: Batch
) -> None:
    seen: list[tuple[torch.Size, torch.Size]] = []

    def shapes(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        seen.append((student_feature.shape, teacher_feature.shape))
        return student_feature.mean()

    objective, forward = ready(one=Term(shapes, layers="stage2"), all=Term(shapes, layers="stages"))
    seen.clear()
    objective(forward(batch).inputs)
    # the CIFAR ResNets: 16, 32 and 64 channels at 32, 16 and 8 pixels
    stages = [(4, 16, 32, 32), (4, 32, 16, 16), (4, 64, 8, 8)]
    assert seen == [(torch.Size(each),) * 2 for each in (stages[1], *stages)]


def test_a_loss_applied_to_several_layers_is_their_sum(ready: Ready, batch: Batch) -> None:
    layers = ["stage1", "stage3"]
    objective, forward = ready(
        both=Term(gap, layers=layers), a=Term(gap, layers="stage1"), b=Term(gap, layers="stage3")
    )
    _, parts = objective(forward(batch).inputs)
    torch.testing.assert_close(parts["both"], parts["a"] + parts["b"])


def test_networks_may_be_tapped_at_paths_of_their_own(ready: Ready, batch: Batch) -> None:
    places = {"student": "layer1.0", "teacher": "layer1.1"}
    objective, forward = ready(gap=Term(gap, layers=[places]))
    assert objective.pairs["gap"] == [("layer1.0", "layer1.1")]
    assert torch.isfinite(objective(forward(batch).inputs)[0])


def test_embeddings_are_what_the_classifiers_read(
    ready: Ready, student: nn.Module, teacher: Teacher, batch: Batch
) -> None:
    found: dict[str, Tensor] = {}

    def keep(
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        teacher_logits: Tensor,
        teacher_head: Callable[[Tensor], Tensor],
    ) -> Tensor:
        found["student"], found["again"] = student_embedding, teacher_head(teacher_embedding)
        found["teacher"] = teacher_logits
        return student_embedding.mean()

    objective, forward = ready(keep=Term(keep))
    seen = forward(batch).inputs
    objective(seen)
    head = models.features.module_at(student, "fc")
    torch.testing.assert_close(head(found["student"]), seen.student_logits)
    torch.testing.assert_close(found["again"], found["teacher"])


class Regressor(nn.Module):
    """A loss with a head of its own, built from examples."""

    def __init__(self, student_feature: Tensor, teacher_feature: Tensor, *, bias: bool = False):
        super().__init__()
        channels = student_feature.shape[1], teacher_feature.shape[1]
        self.conv = nn.Conv2d(*channels, 1, bias=bias)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        self.calls += 1
        return F.mse_loss(self.conv(student_feature), teacher_feature)


def test_a_loss_with_a_head_is_built_for_each_layer_and_trained_along(
    ready: Ready, batch: Batch
) -> None:
    objective, forward = ready(hint=Term(partial(Regressor, bias=True), layers="stages"))
    assert [tuple(each.shape) for each in objective.parameters()] == [
        (16, 16, 1, 1), (16,), (32, 32, 1, 1), (32,), (64, 64, 1, 1), (64,),
    ]  # fmt: skip
    objective(forward(batch).inputs)[0].backward()
    assert all(each.grad is not None for each in objective.parameters())


def test_the_rehearsal_leaves_heads_networks_and_random_numbers_alone(
    ready: Ready, student: nn.Module, batch: Batch
) -> None:
    before = {name: value.clone() for name, value in student.state_dict().items()}
    torch.manual_seed(7)
    objective, _ = ready(hint=Term(Regressor), noisy=Term(noisy))
    after_building = torch.random.get_rng_state()
    assert objective.state_dict()["losses.hint.0.calls"] == 0
    torch.manual_seed(7)
    nn.Conv2d(64, 64, 1, bias=False)
    assert torch.equal(torch.random.get_rng_state(), after_building)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert student.training


def noisy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits + torch.randn_like(student_logits)).mean()


def test_the_teacher_and_its_head_stay_out_of_optimisers_and_checkpoints(
    ready: Ready, batch: Batch
) -> None:
    def headed(student_logits: Tensor, teacher_head: Callable[[Tensor], Tensor]) -> Tensor:
        return teacher_head(torch.ones(1, 64)).mean() + student_logits.mean()

    objective, forward = ready(headed=Term(headed))
    assert not list(objective.parameters())
    assert not objective.state_dict()
    assert objective(forward(batch).inputs)[0].requires_grad


def test_losses_run_in_float32_under_autocast(ready: Ready, batch: Batch) -> None:
    kinds: list[torch.dtype] = []

    def product(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        gram = student_embedding @ teacher_embedding.T
        kinds.append(gram.dtype)
        return gram.mean()

    objective, forward = ready(product=Term(product))
    with torch.autocast("cpu", torch.bfloat16):
        objective(forward(batch).inputs)
    assert kinds[-1] == torch.float32


def test_a_loss_that_does_not_fit_is_named_before_training(ready: Ready) -> None:
    def odd(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        return (student_feature - teacher_feature[:, :5]).mean()

    with pytest.raises(UserError, match=r"loss odd does not fit .*size"):
        ready(odd=Term(odd))


def test_a_loss_of_the_wrong_shape_is_refused(ready: Ready) -> None:
    with pytest.raises(UserError, match=r"loss rows returned \(4,\): return one number"):
        ready(rows=Term(partial(kd, reduction="none")))


def test_a_layer_that_does_not_exist_lists_paths_and_names(ready: Ready) -> None:
    expected = r"loss gap: there is no module 'layr2' .*layer2.*by name there are .*stage1"
    with pytest.raises(UserError, match=expected):
        ready(gap=Term(gap, layers="layr2"))


def test_a_network_without_maps_or_a_linear_classifier_is_refused_for_the_losses_that_want_them(
    batch: Batch,
) -> None:
    def refusal(network: nn.Module, loss: Callable[..., Tensor]) -> str:
        objective = Objective({"ce": Term(cross_entropy), "own": Term(loss)})
        with pytest.raises(UserError) as refused:
            prepare_forward(
                objective,
                network,
                network,
                batch=batch,
                train_targets=torch.arange(10),
                num_classes=10,
                temperature=None,
            )
        return str(refused.value)

    flat = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    flat(batch.image)
    assert refusal(flat, gap).startswith("loss own: it needs feature maps, and Sequential has no")
    maps = nn.Sequential(
        nn.Conv2d(batch.image.shape[1], 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert refusal(maps, pkt).startswith("loss own: the student has no linear classifier")


def test_other_numbers_of_classes_are_refused(student: nn.Module, batch: Batch) -> None:
    other = Teacher(models.create("resnet8", num_classes=12))
    with pytest.raises(UserError, match="teacher gives 12 logits and the data have 10 classes"):
        prepare_forward(
            Objective({"ce": Term(cross_entropy), "kd": Term(kd)}),
            student,
            other,
            batch=batch,
            train_targets=torch.arange(10),
            num_classes=10,
            temperature=ConstantTemperature(4.0),
        )


def test_a_weight_may_warm_up(ready: Ready, batch: Batch) -> None:
    def one(student_logits: Tensor) -> Tensor:
        return 1 + 0 * student_logits.mean()

    objective, forward = ready(one=Term(one, weight=2.0, warmup_epochs=4))
    totals = []
    for epoch in (1, 3, 4, 9):
        objective.start_epoch(epoch)
        totals.append(objective(forward(batch).inputs)[0].item())
    assert totals == pytest.approx([0.5, 1.5, 2.0, 2.0])  # 2 min(E / 4, 1)


def test_a_teacher_may_want_another_normalisation(batch: Batch) -> None:
    network = models.create("resnet8", num_classes=10).eval()
    scale, shift = torch.full((3, 1, 1), 2.0), torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    teacher = Teacher(network, renormalise=(scale, shift))
    torch.testing.assert_close(teacher(batch.image), network(batch.image * scale + shift))
    assert not teacher.state_dict()
