"""Variants: the student gets, sample for sample, the signals that the teacher labelled."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
import soundfile

from wav2small import augmentation as variants
from wav2small import operations
from wav2small.errors import AudioError, Wav2SmallError

RATE = 16000
SEEDS = range(1, 61)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A folder of noise, one of room impulse responses, one of another voice."""
    random = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("folders")
    sounds = {
        "noise/hum.wav": 0.1 * np.sin(np.arange(RATE // 2) * 2 * np.pi * 50 / RATE),
        "noise/deep/hiss.flac": 0.1 * random.uniform(-1, 1, 5 * RATE),
        "rooms/hall.wav": np.exp(-np.arange(8000) / 2000) * random.uniform(-0.5, 0.5, 8000),
        "mixture/voice.flac": 0.3 * random.uniform(-1, 1, 3 * RATE),
    }
    for name, sound in sounds.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, sound, RATE)
    return {name: str(root / name) for name in ("noise", "rooms", "mixture")}


@pytest.fixture(scope="module")
def settings(folders):
    return variants.settings(**folders)


def test_seed_zero_is_the_clip(clip, settings):
    assert variants.variant(clip, 0, settings) is clip


def test_same_samples_in_another_process(clip, settings, tmp_path):
    np.save(tmp_path / "clip.npy", clip)
    program = (
        "import sys, zlib, numpy as np; from wav2small import augmentation as variants\n"
        f"s = variants.VariantSettings(**{vars(settings)!r}); x = np.load(sys.argv[1])\n"
        f"for k in {list(SEEDS)}: print(zlib.crc32(variants.variant(x, k, s).tobytes()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "clip.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    here = [zlib.crc32(variants.variant(clip, k, settings).tobytes()) for k in SEEDS]
    assert [int(line) for line in done.stdout.split()] == here
    assert len(set(here)) == len(here)


def test_bounds(clip, settings):
    for seed in SEEDS:
        signal = variants.variant(clip, seed, settings)
        assert signal.dtype == np.float32
        assert np.isfinite(signal).all() and np.abs(signal).max() <= 1
        pauses = sum(variants.recipe(seed, mixture=True).pause or ()) * RATE
        assert 0.69 < (len(signal) - pauses) / len(clip) < 1.41


def test_recipe_does_not_depend_on_the_library():
    # Literal numbers: a change of the stream would silently unlearn every table ever written.
    steps = variants.recipe(5, mixture=True)
    assert steps.channel is None and steps.size is None and steps.room is None
    assert steps.gain_db == pytest.approx(-25.05263834952212, abs=0)
    assert steps.noise == (0.06080271295805606, 0.5555961169207234, 13.143548135903046)


@pytest.mark.parametrize(
    "field, share",
    [
        ("size", 0.4),
        ("stretch", 0.5),
        ("effort", 0.4),
        ("dynamics", 0.3),
        ("intonation", 0.4),
        ("mixture", 0.3),
        ("pause", 0.4),
        ("room", 0.4),
        ("noise", 0.7),
        ("wind_db", 0.05),
        ("microphone", 0.35),
        ("channel", sum(variants.CHANNELS.values())),
        ("offset", 0.1),
        ("clip", 0.05),
    ],
)
def test_how_often(field, share):
    recipes = [variants.recipe(seed, mixture=True) for seed in range(1, 4001)]
    found = np.mean([getattr(steps, field) is not None for steps in recipes])
    assert found == pytest.approx(share, abs=0.025)


def test_every_channel_is_met():
    found = [variants.recipe(seed).channel for seed in range(1, 4001)]
    for name, share in variants.CHANNELS.items():
        assert found.count(name) / 4000 == pytest.approx(share, abs=0.015), name


def test_parts_join_to_the_variant(clip):
    # Of a seed that changes the voice and the channel, either part alone is another signal.
    seed = next(s for s in SEEDS if variants.recipe(s).effort and variants.recipe(s).channel)
    parts = {part: variants.variant(clip, seed, part=part) for part in ("all", "voice", "channel")}
    joined = variants.variant(parts["voice"], seed, part="channel")
    np.testing.assert_allclose(parts["all"], joined, atol=2e-3)
    for changed in ("voice", "channel"):
        other = parts[changed]
        assert len(other) != len(clip) or not np.allclose(other, clip)
        assert len(other) != len(parts["all"]) or not np.allclose(other, parts["all"])


def test_pauses_are_quiet_and_keep_the_voice(clip):
    seed = next(
        s for s in range(1, 4000)
        if (r := variants.recipe(s)).pause and min(r.pause) > 0.2 and not r.size
        and not (r.room or r.noise or r.wind_db or r.microphone or r.channel or r.offset or r.clip)
    )  # fmt: skip
    before, after = (round(pause * RATE) for pause in variants.recipe(seed).pause)
    padded = variants.variant(clip, seed, part="channel")
    assert len(padded) == before + len(clip) + after
    voice = padded[before : len(padded) - after]
    assert np.corrcoef(voice, clip)[0, 1] > 0.999
    for silence in (padded[:before], padded[len(padded) - after :]):
        assert 0 < operations.power(silence) < 10**-4.4 * operations.power(voice)


def test_clean_targets_are_of_the_voice(speech):
    file = sorted(speech.glob("*.flac"))[0]
    clean, default = variants.settings(targets="clean"), variants.settings()
    clip = variants.read(file)
    voice = variants.variant(clip, 9, part="voice")
    np.testing.assert_array_equal(
        variants.read(file, variant=9, settings=clean, labelled=True), voice
    )
    full = variants.read(file, variant=9, settings=clean)  # what the student gets
    np.testing.assert_array_equal(full, variants.read(file, variant=9, settings=default))
    np.testing.assert_array_equal(
        variants.read(file, variant=9, settings=default, labelled=True), full
    )


def test_other_targets_are_rejected():
    with pytest.raises(Wav2SmallError, match="heard or clean"):
        variants.settings(targets="dirty")


@pytest.mark.parametrize("kind, edge_hz", [("gsm", 4000), ("opus8", 4000), ("opus16", 8000)])
def test_speech_codecs_keep_length_and_speech(clip, kind, edge_hz):
    sound = clip.astype(np.float64)
    out = operations.telephone_codec(sound, kind)
    assert len(out) == len(sound)
    spectrum = np.abs(np.fft.rfft(out)) ** 2
    frequency = np.fft.rfftfreq(len(out), 1 / RATE)
    assert spectrum[frequency > edge_hz * 1.05].sum() < 1e-4 * spectrum.sum()
    power = [np.square(x[: len(x) // 800 * 800]).reshape(-1, 800).sum(1) for x in (sound, out)]
    assert np.corrcoef(np.sqrt(power))[0, 1] > 0.9  # the loudness contour survives


@pytest.mark.parametrize("ratio_db", [0.0, 5.0, 35.0])
def test_added_sound_has_the_ratio(clip, ratio_db):
    sound = clip.astype(np.float64)
    other = np.random.default_rng(1).normal(size=len(sound))
    added = operations.add(sound, other, ratio_db) - sound
    measured = 10 * np.log10((sound**2).sum() / (added**2).sum())
    assert measured == pytest.approx(ratio_db, abs=1e-6)


def test_room_is_a_convolution():
    random = np.random.default_rng(2)
    sound, response = random.normal(size=300), random.normal(size=50) * np.exp(-np.arange(50) / 9)
    direct = response[np.abs(response).argmax() :]
    expected = np.convolve(sound, direct)[:300]
    expected *= np.sqrt((sound**2).mean() / (expected**2).mean())
    np.testing.assert_allclose(operations.reverberate(sound, response), expected, atol=1e-9)


@pytest.mark.parametrize(
    "band_hz, kept, lost", [((0.0, 3000.0), 2500, 3500), ((300.0, 3400.0), 1000, 200)]
)
def test_band(band_hz, kept, lost):
    time_s = np.arange(RATE) / RATE
    for tone_hz, expected in ((kept, 1.0), (lost, 0.0)):
        tone = np.sin(2 * np.pi * tone_hz * time_s)
        out = operations.band(tone, *band_hz)[RATE // 10 : -RATE // 10]  # its ends are clicks
        assert np.sqrt(2 * (out**2).mean()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 11025, 12000])
def test_codec_keeps_length_and_loses_the_top(clip, rate):
    sound = clip.astype(np.float64)
    out = operations.mu_law(sound, rate)
    assert len(out) == len(sound)
    spectrum = np.abs(np.fft.rfft(out)) ** 2
    frequency = np.fft.rfftfreq(len(out), 1 / RATE)
    assert spectrum[frequency > rate / 2 * 1.05].sum() < 1e-4 * spectrum.sum()
    assert np.corrcoef(out, operations.band(sound, 0.0, rate / 2 * 0.9))[0, 1] > 0.98


def test_made_noise_has_its_colour():
    noise = operations.coloured_noise(variants._white(7, 10 * RATE), 2.0)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    frequency = np.fft.rfftfreq(10 * RATE, 1 / RATE)
    bands = [spectrum[(frequency > low) & (frequency < 2 * low)].mean() for low in (200, 800, 3200)]
    slopes = np.diff(10 * np.log10(bands)) / 2  # dB per octave
    np.testing.assert_allclose(slopes, -6.02, atol=0.5)


def test_seeds_of_a_clip():
    seeds = variants.seeds("a b.wav", 0, None, 8)
    assert len(set(seeds)) == 8 and min(seeds) > 0
    assert seeds == variants.seeds("a b.wav", 0, None, 8)
    assert seeds[:3] == variants.seeds("a b.wav", 0, None, 3)
    assert not set(seeds) & set(variants.seeds("a b.wav", 0, 1, 8))


def test_read_gives_the_variant(speech, settings):
    file = sorted(speech.glob("*.flac"))[0]
    full = variants.read(file, end_s=0.9)
    made = variants.read(file, end_s=0.9, variant=9, settings=settings)
    np.testing.assert_array_equal(made, variants.variant(full, 9, settings))


def test_another_listing_is_noticed(clip, folders, tmp_path):
    import shutil

    shutil.copytree(folders["noise"], tmp_path / "noise")
    chosen = variants.settings(noise=str(tmp_path / "noise"))
    variants.variant(clip, 1, chosen)
    shutil.copy(tmp_path / "noise" / "hum.wav", tmp_path / "noise" / "hum2.wav")
    variants._listing.cache_clear()
    variants._digest.cache_clear()
    with pytest.raises(Wav2SmallError, match="not what was labelled"):
        variants.variant(clip, 1, chosen)


def test_bad_folders(tmp_path):
    with pytest.raises(Wav2SmallError, match="no audio in this folder"):
        variants.settings(rooms=str(tmp_path))
    (tmp_path / "broken.wav").write_text("no sound")
    with pytest.raises(Wav2SmallError, match="broken.wav") as caught:
        variants.settings(noise=str(tmp_path))
    assert not isinstance(caught.value, AudioError)  # it stops the run, it is not the clip's fault
