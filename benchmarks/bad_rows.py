"""What rows of logits that are not finite do to every temperature source and agent variant.

A bandit with an answer: the student's accuracy rises by how near each temperature is to the one
that the teacher's confidence asks for. 200 batches of 16 rows; in the hit runs one row of batch 4,
or 1 % of all rows (seeded), holds NaN or +inf in one network's logits. Beside each hit run goes one
that sees the clean logits but leaves those rows out (`learn_from`, and a target that is not
scored): a source is sound if the temperatures of good rows are finite, all that it holds is, and
its final policy is that of the run that left the rows out.

    python benchmarks/bad_rows.py
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import rlkd
from rlkd import temperature
from rlkd.checks import values_unchecked
from rlkd.reporting import hardware, versions
from rlkd.temperature import TemperatureSource
from rlkd.types import IGNORED

ROWS, CLASSES = 16, 10
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Make = Callable[[], TemperatureSource]


def variants() -> dict[str, Make]:
    """Return every source, and the agent in all its forms."""
    made: dict[str, Make] = {
        "constant": temperature.ConstantTemperature,
        "schedule": lambda: temperature.ScheduledTemperature(epochs=3),
        "random": rlkd.RandomTemperature,
        "ctkd_global": temperature.GlobalCTKD,
        "ctkd_instance": lambda: temperature.InstanceCTKD(num_classes=CLASSES),
        "confidence": temperature.ConfidenceTemperature,
        "entropy": temperature.EntropyTemperature,
        "standardisation": temperature.LogitStandardisation,
        "normkd": temperature.NormKD,
        "dtkd": temperature.DTKD,
        "adakd": temperature.AdaKD,
        "max_logit": temperature.MaxLogitTemperature,
    }
    agents = itertools.product(
        ("next_batch", "same_batch", "probe"),
        ("accuracy", "loss"),
        ("additive", "recurrent", "none"),
        (True, False),
    )
    for reward, metric, calibration, updater in agents:
        name = f"agent {reward} {metric} {calibration}{'' if updater else ' no updater'}"
        options = {
            "reward_source": reward,
            "metric": metric,
            "calibration": calibration,
            "state_updater": updater,
            "probe_interval": 4,
        }
        made[name] = lambda options=options: rlkd.TemperatureAgent(**options)
    return made


def run(make: Make, bad: Tensor, dtype: torch.dtype, *, hit: bool) -> tuple[TemperatureSource, int]:
    """Drive a source; return it, and how many temperatures of good rows were not finite."""
    torch.manual_seed(0)
    source, lost = make(), 0
    source.start_epoch(1)
    trained = list(source.trained_parameters())
    optimizer = torch.optim.SGD(trained, lr=0.01) if trained else None
    gain = 0.0
    for batch, bad_here in enumerate(bad):
        generator = torch.Generator().manual_seed(batch)
        student = 2 * torch.randn(ROWS, CLASSES, generator=generator)
        teacher = 3 * torch.randn(ROWS, CLASSES, generator=generator)
        target = torch.randint(CLASSES, (ROWS,), generator=generator)
        student[torch.arange(ROWS), target] += gain
        learn_from = None
        if hit:
            spoilt = (student, teacher)[batch % 2]
            spoilt[bad_here, batch % CLASSES] = (math.nan, math.inf)[batch // 2 % 2]
        elif bad_here.any():
            target, learn_from = target.masked_fill(bad_here, IGNORED), ~bad_here
        seen = student.to(dtype).requires_grad_(), teacher.to(dtype)
        chosen = source(*seen, target, learn_from=learn_from).student
        lost += int((~chosen[~bad_here].isfinite()).sum())
        if optimizer is not None:
            row = torch.log_softmax(seen[0].float() / chosen[:, None], dim=1).sum(dim=1)
            # In a hit run the bad rows' losses are NaN, and pass NaN back.
            loss = (row if hit else row.where(~bad_here, 0.0)).sum() / ROWS
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        confidence = torch.softmax(teacher.nan_to_num(0.0, 0.0), dim=1).amax(dim=1)
        near = 1 - (chosen.detach() / 10 - confidence).abs()
        gain = float(near[~bad_here].mean())
        if source.observation_due:
            source.observe(torch.tensor(gain))
    return source, lost


def finite(held: Any) -> bool:
    """Return whether all tensors of a state are finite."""
    if isinstance(held, Tensor):
        return bool(held.isfinite().all())
    if isinstance(held, dict):
        return all(map(finite, held.values()))
    return all(map(finite, held)) if isinstance(held, list | tuple) else True


@torch.no_grad()
def policy(source: TemperatureSource) -> Tensor:
    """Return the temperatures that a source gives in evaluation mode."""
    generator = torch.Generator().manual_seed(10_000)
    student, teacher = torch.randn(2, 512, CLASSES, generator=generator).unbind()
    target = torch.zeros(512, dtype=torch.long)
    return source.eval()(2 * student, 3 * teacher, target).student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bad_rows.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    once = torch.zeros(arguments.batches, ROWS, dtype=torch.bool)
    once[3, 5] = True
    chance = torch.rand(once.shape, generator=torch.Generator().manual_seed(1)) < 0.01
    cases = {"1 row of batch 4": once, "1 % of all rows": chance}
    rows: list[dict[str, Any]] = []
    for (name, make), (dtype, of_type) in itertools.product(variants().items(), TYPES.items()):
        for case, bad in cases.items():
            with values_unchecked():
                (source, lost), (other, _) = (
                    run(make, bad, of_type, hit=hit) for hit in (True, False)
                )
                difference = float((policy(source) - policy(other)).abs().max())
            rows.append(
                {
                    "source": name,
                    "dtype": dtype,
                    "bad": case,
                    "bad_rows": int(bad.sum()),
                    "not_finite_of_good_rows": lost,
                    "state_finite": finite(source.state_dict()),
                    "updates": source.updates,
                    "policy_difference": difference,
                }
            )
    sound = [each["state_finite"] and not each["not_finite_of_good_rows"] for each in rows]
    greatest = max(each["policy_difference"] for each in rows)
    table = Table(title=f"{len(rows)} runs of {arguments.batches} batches, {hardware()}")
    for column in ("source", "type", "bad", "good rows not finite", "state finite", "max |dT|"):
        table.add_column(column)
    for each in rows:
        table.add_row(
            each["source"],
            each["dtype"],
            each["bad"],
            str(each["not_finite_of_good_rows"]),
            "yes" if each["state_finite"] else "NO",
            f"{each['policy_difference']:.2g}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"sound: {sum(sound)} of {len(rows)}; greatest difference of a policy {greatest:g}"
    )
    report = {
        "command": " ".join(["python", *sys.argv]),
        "hardware": hardware(),
        "versions": versions(),
        "batches": arguments.batches,
        "rows_a_batch": ROWS,
        "sound": sum(sound),
        "runs": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
