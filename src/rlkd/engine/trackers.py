"""Trackers that a run's figures are copied to: Weights & Biases, MLflow and trackio.

metrics.csv, which reports and comparisons read, is written whatever becomes of a tracker: one that
fails is dropped with a notice, and the run goes on. What a tracker has been given is noted in the
run folder, so that a run that goes on continues the same record there, without gap or repetition,
and a tracker that comes later gets the epochs before it too.
"""

import io
import logging
import math
import os
import sys
import uuid
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from rlkd import distributed
from rlkd.config.options import LoggerOptions
from rlkd.errors import notice, one_line
from rlkd.reporting import Result, read_run
from rlkd.reporting.escaping import csv_text
from rlkd.reporting.results.scores import Kind
from rlkd.reporting.statistics.comparison import Comparison
from rlkd.text_files import read_object, write_object

if TYPE_CHECKING:
    from rlkd.reporting.charts import Picture

Figures = Mapping[str, float | int]
Rows = Sequence[Mapping[str, Any]]
"""Rows of a table, all with the same columns."""
_SPEED = ("images_per_second", "wall_seconds")
RECORD = "tracker.json"
"""In a run's folder: its id at each tracker, and how many epochs that has been given."""


class _Service(Protocol):
    """One of Lightning's loggers that takes pictures and tables too."""

    @property
    def version(self) -> int | str | None:
        """The id by which the record is continued."""

    def log_hyperparams(self, params: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_result(self, figures: Figures, step: int) -> None:
        """Log what the run has come to, after the metrics of its last step."""

    def log_pictures(self, pictures: Mapping[str, str]) -> None:
        """Log SVG elements by their names."""

    def log_rows(self, name: str, rows: Rows) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class _Wandb(WandbLogger):
    """Weights & Biases; offline in RUN/wandb.

    Source: https://docs.wandb.ai/ref/python/init
    """

    def __init__(self, options: LoggerOptions, folder: Path, name: str, held: str | None) -> None:
        if options.offline:  # what it stages stays out of the home folder, and it calls nobody
            place = str((folder / "wandb").absolute())
            os.environ |= dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR"), place)
            os.environ |= {"WANDB_CONFIG_DIR": place, "WANDB_ERROR_REPORTING": "false"}
        wandb = import_module("wandb")
        run = wandb.init(
            project=options.project,
            name=name,
            group=options.group,
            tags=options.tags,
            dir=folder,
            id=held or uuid.uuid4().hex,
            resume="allow",
            reinit="create_new",
            mode="offline" if options.offline else "online",
            settings=wandb.Settings(silent=True, console="off", save_code=False),
        )
        super().__init__(experiment=run)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # With the step: W&B's own count begins anew in a run that goes on offline, and its server
        # takes no step twice.
        self.experiment.log(dict(metrics), step=step, commit=True)

    def log_result(self, figures: Figures, step: int) -> None:
        self.experiment.summary.update(dict(figures))

    def log_pictures(self, pictures: Mapping[str, str]) -> None:
        html = import_module("wandb").Html
        self.log_metrics({f"pictures/{name}": html(svg) for name, svg in pictures.items()})

    def log_rows(self, name: str, rows: Rows) -> None:
        self.log_table(name, columns=list(rows[0]), data=[list(each.values()) for each in rows])

    def close(self, *, failed: bool) -> None:
        self.experiment.finish(exit_code=int(failed))


class _Mlflow(MLFlowLogger):
    """MLflow; offline in RUN/mlflow, by SQLite: it has given up its store of plain files.

    Source: https://mlflow.org/docs/latest/ml/tracking
    """

    def __init__(self, options: LoggerOptions, folder: Path, name: str, held: str | None) -> None:
        place: dict[str, Any] = {"tracking_uri": os.environ.get("MLFLOW_TRACKING_URI")}
        if options.offline:
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
            here = (folder / "mlflow").absolute()
            here.mkdir(exist_ok=True)
            place = {"tracking_uri": f"sqlite:///{here / 'mlflow.db'}"}
            place["artifact_location"] = (here / "artifacts").as_uri()
        elif place["tracking_uri"] is None:
            raise ValueError("MLFLOW_TRACKING_URI is not set, which says where to log to")
        tags = dict.fromkeys(options.tags, "")
        tags |= {} if options.group is None else {"group": options.group}
        super().__init__(options.project, name, tags=tags, run_id=held, **place)
        self._new = held is None
        self.experiment.update_run(self.run_id, status="RUNNING")  # begins, or goes on

    def log_hyperparams(self, params: Any) -> None:
        if self._new:  # it refuses another value later, such as of trainer.threads
            super().log_hyperparams(params)

    def log_result(self, figures: Figures, step: int) -> None:
        self.log_metrics(figures, step)

    def log_pictures(self, pictures: Mapping[str, str]) -> None:
        for name, svg in pictures.items():
            self.experiment.log_text(self.run_id, svg, f"pictures/{name}.svg")

    def log_rows(self, name: str, rows: Rows) -> None:
        text = csv_text([list(rows[0]), *(each.values() for each in rows)])
        self.experiment.log_text(self.run_id, text, f"{name}.csv")

    def close(self, *, failed: bool) -> None:
        self.finalize("failed" if failed else "success")


class _Trackio(Logger):
    """trackio, which Lightning has no logger for; offline in RUN/trackio.

    Source: https://huggingface.co/docs/trackio
    """

    def __init__(self, options: LoggerOptions, folder: Path, name: str, held: str | None) -> None:
        super().__init__()
        place = str((folder / "trackio").absolute())
        if options.offline and os.environ.get("TRACKIO_DIR") != place:
            os.environ["TRACKIO_DIR"] = place  # which it reads when it is imported, once
            for each in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
                del sys.modules[each]
        self._trackio = import_module("trackio")
        self._run = self._trackio.init(
            project=options.project,
            name=name,
            group=options.group,
            space_id=None if options.offline else os.environ.get("TRACKIO_SPACE_ID"),
            config={"tags": options.tags},
            resume="never" if held is None else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    @property
    def name(self) -> str:
        return self._run.project

    @property
    def version(self) -> str:
        return self._run.id

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._run.config.update(params)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._run.log(dict(metrics), step=step)

    def log_result(self, figures: Figures, step: int) -> None:
        self.log_metrics(figures, step)

    def log_pictures(self, pictures: Mapping[str, str]) -> None:
        html = self._trackio.Html
        self.log_metrics({f"pictures/{name}": html(svg) for name, svg in pictures.items()})

    def log_rows(self, name: str, rows: Rows) -> None:
        self.log_metrics({name: self._trackio.Table(data=[dict(each) for each in rows])})

    def close(self, *, failed: bool) -> None:
        self._trackio.finish()


_SERVICES = {"wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio}


class Tracker:
    """The record of one run at a tracker; nothing at all where there is none. It never raises.

    Args:
        options: which tracker.
        folder: of the run, or of the comparison.
    """

    def __init__(self, options: LoggerOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self._service: _Service | None = None
        self._key = f"{options.tracker}, {'offline' if options.offline else 'online'}"
        self._epochs = 0

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin the record, or go on with it; rank 0 alone has one.

        Args:
            config: the settings.
        """
        make = _SERVICES.get(self.options.tracker)
        if make is None or distributed.this_rank().rank > 0:
            return
        with self._harmless():
            held = self._notes().get(self._key, {})
            name = self.options.name or self.folder.absolute().name
            self._service = make(self.options, self.folder, name, held.get("id"))
            self._epochs = int(held.get("epochs", 0))
            self._service.log_hyperparams(dict(config))
            self._note()

    def follow(self, history: Iterable[Figures]) -> None:
        """Log the epochs that it has not got yet.

        Args:
            history: the rows of metrics.csv.
        """
        with self._harmless():
            if self._service is None:
                return
            for row in history:
                if (epoch := int(row["epoch"])) > self._epochs:
                    self._service.log_metrics(_known(row), step=epoch)
                    self._epochs = epoch
                    self._note()

    def conclude(self, result: Result) -> None:
        """Log what a run has come to: its figures, and the pictures of its report.

        Args:
            result: its figures, which are in its folder too.
        """
        with self._harmless():
            if self._service is not None:
                self._service.log_result(_known(_figures(result)), result.epochs)
                self._service.log_pictures(_pictures(self.folder, type(result.test)))
                self._note(concluded=True)

    def complete(self, config: Mapping[str, Any], result: Result) -> None:
        """Give the record of a run that is complete what it lacks, as after a kill at the end.

        Args:
            config: the settings.
            result: its figures.
        """
        with self._harmless():
            if self._notes().get(self._key, {}).get("concluded"):
                return
        self.start(config)
        with self._harmless():
            if self._service is not None:
                self.follow(read_run(self.folder).metrics)
        self.conclude(result)

    def compare(self, comparison: Comparison) -> None:
        """Log what a comparison has come to: its table, and the picture of every seed."""
        with self._harmless():
            if self._service is not None:
                from rlkd.reporting import charts, pages  # draw, which training does not

                rows = pages.comparison_rows(comparison)["combinations"]
                self._service.log_rows("comparison", rows)
                self._service.log_pictures(_drawn({"every_seed": charts.every_seed(comparison)}))

    def close(self, *, failed: bool) -> None:
        """End the record, which a run that goes on opens again."""
        with self._harmless():
            if self._service is not None:
                self._service.close(failed=failed)
        self._service = None

    @contextmanager
    def _harmless(self) -> Generator[None]:
        """Let nothing out that a tracker raises; drop it where it fails."""
        try:
            with self._quiet():
                yield
        except Exception as error:  # whatever a tracker, its server or its files raise
            service, self._service = self._service, None
            notice(
                f"logger={self.options.tracker} failed and gets no more of this run, which goes on "
                f"({one_line(error)}); metrics.csv has all of it"
            )
            with suppress(Exception), self._quiet():
                if service is not None:
                    service.close(failed=True)

    @contextmanager
    def _quiet(self) -> Generator[None]:
        """Let nothing out that a tracker prints, logs or warns of, but for what trackio does so.

        It raises nothing where it fails, and warns.
        """
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(record=True) as said, redirect_stdout(io.StringIO()):
                warnings.simplefilter("always")
                yield
        finally:
            logging.disable(disabled)
        package = f"{os.sep}trackio{os.sep}"
        for each in said:
            if each.category is UserWarning and package in each.filename:
                notice(f"logger=trackio: {one_line(each.message)}")

    def _notes(self) -> dict[str, Any]:
        path = self.folder / RECORD
        return read_object(path, "remove it") if path.is_file() else {}

    def _note(self, *, concluded: bool = False) -> None:
        if self._service is not None:
            entry: dict[str, Any] = {"id": str(self._service.version), "epochs": self._epochs}
            entry |= {"concluded": True} if concluded else {}
            write_object(self.folder / RECORD, self._notes() | {self._key: entry})


@contextmanager
def tracking(options: LoggerOptions, folder: Path) -> Generator[Tracker]:
    """Track a run, or a comparison, to its end, whichever that is; see `Tracker`."""
    tracker = Tracker(options, folder)
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close(failed=False)


def _figures(result: Result) -> Figures:
    """Return the figures of result.json."""
    roles = {"test": result.test, "validation": result.validation, "teacher": result.teacher}
    scored = {
        f"result/{role}/{column}": figure
        for role, scores in roles.items()
        if scores is not None
        for column, figure in scores.figures().items()
    }
    speed = {f"result/{name}": getattr(result, name) for name in _SPEED}
    return scored | speed | {f"result/images/{k}": n for k, n in asdict(result.images).items()}


def _pictures(folder: Path, kind: Kind) -> dict[str, str]:
    """Draw the pictures of a run's report."""
    from rlkd.reporting import charts

    run = {folder.name: [read_run(folder)]}
    return _drawn(
        {
            kind.noun: charts.headline(run, kind),
            "losses": charts.losses(run),
            "temperature": charts.temperature(run),
            "policy": charts.policy(run),
        }
    )


def _drawn(pictures: Mapping[str, "Picture"]) -> dict[str, str]:
    return {name: each.svg for name, each in pictures.items() if each.svg is not None}


def _known(row: Figures) -> dict[str, float]:
    """Leave out what is not known, as metrics.csv does."""
    return {name: float(value) for name, value in row.items() if not math.isnan(value)}
