"""The command line: `rlkd VERB [key=value ...]`."""

import sys
import traceback
from collections.abc import Callable, Sequence

from rich.console import Console

from rlkd.errors import UserError

HELP = """rlkd: knowledge distillation with a learnt temperature for every instance

  rlkd demo                       digits: student alone, KD, random temperature, RLKD; a report
  rlkd distill [key=value ...]    distil a teacher into a student
  rlkd train [key=value ...]      train on labels alone: a teacher or a baseline
  rlkd compare key=a,b,c ...      every combination of the values given, compared seed by seed
  rlkd evaluate [key=value ...]   score teacher.checkpoint=FILE or student.checkpoint=FILE
  rlkd predict run=DIR images=DIR what a run's student says of images; or student.checkpoint=FILE
  rlkd export run=DIR to=FILE     that student in a file, format=safetensors, onnx, torch_export
  rlkd ls [GROUP]                 what each setting may be
  rlkd show [key=value ...]       the configuration that overrides make
  rlkd validate                   build every packaged experiment

Settings are Hydra's: rlkd distill data=cifar100 data.root=DIR teacher=resnet56
teacher.checkpoint=FILE student=resnet20 temperature=rlkd seed=0 trainer.epochs=240.
--debug shows tracebacks. Exit codes: 0 done; 2 yours to mend; 1 a bug; 130 interrupted."""

Verb = Callable[[list[str], Console], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    try:
        _run(given[0], given[1:])
    except UserError as error:
        if debug:
            traceback.print_exc()
        errors.print(f"rlkd: {error}")
        return 2
    except KeyboardInterrupt:
        errors.print("rlkd: interrupted")
        return 130
    except Exception as error:
        from rlkd.training.checkpoints import Interrupted

        if isinstance(error, Interrupted):
            errors.print(f"rlkd: interrupted; {error}")
            return 130
        traceback.print_exc()
        errors.print("rlkd: this is a bug; please report it with the lines above")
        return 1
    return 0


def _run(verb: str, overrides: list[str]) -> None:
    from rlkd.training import verbs

    known: dict[str, Verb] = {
        "compare": verbs.compare,
        "demo": verbs.demo,
        "distill": verbs.distill,
        "evaluate": verbs.evaluate,
        "export": verbs.export,
        "ls": verbs.ls,
        "predict": verbs.predict,
        "show": verbs.show,
        "train": verbs.train,
        "validate": verbs.validate,
    }
    if verb not in known:
        raise UserError(f"there is no verb {verb}: use one of {', '.join(known)}")
    known[verb](overrides, Console())


if __name__ == "__main__":
    sys.exit(main())
