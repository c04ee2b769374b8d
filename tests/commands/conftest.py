from tests.support.fixtures import (  # noqa: F401, what tests ask for by name
    batch,
    detector_file,
    plainly,
    ready,
    refuse,
    student,
    teacher,
    teacher_file,
)
