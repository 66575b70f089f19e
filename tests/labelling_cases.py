"""`label` for tests: every option by its name, as on the command line."""

from functools import partial

from wav2small.cli.options import call
from wav2small.teachers.labelling.run import label as _label

label = partial(call, _label)
