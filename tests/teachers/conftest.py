"""Fixtures that tests of teachers share."""

import multimodal_cases
import pytest


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Folders of a small speech and a small text encoder, written once."""
    return multimodal_cases.encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Sixteen rated turns of noise with transcripts, written once."""
    return multimodal_cases.corpus(tmp_path_factory.mktemp("corpus"))
