"""A run with a tracker, in a process of its own, and what the tracker's own reader finds of it.

`tracked.py train WORDS KILL_AFTER` trains as WORDS, JSON, says, and dies right after the checkpoint
of epoch KILL_AFTER (0 for never); `tracked.py compare WORDS` compares; `tracked.py read TRACKER
FOLDER` prints as JSON what is found in a folder.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = dict[str, Any]
"""Of one record: name, group, tags, config, its rows by epoch, result, pictures, table."""


class KilledError(Exception):
    """Stands in for a kill."""


def train(words: str, kill_after: str) -> None:
    from tests.support.runs import silent

    from rlkd.engine.callbacks.checkpoint import KeepLast
    from rlkd.engine.run import distill

    save = KeepLast.on_train_epoch_end

    def save_and_die(self: KeepLast, trainer: Any, module: Any) -> None:
        save(self, trainer, module)
        if trainer.current_epoch + 1 == int(kill_after):
            raise KilledError

    KeepLast.on_train_epoch_end = save_and_die
    try:
        distill(json.loads(words), console=silent())
    except KilledError:
        assert kill_after != "0"


def compare(words: str) -> None:
    from tests.support.runs import silent

    from rlkd.commands.compare import compare

    compare(json.loads(words), console=silent())


def read_wandb(folder: Path) -> list[Found]:
    """By `wandb leet inspect`; the parts of a run that went on have one id."""
    found: dict[str, Found] = {}
    for path in sorted(folder.glob("wandb/offline-run-*")):
        told = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)],
            capture_output=True,
            check=True,
        ).stdout
        records = [json.loads(line) for line in told.splitlines()]
        of = {each["type"]: each for each in records}
        run = of["run"]["run"]
        record = found.setdefault(run["run_id"], {"rows": {}, "result": {}, "table": None})
        record |= {"name": run["display_name"], "group": run.get("run_group")}
        record["tags"] = run.get("tags", [])
        if "config" in of:
            record["config"] = of["config"]["config"]["update"]
        for each in records:
            item = each.get("history", {}).get("item", {})
            if "epoch" in item:
                assert item["_step"] == item["epoch"]
                assert str(item["epoch"]) not in record["rows"]
                record["rows"][str(item["epoch"])] = {
                    key: value for key, value in item.items() if not key.startswith("_")
                }
            if item.get("comparison._type") == "table-file" or "comparison" in item:
                named = item.get("comparison.path") or item["comparison"]["path"]
                table = json.loads((path / "files" / named).read_text())
                record["table"] = [
                    dict(zip(table["columns"], row, strict=True)) for row in table["data"]
                ]
        for each in records:
            for key, value in each.get("summary", {}).get("update", {}).items():
                if key.startswith("result/"):
                    record["result"][key] = value
        record["pictures"] = {
            each.name.partition("_")[0]: each.read_text()
            for each in path.glob("files/media/html/pictures/*.html")
        }
    return list(found.values())


def read_mlflow(folder: Path) -> list[Found]:
    import csv

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    found: list[Found] = []
    for run in client.search_runs([experiment.experiment_id]):
        rows: dict[str, dict[str, float]] = {}
        result: dict[str, float] = {}
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            if key.startswith("result/"):
                (result[key],) = [each.value for each in history]
                continue
            for each in history:
                row = rows.setdefault(str(each.step), {})
                assert key not in row
                row[key] = each.value
        tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
        artifacts = Path(client.download_artifacts(run.info.run_id, ""))
        table = artifacts / "comparison.csv"
        found.append(
            {
                "name": run.info.run_name,
                "group": tags.pop("group", None),
                "tags": list(tags),
                "config": run.data.params,
                "rows": rows,
                "result": result,
                "pictures": {
                    each.stem: each.read_text() for each in artifacts.glob("pictures/*.svg")
                },
                "table": list(csv.DictReader(table.open())) if table.is_file() else None,
            }
        )
        assert run.info.status == "FINISHED"
    return found


def read_trackio(folder: Path) -> list[Found]:
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    found: list[Found] = []
    for run in trackio.Api().runs("mine"):
        config = run.config or {}
        record: Found = {"name": run.name, "group": config["_Group"], "tags": config["tags"]}
        record |= {"config": config, "rows": {}, "result": {}, "pictures": {}, "table": None}
        for each in SQLiteStorage.get_logs("mine", run.name, run_id=run.id):
            step = str(each.pop("step"))
            del each["timestamp"]
            for key, value in each.items():
                if key.startswith("result/"):
                    record["result"][key] = value
                elif key.startswith("pictures/"):
                    place = folder / "trackio" / "media" / value["file_path"]
                    record["pictures"][key.removeprefix("pictures/")] = place.read_text()
                elif key == "comparison":
                    record["table"] = value["_value"]
                else:
                    assert key not in record["rows"].setdefault(step, {})
                    record["rows"][step][key] = value
        found.append(record)
    return found


def read(tracker: str, folder: str) -> None:
    readers: dict[str, Callable[[Path], list[Found]]] = {
        "wandb": read_wandb,
        "mlflow": read_mlflow,
        "trackio": read_trackio,
    }
    print(json.dumps(readers[tracker](Path(folder))))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
