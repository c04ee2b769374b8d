"""What a run came to, and where all that it left is, in one table."""

from rich.console import Console

from rlkd.config.options import LOGGERS
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import Result
from rlkd.reporting.pages import duration
from rlkd.reporting.results.provenance import counted
from rlkd.reporting.tables import Cells, print_cells


def print_summary(result: Result, folder: RunFolder, console: Console) -> None:
    """Print the table of a run that has ended.

    Args:
        result: its figures.
        folder: its folder, of which those files are named that are there.
        console: where to print.
    """
    scored = {
        "student, test split": result.test,
        "student, validation split": result.validation,
        "teacher, test split": result.teacher,
    }
    figures = {name: scores.summary for name, scores in scored.items() if scores is not None}
    if hardest := result.test.hardest:
        figures["student's hardest classes"] = hardest
    figures["images"] = result.images.words
    figures["training"] = f"{counted(result.epochs, 'epoch')} in {duration(result.wall_seconds)}"
    files = {
        "pictures and tables": folder.report,
        "figures of each epoch": folder.metrics,
        **{f"the same for {each}": folder.path / each for each in LOGGERS},
        "the student's weights": folder.student,
        "checkpoints": folder.checkpoints.folder,
        "settings": folder.config,
    }
    places = {name: path.name for name, path in files.items() if path.exists()}
    rows = [[name, words] for name, words in (figures | places).items()]
    print_cells(Cells(["summary", ""], rows), "", left=("summary", ""), console=console)
