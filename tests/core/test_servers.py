"""Predictors and streams in servers and pipelines: pickled, copied, forked, in threads, shared."""

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import soxr
from nanos import random_nano
from test_predictor import model

from wav2small import Predictor, Stream, audio
from wav2small.errors import Wav2SmallError


@pytest.fixture(scope="module")
def clips(speech):
    return [audio.read(file) for file in sorted(speech.glob("*.flac"))[:8]]


@pytest.fixture(scope="module")
def bundles(clips, tmp_path_factory):
    """A bundle with streaming.onnx and one without."""
    from wav2small.export.onnx import models, streaming

    folder = tmp_path_factory.mktemp("bundles")
    (folder / "causal").mkdir()
    (folder / "window").mkdir()
    nano = random_nano(clips)
    onnx.save(models.build(nano, "int8")[0], folder / "causal" / "model.onnx")
    streaming.write_streaming(nano, folder / "causal")
    model(folder / "window" / "model.onnx")
    return {"causal": folder / "causal", "window": folder / "window"}


KINDS = pytest.mark.parametrize("kind", ["causal", "window"])


@KINDS
def test_a_predictor_travels(bundles, clips, kind, monkeypatch):
    monkeypatch.chdir(bundles[kind].parent)
    predictor = Predictor(kind, threads=2)  # a relative path, and threads that no fork survives
    expected = np.array([predictor.predict(clip) for clip in clips])
    copies = [pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)]
    monkeypatch.chdir("/")
    for other in copies:
        np.testing.assert_array_equal([other.predict(clip) for clip in clips], expected)
    assert copies[1].session is predictor.session
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(list(pool.map(predictor.predict, clips)), expected)
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            found = list(pool.map(copies[0].predict, clips, timeout=60))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_predictor_in_joblib(bundles, clips):
    joblib = pytest.importorskip("joblib")
    predictor = Predictor(bundles["causal"])
    for backend in ("loky", "threading"):
        jobs = (joblib.delayed(predictor.predict)(clip) for clip in clips)
        found = joblib.Parallel(n_jobs=2, backend=backend)(jobs)
        np.testing.assert_allclose(found, [predictor.predict(clip) for clip in clips], atol=1e-6)


def test_after_a_fork_without_a_pickle(bundles, clips):
    """As gunicorn does it: the parent has predicted, its children go on."""
    predictor = Predictor(bundles["causal"], threads=2)
    stream = Stream(predictor)
    stream.push(clips[0])
    expected = [*predictor.predict(clips[1]), *stream.push(clips[1])[-1].overall]
    stream = Stream(predictor)
    stream.push(clips[0])
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        try:
            theirs.send([*predictor.predict(clips[1]), *stream.push(clips[1])[-1].overall])
        finally:
            os._exit(0)
    if not ours.poll(60):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    np.testing.assert_allclose(ours.recv(), expected, atol=1e-5)


@KINDS
@pytest.mark.parametrize("how", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copied_stream_goes_on(bundles, clips, kind, how):
    stream = Stream(bundles[kind])
    stream.push(clips[0][:20001])
    other = how(stream)
    rest = np.concatenate([clips[0][20001:], clips[1]])
    expected = stream.push(rest)
    assert expected and other.push(rest) == expected
    assert stream.heard == other.heard and stream.push(clips[2]) != expected


@KINDS
def test_streams_of_one_predictor(bundles, clips, kind):
    predictor = Predictor(bundles[kind])
    streams = [Stream(predictor) for _ in clips]
    alone = [Stream(bundles[kind]).push(clip)[-1] for clip in clips]
    assert all(stream.causal == (kind == "causal") for stream in streams)

    def serve(number):
        blocks = np.array_split(clips[number], 20)
        return [estimate for block in blocks for estimate in streams[number].push(block)][-1]

    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(serve, range(len(clips))), alone, strict=True):
            np.testing.assert_allclose(one.overall, other.overall, atol=1e-5)


def test_200_streams_share_a_session(bundles, tmp_path):
    code = """if True:
        import sys, numpy as np, wav2small
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
        predictor = wav2small.Predictor(sys.argv[1])
        signal = np.random.default_rng(0).uniform(-.3, .3, 32000).astype("float32")
        streams = [wav2small.Stream(predictor)]
        streams[0].push(signal)
        before = resident()
        streams += [wav2small.Stream(predictor) for _ in range(199)]
        for stream in streams:
            for block in np.split(signal, 10):
                last = stream.push(block)
            assert last
        print(resident() - before)"""
    words = [sys.executable, "-c", code, bundles["causal"]]
    grown = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert grown <= 20, f"{grown:.1f} MB"


@KINDS
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_blocks_of_other_rates(bundles, clips, kind, rate):
    sound = soxr.resample(np.concatenate(clips[:3]), 16000, rate).astype(np.float32)
    stream, offline = Stream(bundles[kind], gate=False), Stream(bundles[kind], gate=False)
    estimates = []
    for start in range(0, len(sound), 997):
        estimates += stream.push(sound[start : start + 997], sampling_rate=rate)
    expected = offline.push(soxr.resample(sound, rate, 16000).astype(np.float32))
    assert len(expected) - len(estimates) <= 3
    for one, other in zip(estimates, expected, strict=False):
        assert one.time == other.time
        np.testing.assert_allclose(one.overall, other.overall, atol=1e-3)
    with pytest.raises(Wav2SmallError, match=f"16000 Hz after blocks at {rate} Hz"):
        stream.push(sound)
    stream.reset()
    assert stream.push(clips[0])


@pytest.mark.parametrize("rate", ["16k", "16000", None, 0, -16000, float("nan"), 1, 2e6, [16000]])
def test_rates_that_are_none(bundles, clips, rate):
    for take in (Predictor(bundles["causal"]).predict, Stream(bundles["causal"]).push):
        with pytest.raises(Wav2SmallError, match="a sampling rate of"):
            take(clips[0], sampling_rate=rate)
