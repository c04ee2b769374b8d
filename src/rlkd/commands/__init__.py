"""The verbs of the command line: `VERBS` lists them, with their help."""

VERBS = {
    "demo": (
        "rlkd.commands.demo:demo",
        """Train a tiny student on digits in four ways, and compare them.

seeds=0,1,2        the seeds
output=DIR         the folder of all runs, runs/demo; complete ones are not repeated
KEY=VALUE          a setting of every run

rlkd demo
rlkd demo seeds=3,4,5 output=runs/demo_again""",
    ),
    "distill": (
        "rlkd.commands.verbs:distill",
        """Distil a teacher into a student, or go on with that.

GROUP=NAME         data, teacher, student, method, temperature, ...: see `rlkd ls`
KEY=VALUE          a single setting: see `rlkd show`
teacher.cache=DIR  keep the teacher's logits, and read them from then on: see `rlkd cache`
output=DIR         the run folder
-m, --multirun     a run for each combination of values; jobs and launcher as for `rlkd compare`

rlkd distill teacher=convnet_small teacher.checkpoint=FILE student=convnet_tiny
rlkd distill data=cifar100 data.root=DIR teacher=resnet56 teacher.checkpoint=FILE \\
    student=resnet20 method=dkd temperature=rlkd seed=0 trainer.epochs=240""",
    ),
    "train": (
        "rlkd.commands.verbs:train",
        """Train on labels alone: a teacher, or a student's baseline.

KEY=VALUE          as for `rlkd distill`

rlkd train student=convnet_small output=runs/teacher
rlkd train data=cifar100 data.root=DIR student=resnet56 seed=0""",
    ),
    "compare": (
        "rlkd.commands.verbs:compare",
        """Run all combinations of values and compare them seed by seed.

KEY=A,B,C          the values of a setting or a group to combine; choice(A,B) for paths
baseline=KEY=A     the combination that the others are compared with
study=NAME         the arms of a study, see `rlkd ls study`, or of a file NAME.yaml; of it alone
                   arm=A,B pair=A,B seed=0,1; teachers=DIR of a file for each teacher
jobs=auto          runs at a time, here: as many as there are processors, or a number
launcher=NAME      local; submitit_local or submitit_slurm: the runs as jobs
output=DIR         the folder of all runs and of the tables

rlkd compare temperature=constant,rlkd seed=0,1,2 teacher.checkpoint=FILE
rlkd compare method=kd,dkd temperature=constant,random,rlkd seed=0,1,2 \\
    baseline=temperature=constant data=cifar100 data.root=DIR teacher=resnet56 \\
    teacher.checkpoint=FILE student=resnet20 output=runs/compared launcher=submitit_slurm
rlkd compare study=cifar100_small data.root=DIR teacher.checkpoint=FILE teacher.cache=DIR""",
    ),
    "evaluate": (
        "rlkd.engine.run:score_checkpoints",
        """Score the student of a run, or checkpoints, on the test split.

run=DIR            a run folder
KEY=VALUE          teacher.checkpoint=FILE, student.checkpoint=FILE or both, with their data

rlkd evaluate run=runs/mine
rlkd evaluate data=cifar100 data.root=DIR teacher=resnet56 teacher.checkpoint=FILE""",
    ),
    "predict": (
        "rlkd.commands.predict:predict",
        """Predict classes, or boxes, of images with a trained student.

images=PATH        an image, or a folder of images with all below it
run=DIR            the student of a run; or student=NAME student.checkpoint=FILE
output=DIR         the folder of the predictions; predictions in the run's or the current one
threshold=0.5      the lowest score of a box (0.5 unless given) or probability of one of the five
                   likeliest classes (0 unless given) that is reported
skip_unreadable=true   leave out images that cannot be decoded, as a run with
                       data.unreadable=skip does of itself

rlkd predict run=runs/mine images=photos
rlkd predict data=cifar100 data.root=DIR student=resnet20 student.checkpoint=FILE images=a.png""",
    ),
    "export": (
        "rlkd.commands.export:export",
        """Write a student to a file, and check the file's answers.

run=DIR            the student of a run; or student=NAME student.checkpoint=FILE
format=NAME        safetensors, onnx or torch_export
to=FILE            ends in .safetensors, .onnx or .pt2

rlkd export run=runs/mine format=onnx to=student.onnx
rlkd export run=runs/mine format=safetensors to=student.safetensors""",
    ),
    "push": (
        "rlkd.commands.push:push",
        """Publish a student on the Hugging Face Hub, or in a folder.

run=DIR            the student of a run; or student=NAME student.checkpoint=FILE
to=hf://user/name  the repository, which is made where there is none; or to=DIR

rlkd push run=runs/mine to=hf://me/resnet20-cifar100
rlkd push run=runs/mine to=published
rlkd distill data=cifar100 data.root=DIR teacher=hf://me/resnet56@v1 student=resnet20""",
    ),
    "cache": (
        "rlkd.commands.cache:cache",
        """Keep a teacher's logits on disk: build, info, verify, remove.

build KEY=VALUE    compute all views of a run's images; settings as for `rlkd distill`, with
                   teacher.cache=DIR; what is there already is not computed again
info DIR           what a store is of, and how full it is
verify DIR         whether each row is whole; with settings, whether the teacher still agrees
remove DIR         remove a store

rlkd cache build data=cifar100 data.root=DIR teacher=resnet56 teacher.checkpoint=FILE \\
    teacher.cache=runs/resnet56_logits
rlkd cache verify runs/resnet56_logits""",
    ),
    "doctor": (
        "rlkd.commands.doctor:doctor",
        """Say what there is here: versions, devices, threads, data, disk.

KEY=VALUE          as for `rlkd distill`: the data, the threads and the folder that are looked at

rlkd doctor
rlkd doctor data=cifar100 data.root=DIR output=runs/mine""",
    ),
    "teachers": (
        "rlkd.commands.teachers:teachers",
        """List public teachers, and where they are.

WORD               a network or a data set; all without any

rlkd teachers
rlkd teachers cifar100
rlkd train experiment=teacher_resnet56 data.root=DIR""",
    ),
    "ls": (
        "rlkd.commands.verbs:ls",
        """List what the groups of settings may be.

GROUP              one or several; all without any

rlkd ls
rlkd ls method temperature""",
    ),
    "show": (
        "rlkd.commands.verbs:show",
        """Print the configuration that settings make.

KEY=VALUE          as for `rlkd distill`

rlkd show
rlkd show experiment=cifar100_resnet56_resnet20 method=dkd data.root=DIR""",
    ),
    "validate": (
        "rlkd.commands.verbs:validate",
        """Build every packaged experiment and every option of groups.

KEY=VALUE          a setting of all of them

rlkd validate
rlkd validate configs=DIR trust=mine""",
    ),
}
"""The function of each verb, of words and a console, and its help, whose first line sums it up."""

WITH_JSON = ("demo", "distill", "train", "compare", "evaluate", "doctor")
"""The verbs that take `--json`: their functions return what is printed then."""
