"""Predictors and streams carried by joblib, Dask and Ray to their workers."""

import copy
import os
import sys

import numpy as np
import onnx
import pytest
from nanos import random_nano
from test_predictor import model

from wav2small import Predictor, Stream, audio


@pytest.fixture(scope="module")
def clips(speech):
    return [audio.read(file) for file in sorted(speech.glob("*.flac"))[:6]]


@pytest.fixture(scope="module", params=["causal", "window"])
def bundle(request, clips, tmp_path_factory):
    """A bundle with streaming.onnx, and one without."""
    from wav2small.export.onnx import models, streaming

    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "causal":
        nano = random_nano(clips)
        onnx.save(models.build(nano, "int8")[0], folder / "model.onnx")
        streaming.write_streaming(nano, folder)
    else:
        model(folder / "model.onnx")
    return folder


def on_joblib(call, arguments):
    """In processes, then in threads."""
    joblib = pytest.importorskip("joblib")
    processes, threads = (
        joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(call)(*one) for one in arguments)
        for backend in ("loky", "threading")
    )
    for one, other in zip(processes, threads, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    return processes


def on_dask(call, arguments):
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed")
    with dask.config.set({"distributed.worker.daemon": True}):
        options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        with distributed.Client(processes=True, **options) as client:
            return client.gather([client.submit(call, *one, pure=False) for one in arguments])


def on_ray(call, arguments):
    ray = pytest.importorskip("ray")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {"env_vars": {"PYTHONPATH": path}}
    ray.init(num_cpus=2, runtime_env=environment, log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(num_cpus=1)(call)
        return ray.get([remote.remote(*one) for one in arguments], timeout=300)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("run", [on_joblib, on_dask, on_ray])
def test_they_give_what_they_give_here(bundle, clips, run):
    predictor, stream = Predictor(bundle), Stream(bundle)
    stream.push(np.concatenate(clips))  # its past travels with it

    def call(subject, clip):  # by value: workers cannot import this file
        if hasattr(subject, "push"):
            return copy.deepcopy(subject).push(clip)[-1].overall
        return subject.predict(clip)

    jobs = [(subject, clip) for subject in (predictor, stream) for clip in clips]
    np.testing.assert_allclose(run(call, jobs), [call(*job) for job in jobs], atol=1e-6)
