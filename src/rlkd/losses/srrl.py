"""Softmax regression representation learning: the student's features in the teacher's head."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.checks import check_logits


class SRRL(nn.Module):
    r"""Asks of the student's features that the teacher's classifier read the teacher's in them.

    A connector (1 x 1 convolution, batch norm, ReLU) turns the student's map into channels of the
    teacher's embedding; f is its mean over the map's places. With the teacher's embedding e,
    logits z and classifier c,

        loss = mean (f - e)^2 + mean (c(f) - z)^2,

    the feature matching and the softmax regression, each a mean over all elements. The gradient
    goes through the frozen classifier into the connector and the student.

    Args:
        student_feature: an example of the student's last map.
        teacher_embedding: an example of what goes into the teacher's classifier; where a network
            averages its last map, that mean.

    Source: Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning"
    (ICLR 2021), section 3, with the equal weights of the published code. The code of CTKD and of
    RLKD takes the mean first and connects the student's embedding instead.
    """

    def __init__(
        self,
        student_feature: Float[Tensor, "batch student_channels height width"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> None:
        super().__init__()
        student_channels, teacher_dim = student_feature.shape[1], teacher_embedding.shape[1]
        self.connect = nn.Conv2d(student_channels, teacher_dim, 1, bias=False)
        self.normalize = nn.BatchNorm2d(teacher_dim)
        nn.init.kaiming_normal_(self.connect.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self,
        student_feature: Float[Tensor, "batch student_channels height width"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
        teacher_logits: Float[Tensor, "batch classes"],
        teacher_head: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, ""]:
        """Return the sum of both losses.

        Args:
            student_feature: the student's last map.
            teacher_embedding: what goes into the teacher's classifier.
            teacher_logits: what comes out of it.
            teacher_head: the classifier, frozen.

        Raises:
            ValueError: see `checks.check_logits`.
        """
        feature = student_feature.to(self.connect.weight.dtype)
        connected = F.relu(self.normalize(self.connect(feature))).mean(dim=(2, 3))
        matching = F.mse_loss(connected, teacher_embedding.detach().to(connected.dtype))
        logits = teacher_head(connected)
        check_logits(logits, teacher_logits)
        return matching + F.mse_loss(logits, teacher_logits.detach().to(logits.dtype))
