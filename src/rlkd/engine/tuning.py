"""The settings of the step that are fastest on this machine, found by trying them."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlkd import distributed
from rlkd.config.options import TrainerOptions, trainer_options
from rlkd.config.settings import asks_for_store
from rlkd.engine import build
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import Notice, UserError

_TURNS, _SECONDS = 7, 8.0
"""Steps that are timed of either of two variants, and after how long no further turn is begun."""
_GAIN = 0.95
"""A variant has to take at most this share of the other's time."""
_HOPELESS = 4
"""A first step that takes so many times the other's is not repeated."""
_COMPILING_SECONDS = 30.0
"""What compiling has to be able to save at the least, to be tried."""
_COMPILED = 0.7
"""The share of a step's time that compiling is hoped to leave."""


def recall(configs: Iterable[DictConfig]) -> bool:
    """Take over what an earlier start of a run, or of another of its sweep, was tuned to.

    Args:
        configs: of the runs, one or all of a sweep; changed in place: they hold the settings that
            were found, and ask for no more tuning.

    Returns:
        Whether something was found, or nobody asks for it.

    Raises:
        UserError: if the configuration that a run has left cannot be read.
    """
    asking = [each for each in configs if trainer_options(each).tunes]
    for each in asking:
        folder = RunFolder(Path(each.output))
        if folder.config.is_file():
            held = folder.settings.trainer
            _write(asking, {key: held.get(key) for key in trainer_options(each).tunes})
            return True
    return not asking


def tune(configs: Sequence[DictConfig], show: Callable[[str], None]) -> None:
    """Find the fastest of the settings that `trainer.tune` names, on the first run, for all.

    They are tried one after another, each beside the best so far, in turns on one training batch:
    layout, precision, and, where the run is long enough to earn its time back, compiling. With a
    store of the teacher's logits the teacher's share is left out, as it is once the store is full.
    All ranks call together; the time of rank 0 counts.

    Args:
        configs: see `recall`.
        show: shows a line.

    Raises:
        UserError: if the run itself cannot be trained.
    """
    asking = [each for each in configs if trainer_options(each).tunes]
    if not asking:
        return
    first = asking[0]
    options = trainer_options(first)
    best, chosen = _Variant(first, {}), dict[str, Any]()
    tried = [f"{best.seconds():.3f} s a step"]
    for key in options.tunes:
        value = _other(key, options)
        if value is None or (key == "compile" and not _of_rank_zero(best.may_compile())):
            continue
        variant, fault = best, ""
        try:
            variant = _Variant(first, chosen | {key: value})
        except (UserError, RuntimeError, NotImplementedError) as error:
            fault = (str(error) or type(error).__name__).splitlines()[0][:80]
        faults = [each for (each,) in distributed.gather_objects([fault]) if each]
        if faults:
            tried.append(f"{key}={_word(value)} fails ({faults[0]})")
            continue
        faster, ratio = _faster(variant, best)
        tried.append(f"{key}={_word(value)} {ratio:.2f} x")
        if faster:
            best, chosen = variant, chosen | {key: value}
    _write(asking, {key: first.trainer[key] for key in options.tunes} | chosen)
    words = " ".join(f"trainer.{key}={_word(value)}" for key, value in chosen.items())
    show(f"trainer.tune: {', '.join(tried)}: {words or 'the settings stay as they are'}")


class _Variant:
    """Steps of a run that are thrown away.

    Args:
        config: of the run; not changed.
        trainer: what is otherwise of the trainer's settings.
    """

    def __init__(self, config: DictConfig, trainer: dict[str, Any]) -> None:
        config = config.copy()
        _write([config], trainer)
        stored = asks_for_store(config.teacher.get("cache"))
        if stored and not _begun(config.teacher.cache):
            config.teacher.cache = None
        self.options = trainer_options(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)  # which the run itself gives
            prepared = build.task(config).prepare(config, self.options)
        self.module: StudentModule = prepared.module
        self.module.to(self.options.device)
        self.module.loader.set_epoch(0)
        self._batch = next(iter(self.module.loader))  # pyright: ignore
        forward: Any = self.module.forward_pass
        may_store = getattr(forward, "needs_features", True) is False and self.module.mixing is None
        if stored and may_store and forward.stored is None:
            size = len(self._batch.index), len(prepared.class_names)
            logits = torch.randn(size, device=self.options.device)
            forward.stored = lambda batch: logits[: len(batch.index)]  # pyright: ignore
        self.first_seconds = self._step()

    def seconds(self) -> float:
        """Do a step, and return what it took."""
        return self._step()

    def may_compile(self) -> bool:
        """Return whether compiling could save more time than it takes."""
        saved = self.steps * self.seconds() * (1 - _COMPILED)
        return saved > _COMPILING_SECONDS

    @property
    def steps(self) -> int:
        """How many the run has."""
        passes = self.options.epochs * len(self.module.loader)
        return min(passes, (self.options.max_steps or passes) * self.options.accumulate)

    def _step(self) -> float:
        began = time.perf_counter()
        with self.options.autocast():
            self.module.try_step(self._batch)
        self.module.zero_grad()
        if self.options.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def _faster(variant: _Variant, best: _Variant) -> tuple[bool, float]:
    """Let two variants take turns; return whether the first wins, and its share of the other's."""
    began, times = time.perf_counter(), ([variant.seconds()], [best.seconds()])
    while len(times[0]) < _TURNS and _goes_on(times, began):
        times[0].append(variant.seconds())
        times[1].append(best.seconds())
    mine, other = _of_rank_zero([statistics.median(each) for each in times])
    compiling = variant.options.compile and not best.options.compile
    spent = _of_rank_zero(variant.first_seconds) if compiling else 0.0
    wins = mine < _GAIN * other and variant.steps * (other - mine) > spent
    return wins, mine / other


def _goes_on(times: tuple[list[float], list[float]], began: float) -> bool:
    hopeful = times[0][0] < _HOPELESS * times[1][0]
    return _of_rank_zero(hopeful and time.perf_counter() - began < _SECONDS)


def _of_rank_zero(value: Any) -> Any:
    """Return what rank 0 measured, where each did."""
    return distributed.on_rank_zero(lambda: value)


def _other(key: str, options: TrainerOptions) -> Any:
    """Return the value to try in place of the one that is set; None where there is none."""
    if key == "precision":
        return "bf16-mixed" if options.precision == "32-true" else None
    if key == "channels_last":
        return None if options.memory_format is torch.channels_last else True
    return None if options.compile else True


def _begun(cache: object) -> bool:
    folder = Path(str(cache))
    return folder.is_dir() and any(folder.iterdir())


def _write(configs: Iterable[DictConfig], trainer: dict[str, Any]) -> None:
    for each in configs:
        OmegaConf.update(each, "trainer", {**trainer, "tune": False})


def _word(value: Any) -> str:
    return str(value).lower()
