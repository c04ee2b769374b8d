"""The temperature agent: a temperature source that learns while a student trains."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments, distributed
from rlkd.agent.gathering import Seen, nothing_scored, of_all_ranks
from rlkd.agent.learner import Calibration, Learner, check_options, dtype_kept
from rlkd.agent.look_ahead import Looking
from rlkd.agent.noise import draw_field
from rlkd.agent.restoring import check_agent
from rlkd.agent.reward import Metric, Reward, RewardSource, mean_score
from rlkd.agent.rollout import Rollout, Trajectory, Window, kept_rows
from rlkd.agent.state import Feature, StateOf, learning_rate_feature, temperature_figures
from rlkd.checks import check_logits, usable_rows
from rlkd.errors import InputError, UserError, notice
from rlkd.temperature import TemperatureSource
from rlkd.temperature.look_ahead import GainOf, HeldOut
from rlkd.temperature.over import Over, check_over, over
from rlkd.temperature.random_stream import RandomStream
from rlkd.types import Temperatures


class TemperatureAgent(TemperatureSource):
    """Sets the temperature of every instance by a policy that it learns on the way.

    Call it once a batch, between the two networks' forward passes and the student's update, as
    in `examples/plain_loop.py`. It acts for all rows in one call and learns once every
    `update_interval` closed trajectories. In `eval()` it gives the greedy temperatures (those of
    the policy's mean) and learns nothing. Its `state_dict` holds everything that a resumed run
    needs.

    With the reward sources `same_batch` and `probe` the loop must answer `observation_due`, and
    with `look_ahead` `look_ahead_due`, see `TemperatureSource`.

    Several ranks, with as many rows each, act and learn as one agent on the whole batch would.

    A row whose logits are NaN or infinite gets the base temperature and is left out of all that
    the agent measures and learns; so is a reward that is not finite, and an update that would make
    a weight so. `diagnostics` counts them: `bad_rows`, `rewards_left_out`, `update_left_out`.

    Args:
        base_temperature: T before anything is learnt, in [0.05, max_temperature).
        max_temperature: T_max; every T lies in [0.05, T_max).
        over: what each T multiplies: 1 (`plain`), each network's own deviation (`standardised`,
            `normkd`) or its share of both greatest logits (`dtkd`); see `temperature.over`.
        two_actions: whether the teacher's T is an action of its own; with a look-ahead alone.
        state: what the policy sees: `paper`, `extended`, or the names of features beside the
            paper's; see `StateOf`. The corrector and the coherence go by the paper's.
        reward_source: `next_batch` (the paper's), `same_batch`, `probe` or `look_ahead`; see
            `Reward`.
        metric: `accuracy` or `loss`; of what is measured, which a look-ahead is not.
        probe_interval: updates from one probe, or look-ahead, to the next.
        held_out: what a look-ahead is held out against, see `look_ahead.held_out_loss`.
        group_size: temperatures of each instance that a look-ahead compares: each is paid what it
            gains over the mean of the instance's group. 1 pays one, and the critic is the baseline.
        equal_steps: whether a look-ahead compares temperatures by gradients of one length. It
            learns from each look-ahead: gate, calibration, U and update_interval have no part.
        shuffled: whether a batch's temperatures are dealt out at random: a look-ahead's control.
        gate: whether the reward is damped by sigmoid(E / gate_epochs) in epoch E.
        gate_epochs: n_gate, in epochs.
        max_instances: of a call, evenly spaced, that enter its trajectory at most; None for all.
        update_interval: closed trajectories from one learning to the next.
        warmup_epochs: epochs at the base temperature; 0 for a loop that never calls `start_epoch`.
        seed: of the agent's own random generator and of its networks' first weights.
        calibration, state_updater, and the rest: see `Learner`.

    Raises:
        UserError: for a value out of range.

    Source: Zhang et al., "Instance Temperature Knowledge Distillation" (arXiv 2407.00115). Where
    this differs from the paper and its released code: docs/method.md.
    """

    def __init__(
        self,
        *,
        base_temperature: float = 4.0,
        max_temperature: float = 10.0,
        over: Over = "plain",
        two_actions: bool = False,
        state: Literal["paper", "extended"] | Sequence[Feature] = "paper",
        reward_source: RewardSource = "next_batch",
        metric: Metric = "accuracy",
        probe_interval: int = 32,
        held_out: HeldOut = "cross_entropy",
        group_size: int = 8,
        equal_steps: bool = False,
        shuffled: bool = False,
        gate: bool = True,
        gate_epochs: float = 80.0,
        max_instances: int | None = None,
        update_interval: int = 8,
        warmup_epochs: int = 0,
        seed: int = 0,
        calibration: Calibration = "additive",
        state_updater: bool = True,
        **learner_options: Any,
    ) -> None:
        super().__init__()
        check_options(type(self), learner_options)
        arguments.count("update_interval", update_interval)
        arguments.count("max_instances", max_instances, optional=True)
        arguments.count("warmup_epochs", warmup_epochs, least=0)
        check_over(over)
        arguments.flag("gate", gate)
        arguments.flag("shuffled", shuffled)
        arguments.number("gate_epochs", gate_epochs, above=0)
        arguments.seed("seed", seed)
        damping = gate_epochs if gate else None
        self.reward = Reward(
            source=reward_source, metric=metric, interval=probe_interval, gate_epochs=damping
        )
        self.state_of = StateOf(state, two_actions=two_actions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.learner = Learner(
                base_temperature=base_temperature,
                max_temperature=max_temperature,
                calibration=calibration,
                state_updater=state_updater,
                features=self.state_of.size,
                **learner_options,
            )
        looking = Looking(held_out, probe_interval, group_size, equal_steps=equal_steps)
        self._looking = looking if self.reward.looks_ahead else None
        self.held_out = held_out if self.reward.looks_ahead else None
        for name, given in (("two_actions", two_actions), ("shuffled", shuffled)):
            if given and self._looking is None:
                raise UserError(f"{name}=true is for reward_source=look_ahead alone")
        self.base_temperature, self.shuffled = base_temperature, shuffled
        self.over: Over = over
        self.max_instances, self.update_interval = max_instances, update_interval
        self.warmup_epochs, self.gate_epochs = warmup_epochs, gate_epochs
        self.epoch, self._rate, self._reminded = 1, 0.5, False
        self._window, self._passes, self._passed = Window(), 1, 0
        self._unpaid: Window | None = None
        self._tally: Tensor | None = None
        self._closed: list[Trajectory] = []
        self._figures: dict[str, Tensor] = {}
        self._bad_rows = torch.zeros((), dtype=torch.int64)
        self._last_temperature: Tensor | None = None
        self._random = RandomStream(seed)

    @property
    def acts(self) -> bool:
        """True if the policy sets the temperatures: in training, after the warm-up."""
        return self.training and self.epoch > self.warmup_epochs

    def first_update(self, steps_per_epoch: int) -> int:
        """Return the step of a run at which the policy first moves, at the latest."""
        looks, windows = self._looking, self.reward.updates_per_window * self.update_interval
        updates = 1 if self.learner.evidence is None else 2  # the first has none to agree with
        steps = updates * windows if looks is None else (updates - 1) * looks.interval
        return self.warmup_epochs * steps_per_epoch + steps + 1

    @property
    def observation_due(self) -> bool:
        """True if the loop must measure the student now and call `observe`."""
        if not self.acts or self.reward.after_from_batch or self.held_out is not None:
            return False
        unmeasured = self.needs_probe and self._window.performance_before is None
        return unmeasured or self._window.batches >= self._wanted

    @property
    def look_ahead_due(self) -> bool:
        """True if the loop must say now what temperatures of the coming batch would bring."""
        return self.acts and self._looking is not None and self._looking.due

    def look_ahead(self, gain_of: GainOf | None) -> None:
        """Take what temperatures of the coming batch would bring; `forward` learns from it."""
        if self._looking is not None and self.acts:
            self._looking.take(gain_of)

    @property
    def needs_probe(self) -> bool:
        """True if the reward is measured on images held out of training."""
        return not self.reward.before_from_batch

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 1, for warm-up and gate."""
        super().start_epoch(epoch)
        self.epoch = epoch
        self._passed = 0  # a step that an epoch's end cut short is not gone on with

    def start_step(self, learning_rate: float) -> None:
        """Take the learning rate of the coming update, for a state that has it."""
        self._rate = learning_rate_feature(learning_rate)

    def share_update(self, passes: int) -> None:
        """Set how many calls share one update, whose reward is then of all of them.

        Raises:
            UserError: for several where the reward is measured on the batch again, of which by
                then only the last pass is held.
        """
        arguments.count("passes", passes)
        if passes > 1 and self.reward.source == "same_batch":
            raise UserError(
                "temperature.reward_source=same_batch measures a batch again, and of the "
                f"{passes} passes of a step only the last is held: choose next_batch or probe, or "
                "make each step in one pass (trainer.accumulate=1)"
            )
        self._passes = passes

    def performance(
        self,
        student_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """Score logits by the reward's metric, the mean over all ranks."""
        check_logits(student_logits, target=target, finite=False)
        return self.reward.performance(student_logits, target)

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Close the last transition, learn when due, and choose the temperatures of a batch."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        at = partial(over, self.over, teacher_logits, target)
        chosen = self._chosen(student_logits, teacher_logits, target, learn_from, at)
        self._last_temperature = chosen
        return at(chosen, student_logits)

    @torch.no_grad()
    def _chosen(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        learn_from: Bool[Tensor, " batch"] | None,
        at: Callable[..., Temperatures],
    ) -> Float[Tensor, "batch actions"]:
        with torch.autocast(student_logits.device.type, enabled=False):
            state = self.state_of(student_logits, teacher_logits, target, self._context())
            usable = usable_rows(state)
            state = torch.where(usable[:, None], state, 0.0)
            if self.acts:
                self._remind()
                tally, scored = nothing_scored(state), self.reward.before_from_batch
                if scored:
                    tally = self.reward.tally(student_logits, target, usable)
                learnt = usable if learn_from is None else usable & learn_from.bool()
                seen = of_all_ranks(Seen(state, learnt, tally, (~usable).sum().to(state)))
                self._bad_rows = self._bad_rows.to(state.device) + seen.bad_rows.long()
                closing = self._score(seen.tally) if scored else None
                if self._looking is not None:
                    self._look(seen.state, seen.learn_from, at)
                # Learning between two passes of a step would give it two policies.
                if closing is not None and self._passes == 1:
                    self._close(*closing)
                acted = self._act(seen.state, seen.learn_from)
                temperature = distributed.this_rank().share_of(acted)
                if closing is not None and self._passes > 1:
                    self._close(*closing)
            else:
                temperature = self._settled(state)
        return torch.where(usable[:, None], temperature, self.base_temperature)

    @torch.no_grad()
    def observe(self, performance_after: Float[Tensor, ""]) -> None:
        """Take a measurement made after the student's update; closes the open transition.

        Args:
            performance_after: higher is better; one that is not finite pays nobody.

        Raises:
            InputError: if it is no tensor of one number.
        """
        given: Any = performance_after
        if not isinstance(given, Tensor) or given.numel() != 1:
            raise InputError("observe takes what `performance` returns, a tensor of one number")
        if not self.acts:
            return
        performance_after = performance_after.detach().float().reshape(())
        with torch.autocast(performance_after.device.type, enabled=False):
            self._close(self._window, performance_after)
        self._window = Window()
        if not self.reward.before_from_batch:
            self._window.measure(performance_after)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return the last update's figures and the last batch's temperatures, as scalar tensors.

        Temperatures: `temperature_mean`, `_std`, and the quantiles `_p05` to `_p95`. Rewards:
        `reward` (raw, mean over trajectories), `reward_gated`, and the mean sum and the spread of
        the calibrated ones. `corrector_loss` is L_C, rewards in units of the spread of those that
        the corrector remembers; `updater_loss` is L_U. `bad_rows` is how many rows of logits that
        it acted on were not finite, so far; `rewards_left_out` is how many trajectories of the
        update had no finite reward or no instance to learn from; `update_left_out` is 1 where the
        update would have made a weight NaN or infinite, and was dropped.
        """
        if self._last_temperature is None:
            return dict(self._figures)
        bad_rows = {"bad_rows": self._bad_rows.to(self._last_temperature)}
        return self._figures | bad_rows | temperature_figures(self._last_temperature)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TemperatureAgent":
        """Move what is no parameter and no buffer along: transitions and figures."""
        super()._apply(fn, recurse)
        fn = dtype_kept(fn)

        def moved(held: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: fn(tensor) for name, tensor in held.items()}

        self._window = self._window.moved(moved)
        self._unpaid = None if self._unpaid is None else self._unpaid.moved(moved)
        self._tally = None if self._tally is None else fn(self._tally)
        self._bad_rows = fn(self._bad_rows)
        self._closed = [Trajectory(**moved(each.tensors())) for each in self._closed]
        self._figures = moved(self._figures)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """Return all but weights and buffers: transitions, random generator, counters."""
        return {
            "epoch": self.epoch,
            "updates": self.updates,
            "generator": self._random.state(),
            "window": self._window.tensors(),
            "batches": self._window.batches,
            "since_look": 0 if self._looking is None else self._looking.since,
            "closed": [trajectory.tensors() for trajectory in self._closed],
            "figures": dict(self._figures),
            "bad_rows": self._bad_rows,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned; raise a ValueError where it is anything else."""
        check_agent(state, self.state_of.features)
        device = next(self.parameters()).device

        def here(held: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in held.items()}

        self.epoch, self.updates = state["epoch"], state["updates"]
        if self._looking is not None:
            self._looking.since = state["since_look"]
        self._random.restore(state["generator"])
        self._window = Window.from_tensors(here(state["window"]), batches=state["batches"])
        self._closed = [Trajectory(**here(held)) for held in state["closed"]]
        self._figures = here(state["figures"])
        self._bad_rows = state["bad_rows"].to(device)

    def _context(self) -> dict[str, float | Tensor]:
        return {
            "epoch": self.epoch / (self.epoch + self.gate_epochs),
            "learning_rate": self._rate,
            "hotter_gained": self._figures.get("hotter_gained", 0.5),
        }

    def _settled(self, state: Float[Tensor, "batch features"]) -> Float[Tensor, "batch actions"]:
        if self.training:
            return torch.full_like(state[:, :1], self.base_temperature)
        policy = self.learner.policy(self.state_of.by_action(state))
        return policy.temperature(policy.mean)

    def _score(self, tally: Float[Tensor, "2"]) -> tuple[Window, Float[Tensor, ""]] | None:
        """Count a pass; once all of the step are in, return the step before and what it is paid."""
        if self._passed == 0:
            self._unpaid, self._window, self._tally = self._window, Window(), None
        self._tally = tally if self._tally is None else self._tally + tally
        self._passed = (self._passed + 1) % self._passes
        if self._passed > 0:
            return None
        performance, unpaid = mean_score(self._tally), self._unpaid
        self._unpaid = self._tally = None
        self._window.measure(performance)
        if unpaid is None or not self.reward.after_from_batch:
            return None
        return unpaid, performance

    def _act(
        self, state: Float[Tensor, "batch features"], learn_from: Bool[Tensor, " batch"]
    ) -> Float[Tensor, "batch actions"]:
        generator = self._random.on(state.device)
        if self._window.noise_field is None:
            self._window.noise_field = draw_field(generator, state.device)
        rows, field = self.state_of.by_action(state), self._window.noise_field
        policy, raw_action = self.learner.explore(rows, generator, field=field)
        if self.shuffled:
            order = torch.randperm(len(rows), generator=generator, device=rows.device)
            raw_action = raw_action[order]
        if not self._overdue and self._looking is None:
            kept = kept_rows(len(state), self._window.batches, self._passes, self.max_instances)
            self._window.add(state[kept], raw_action[kept, 0], learn_from[kept])
        return policy.temperature(raw_action)

    def _look(
        self,
        state: Float[Tensor, "batch features"],
        learn_from: Bool[Tensor, " batch"],
        at: Callable[..., Temperatures],
    ) -> None:
        """Learn from what temperatures that the policy might draw would bring, where it is due."""
        assert self._looking is not None
        if (gain_of := self._looking.next(self._passes)) is None:
            return
        self._window = Window()  # the temperatures that follow share another field of noise
        generator, rows = self._random.on(state.device), self.state_of.by_action(state)
        paid = self._looking.pay(
            lambda temperature: gain_of(partial(at, temperature)),
            rows,
            self.learner.policy(rows),
            learn_from,
            generator,
            kept_rows(len(state), self.updates, 1, self.max_instances),
        )
        with torch.enable_grad():
            figures = self.learner.learn(paid.rollout, generator, instance_reward=paid.reward)
        self._figures = figures | {"hotter_gained": paid.hotter_gained}
        self.updates += 1

    @property
    def _wanted(self) -> int:
        """Number of calls that share a reward."""
        return self.reward.updates_per_window * self._passes

    @property
    def _overdue(self) -> bool:
        """True if the loop has ignored `observation_due`; an epoch's end may cut a step short."""
        due = self._window.batches >= self._wanted + self._passes - 1
        return due and not self.reward.after_from_batch

    def _remind(self) -> None:
        """Say once that a measurement is overdue."""
        waits = self._overdue if self._looking is None else self._looking.overdue
        if waits and not self._reminded:
            self._reminded = True
            notice(self.reward.reminder)

    def _close(self, window: Window, performance_after: Float[Tensor, ""]) -> None:
        trajectory = window.close(performance_after, gate=self.reward.gate(self.epoch))
        if trajectory is not None:
            self._closed.append(trajectory)
        if len(self._closed) >= self.update_interval:
            rollout, self._closed = Rollout.stack(self._closed), []
            with torch.enable_grad():
                self._figures = self.learner.learn(rollout, self._random.on(rollout.mask.device))
            self.updates += 1
