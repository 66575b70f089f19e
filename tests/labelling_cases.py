"""`label` for tests: every option by its name, as on the command line."""

from wav2small.cli import options


def label(source, output, **named):
    assert named.keys() <= options.read(options.LABEL).keys()
    return options.call(options.LABEL, source, output, **named)
