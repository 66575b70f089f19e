"""`label` for tests: every option by its name, as on the command line."""

from wav2small.cli import options, signatures


def label(source, output, **named):
    assert named.keys() <= signatures.read(options.LABEL).keys()
    return options.call(options.LABEL, source, output, **named)
