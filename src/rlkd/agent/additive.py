"""The additive corrector: the reward of a batch is a sum of learnt contributions."""

import math
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd import arguments
from rlkd.agent.calibration import reach_of
from rlkd.agent.rollout import Rollout, state_and_action
from rlkd.agent.state import STATE_SIZE

_VARIABLES = STATE_SIZE + 1
_HIGHEST_DEGREE = 6
"""209 features; each one more is solved for in every fit."""
_LARGEST_BUFFER = 2**20
"""Trajectories: 143 MB of features of degree 3."""
_SCALES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_ACT_SCALES = (1e-5, 1e-4, *_SCALES)
_DECAYS = (0.05, 0.25, 1.0)


def exponents(degree: int) -> list[tuple[int, ...]]:
    """List the degrees in (c_t, c_s, v, T / T_max) of all products of degree 1 to `degree`."""
    every = product(range(degree + 1), repeat=_VARIABLES)
    return sorted((powers for powers in every if 1 <= sum(powers) <= degree), key=sum)


class AdditiveCorrector(nn.Module):
    r"""g_i = b + sum_{j <= i} h(s_j, a_j): a start value and a running sum of contributions.

    Instances of a batch have no order and their contributions to one reward add; this form says
    so. h is linear in products of Legendre polynomials of state and action, centred, so that an
    instance not seen yet is expected to contribute nothing and each g_i is the mean of r_b given
    the first i instances: both terms of L_C are then at their least at once.

    Past rewards, less their linear trend, are regressed on the sums of features of their batches.
    The coefficients have a Gaussian prior of variance scale * decay^(degree - 1), with one scale
    for products that hold the action and one for those of the state alone: smooth contributions
    are likelier than rough ones. The action's scale may be so low that it says nothing. Both
    scales, the decay and the noise are weighed by the evidence, and the posterior means are
    averaged by it, so that rewards without signal give contributions near 0. h does not depend on
    the policy, so that old trajectories stay valid; they matter, for a policy that has become sure
    of itself no longer varies its actions.

    Source: Bishop, "Pattern Recognition and Machine Learning" (2006), sections 3.3 to 3.5.

    Args:
        degree: largest total degree of a product; 3 gives 34 features.
        buffer: how many past trajectories it is fitted on.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(self, *, degree: int = 3, buffer: int = 2048) -> None:
        super().__init__()
        arguments.count("degree", degree, most=_HIGHEST_DEGREE)
        arguments.count("calibration_buffer", buffer, most=_LARGEST_BUFFER)
        self.degree = degree
        powers = torch.tensor(exponents(degree))
        features = len(powers)
        acts = powers[:, -1] > 0
        priors = [
            torch.where(acts, act_scale, state_scale) * decay ** (powers.sum(dim=1) - 1)
            for state_scale, act_scale, decay in product(_SCALES, _ACT_SCALES, _DECAYS)
        ]
        self.register_buffer("powers", powers, persistent=False)
        self.register_buffer("acts", acts.float(), persistent=False)
        self.register_buffer("prior_std", torch.stack(priors).sqrt(), persistent=False)
        self.register_buffer("feature_sums", torch.zeros(buffer, features))
        self.register_buffer("steps", torch.zeros(buffer))
        self.register_buffer("rewards", torch.zeros(buffer))
        self.register_buffer("coefficients", torch.zeros(features))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("start", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("trust", torch.zeros(()))

    powers: Tensor
    acts: Tensor
    prior_std: Tensor
    feature_sums: Tensor
    steps: Tensor
    rewards: Tensor
    coefficients: Tensor
    centre: Tensor
    start: Tensor
    spread: Tensor
    """Standard deviation of the remembered rewards, less their trend."""
    trust: Tensor
    """Reliability of the contributions to the last fitted trajectories, in [0, 1]: the
    expected correlation of the part of h that holds the action with its true value,
    sqrt(m^2 / (m^2 + v)), m and v its posterior mean and variance, m^2 and v averaged over
    instances. 0 before the first fit."""

    def features(self, rollout: Rollout) -> Float[Tensor, "trajectory step feature"]:
        """Return products of Legendre polynomials, orthonormal for uniform inputs in [0, 1]^4."""
        x = 2 * state_and_action(rollout) - 1
        legendre = [torch.ones_like(x), x]
        for n in range(1, self.degree):
            legendre.append(((2 * n + 1) * x * legendre[n] - n * legendre[n - 1]) / (n + 1))
        table = torch.stack([math.sqrt(2 * n + 1) * p for n, p in enumerate(legendre)], dim=-1)
        result = table[..., 0, self.powers[:, 0]]
        for variable in range(1, _VARIABLES):
            result = result * table[..., variable, self.powers[:, variable]]
        return result

    def reach(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the least and the greatest reward that is taken as it is."""
        return reach_of(self.rewards, self.steps > 0)

    @torch.no_grad()
    def fit(self, rollout: Rollout) -> None:
        """Remember closed trajectories and fit all that are remembered."""
        features = self.features(rollout) * rollout.mask[..., None]
        self.feature_sums = _shifted(self.feature_sums, features.sum(dim=1))
        self.steps = _shifted(self.steps, rollout.mask.sum(dim=1))
        self.rewards = _shifted(self.rewards, rollout.reward)
        present = (self.steps > 0).to(self.steps)
        count = present.sum().clamp_min(1)
        steps = self.steps.sum().clamp_min(1)
        self.centre = self.feature_sums.sum(dim=0) / steps
        rewards = self.rewards.clamp(*self.reach())
        self.start = (rewards * present).sum() / count

        nuisance = _level_and_trend(present)
        length = (steps / count).sqrt()
        inputs = (self.feature_sums - self.steps[:, None] * self.centre) / length
        inputs = inputs - nuisance @ (nuisance.T @ inputs)
        target = (rewards - self.start) * present
        target = target - nuisance @ (nuisance.T @ target)
        self.spread = (target.square().sum() / count).sqrt().clamp_min(1e-12)
        freedom = (count - nuisance.square().sum()).clamp_min(1)
        mean, covariance = self._posterior(inputs, target / self.spread, freedom)
        self.coefficients = mean * self.spread / length
        self.trust = self._trust(features, rollout.mask, mean, covariance)

    def predict(
        self, rollout: Rollout
    ) -> tuple[Float[Tensor, " trajectory"], Float[Tensor, "trajectory step"]]:
        """Return b for each trajectory, and g_1..g_n, in units of the reward."""
        contribution = ((self.features(rollout) - self.centre) @ self.coefficients) * rollout.mask
        start = self.start.expand(len(contribution))
        return start, start[:, None] + contribution.cumsum(dim=1)

    def _posterior(
        self,
        inputs: Float[Tensor, "row feature"],
        target: Float[Tensor, " row"],
        freedom: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, " feature"], Float[Tensor, "feature feature"]]:
        """Return mean and covariance of the coefficients, averaged over the priors by evidence.

        A prior's variances are in units of the noise's, which is set to its likeliest value.
        """
        scale = self.prior_std
        gram, projected = inputs.T @ inputs, inputs.T @ target
        precision = scale[:, :, None] * gram * scale[:, None, :]
        precision = precision + torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        factor, _ = torch.linalg.cholesky_ex(precision)
        whitened = torch.cholesky_solve((scale * projected)[..., None], factor)[..., 0]
        means = scale * whitened
        residual = (
            target.square().sum() - means @ projected
        )  # at the optimum, prior's part included
        residual = residual.clamp_min(1e-6 * freedom)
        half_log_determinant = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        weight = torch.softmax(-0.5 * freedom * residual.log() - half_log_determinant, dim=0)
        mean = weight @ means
        covariances = scale[:, :, None] * torch.cholesky_inverse(factor) * scale[:, None, :]
        within = torch.tensordot(weight * residual / freedom, covariances, dims=1)
        apart = means - mean
        return mean, within + (weight[:, None] * apart).T @ apart

    def _trust(
        self,
        features: Float[Tensor, "trajectory step feature"],
        mask: Float[Tensor, "trajectory step"],
        mean: Float[Tensor, " feature"],
        covariance: Float[Tensor, "feature feature"],
    ) -> Float[Tensor, ""]:
        rows = (features - self.centre * mask[..., None]).flatten(0, 1) * self.acts
        signal = (rows @ mean).square().sum()
        doubt = ((rows @ covariance) * rows).sum()
        return (signal / (signal + doubt).clamp_min(1e-30)).sqrt()


def _shifted(old: Tensor, new: Tensor) -> Tensor:
    return torch.cat((old, new))[-len(old) :]


def _level_and_trend(present: Float[Tensor, " row"]) -> Float[Tensor, "row 2"]:
    """Return an orthonormal constant and linear trend over the rows that are present."""
    level = present / present.sum().clamp_min(1).sqrt()
    age = torch.linspace(-1, 1, len(present), dtype=present.dtype, device=present.device)
    trend = (age - (age * level).sum() * level) * present
    return torch.stack((level, trend / trend.norm().clamp_min(1e-6)), dim=1)
