"""The report: what it shows, that browsers show it, and that its live demo equals Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import wave
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from wav2small.benchmarks.audit.audit import SuiteOptions, audit
from wav2small.benchmarks.report import evidence, live, plots, report
from wav2small.benchmarks.report.report import PageOptions
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.predictor import Predictor
from wav2small.tables import Labels, write_labels

EXAMPLE = Path(__file__).parents[2] / "examples" / "web"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome")
     if (path := shutil.which(name))), None
)  # fmt: skip
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def test_an_evaluation_with_the_agreement_of_raters_and_its_confusion(tmp_path):
    random = np.random.default_rng(0)
    clips, names = 40, ["anger", "neutral"]
    truth = pd.DataFrame({"file": [f"{n}.wav" for n in range(clips)], "arousal": 0.5})
    truth["emotion"] = random.choice(names, clips)
    raters = [truth.assign(rater=n, arousal=random.random(clips)) for n in range(2)]
    pd.concat(raters).to_csv(tmp_path / "truth.csv", index=False)
    shares = random.dirichlet([1, 1], clips)
    for name, share in zip(names, shares.T, strict=True):
        truth[f"probability_{name}"] = share
    truth["arousal"] = random.random(clips)
    truth.drop(columns="emotion").to_csv(tmp_path / "found.csv", index=False)
    words = ["evaluate", "found.csv", "truth.csv", "--resamples", "9"]
    command = [sys.executable, "-m", "wav2small", *words]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    done = subprocess.run([*command, "--json"], capture_output=True, cwd=tmp_path, check=True)
    (tmp_path / "some.json").write_bytes(done.stdout)
    found = json.loads(done.stdout)
    page = (
        report.report([tmp_path / "some.json"], tmp_path / "r.html")
        .read_text()
        .replace("\xa0", " ")
    )
    ceiling = f"{found['raters']['arousal']['value']:.3f}"
    of_arousal = next(line for line in shown.splitlines() if line.startswith("arousal"))
    assert "CCC of one rater" in shown and ceiling in of_arousal
    assert "CCC, one rater" in page and f">{ceiling} [" in page
    drawn = re.search(r'<svg[^>]*aria-labelledby="evaluation-0-categories.*?</svg>', page, re.S)
    cells = [int(text) for text in re.findall(r">(\d+)</text>", drawn[0])]
    assert cells == [count for row in found["categories"]["confusion"] for count in row]


def write_bundle(folder, *, seed=0, precision="fp32"):
    """A convolutional toy with the record and provenance that `export` writes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    weights = {
        "one": np.array([1], np.int64),
        "kernel": (rng.standard_normal((8, 1, 64)) / 8).astype(np.float32),
        "last": (rng.standard_normal((8, 3)) * 0.3).astype(np.float32),
        "bias": np.full(3, 0.5, np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["signal", "one"], ["x"]),
        helper.make_node("Conv", ["x", "kernel"], ["c"], strides=[32]),
        helper.make_node("Abs", ["c"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "last", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [1, None])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        folder / "model.onnx",
    )
    ccc = {name: {"value": 0.8 + seed / 100, "low": 0.7, "high": 0.9} for name in DIMENSIONS}
    record = {"precision": precision, "parameters": 539, "ccc": {"before": ccc, "after": ccc}}
    (folder / "verification.json").write_text(json.dumps(record))
    (folder / "provenance.json").write_text(json.dumps(PROVENANCE))
    return folder


PROVENANCE = {
    "teachers": [
        {
            "name": "acoustic",
            "id": "wav2small.teachers.acoustic",
            "revision": "1",
            "licence": "MIT",
        }
    ],
    "audio": [{"source": "speech/<b>", "licence": "CC-BY-NC-SA-4.0"}],
    "code": {"name": "wav2small", "licence": "MIT"},
    "versions": {"wav2small": "0.1.0"},
    "distillation": {"settings": {"student": "wav2small", "epochs": 3, "seed": 0}},
}


def write_run(folder, *, finished=True):
    folder.mkdir(parents=True)
    rows = [
        {"epoch": epoch, "phase": "train", "step": 9 * epoch, "loss": 1 / epoch}
        | {f"ccc_{name}": 0.2 * epoch for name in (*DIMENSIONS, "mean")}
        for epoch in (1, 2, 3)
    ]
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    (folder / "provenance.json").write_text(json.dumps(PROVENANCE))
    if finished:
        (folder / "model.safetensors").write_bytes(b"")
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"file": [f"{i}.wav" for i in range(40)]})
        frame["start"] = pd.Series(pd.Timedelta(0), index=frame.index, dtype="timedelta64[ns]")
        frame["end"] = pd.Series(pd.NaT, index=frame.index, dtype="timedelta64[ns]")
        for name in DIMENSIONS:
            frame[name] = rng.uniform(0.1, 0.9, 40)
            frame[f"{name}_student"] = frame[name] + rng.normal(0, 0.05, 40)
        write_labels(folder / "validation.parquet", Labels(frame, "audio", PROVENANCE))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def bundle(folder):
    return write_bundle(folder / "bundle")


@pytest.fixture(scope="module")
def package():
    """ONNX Runtime Web, where somebody has it: $WAV2SMALL_ONNXRUNTIME_WEB, else npm fetches it."""
    folder = os.environ.get("WAV2SMALL_ONNXRUNTIME_WEB")
    try:
        return live.package(folder)
    except Wav2SmallError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def page(folder, bundle, speech):
    """A page of a run, two bundles, and an audit."""
    second = write_bundle(folder / "small", seed=1, precision="int8")
    run = write_run(folder / "run")
    files = sorted(str(path) for path in speech.glob("*.flac"))
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"file": files, "sex": ["f", "m"] * 12})
    for name in DIMENSIONS:
        table[name] = rng.uniform(0.1, 0.9, 24).round(3)
    table.to_csv(folder / "clips.csv", index=False)
    audited = folder / "audit.json"
    only = ["correctness:*", "fairness:*", "robustness:l*", "robustness:curves"]
    suite = SuiteOptions(only=only, resamples=50)
    audit(bundle, folder / "clips.csv", audited, suite=suite, processes=1)
    inputs = [run, bundle, second, audited]
    return report.report(inputs, folder / "page.html", page=PageOptions(runs=3, clips=6))


class Outline(HTMLParser):
    """What a page holds, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.fetched, self.tags = [], [], [], []
        self.unnamed = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        address = given.get("src") or (given.get("href") if tag in ("link", "a", "use") else None)
        if address and address.startswith("#"):
            self.links.append(address[1:])
        elif address and not address.startswith("data:"):
            self.fetched.append(address)
        if tag == "svg" and not {"role", "aria-labelledby"} <= set(given):
            self.unnamed.append(given)
        if tag == "audio" and not given.get("aria-label"):
            self.unnamed.append(given)


def test_page_is_complete_and_fetches_nothing(page):
    text = page.read_text()
    outline = Outline(text)
    assert outline.fetched == []
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.links) <= set(outline.ids)
    assert outline.unnamed == []
    assert not re.search(r"url\((?!#|&#)", text)
    assert outline.tags.count("h1") == 1 and outline.tags.count("audio") == 6
    assert 'lang="en"' in text and "width=device-width" in text and "prefers-color-scheme" in text


def test_every_plot_has_its_table(page):
    sections = page.read_text().split("<section")[1:]
    drawn = [section for section in sections if "<svg" in section]
    assert len(drawn) >= 7
    for section in drawn:
        assert "<table>" in section and "<figcaption>" in section


@pytest.mark.parametrize(
    "needle",
    [
        "Training of run", "Student and teacher", "Size, latency and agreement",
        "Latency and memory against length", "Robustness", "Degradation in noise",
        "Fairness by sex", "Worst clips", "Provenance and licences", "random model",
        "CC-BY-NC-SA-4.0", "wav2small distill labels.parquet", "Student and truth",
        "speech/&lt;b&gt;",
    ],
)  # fmt: skip
def test_page_shows(page, needle):
    assert needle in page.read_text()


def test_drawings_take_the_colours_of_the_page(page):
    text = page.read_text()
    assert not re.search("#010203|#040506|#0a0b0[1-6]", text)
    assert "var(--c1)" in text and "currentColor" in text


def test_two_drawings_share_no_ids():
    line = {"panel": plots.lines([("a", [1, 2], [1, 2]), ("b", [1, 2], [2, 1])], x_label="x")}
    drawings = plots.panels(line, ident="first", description="two lines")
    drawings += plots.panels(line, ident="second", description="two lines")
    ids = [name for drawing in drawings for name in re.findall(r'id="([^"]+)"', drawing)]
    assert len(ids) == len(set(ids))


def test_run_that_is_still_training(folder, tmp_path):
    run = write_run(tmp_path / "running", finished=False)
    text = report.report([run], tmp_path / "page.html", page=PageOptions(runs=0)).read_text()
    assert "still training" in text and "Training of running" in text
    (run / "metrics.csv").unlink()
    (run / "distill.toml").touch()
    text = report.report([run], tmp_path / "page.html", page=PageOptions(runs=0)).read_text()
    assert "no epoch is finished yet" in text


def test_a_model_in_the_box_alone(tmp_path):
    text = report.report("nano", tmp_path / "page.html", page=PageOptions(runs=0)).read_text()
    assert "wav2small report nano -o" in text


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: [], "nothing to report on"),
        (lambda folder: [folder / "absent"], "no such run"),
        (lambda folder: [folder], "neither a run"),
        (lambda folder: [_json(folder / "a.json", "[")], "not JSON"),
        (lambda folder: [_json(folder / "b.json", "{}")], "not an audit"),
    ],
    ids=["nothing", "absent", "empty folder", "broken", "other JSON"],
)
def test_bad_inputs(tmp_path, make, message):
    with pytest.raises(Wav2SmallError, match=message):
        report.report(make(tmp_path), tmp_path / "page.html")


def test_bad_outputs(bundle, tmp_path):
    with pytest.raises(Wav2SmallError, match="report.html"):
        report.report([bundle], tmp_path / "page.pdf")
    with pytest.raises(Wav2SmallError, match="--onnxruntime-web"):
        report.report(
            [bundle], tmp_path / "page.html", page=PageOptions(live=True, onnxruntime_web=tmp_path)
        )
    run = write_run(tmp_path / "run")
    with pytest.raises(Wav2SmallError, match="need a bundle"):
        report.report([run], tmp_path / "page.html", page=PageOptions(live=True))


def test_results_of_commands_are_recognised(folder, page):
    gathered = evidence.gather([folder / "audit.json", folder / "bundle", folder / "run"])
    assert len(gathered.audits) == len(gathered.bundles) == len(gathered.runs) == 1
    assert gathered.runs[0].note == ""


def test_a_script_without_a_main_guard_does_not_hang(bundle, speech, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import wav2small\n"
        "from wav2small.benchmarks.audit.audit import SuiteOptions\n"
        "from wav2small.benchmarks.audit.corpus import ClipOptions\n"
        "from wav2small.benchmarks.report.report import PageOptions\n"
        "page = wav2small.report(\n"
        f"    [{str(bundle)!r}], 'page.html', source={str(speech)!r}, page=PageOptions(runs=0),\n"
        "    clips=ClipOptions(limit=12), suite=SuiteOptions(['robustness:gain*'], resamples=20),\n"
        ")\n"
        "print(page.read_text().count('12 of 12 clips used'))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.split() == ["1"], done.stderr


# in the browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browse():
    """A function that opens a page in headless Chromium and gives it with its complaints."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as machine:
        opened = []

        def browse(path, *, width=1200, scheme="light", flags=(), permissions=()):
            browser = machine.chromium.launch(
                executable_path=CHROMIUM, args=[*FLAGS, *flags], headless=True
            )
            opened.append(browser)
            context = browser.new_context(
                viewport={"width": width, "height": 844}, color_scheme=scheme,
                permissions=list(permissions),
            )  # fmt: skip
            tab = context.new_page()
            complaints = []
            tab.on("console", lambda note: complaints.append(note.text)
                   if note.type in ("error", "warning") else None)  # fmt: skip
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("requestfailed", lambda request: complaints.append(request.url))
            tab.goto(Path(path).resolve().as_uri())
            return tab, complaints

        yield browse
        for browser in opened:
            browser.close()


@pytest.mark.parametrize("width, scheme", [(1200, "light"), (390, "dark")])
def test_renders_in_a_browser(browse, page, width, scheme):
    tab, complaints = browse(page, width=width, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    ink, paper = (tab.evaluate(f"getComputedStyle(document.body).{name}")
                  for name in ("color", "backgroundColor"))  # fmt: skip
    light = [np.mean([int(x) for x in re.findall(r"\d+", colour)[:3]]) for colour in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light")
    sizes = tab.evaluate("[...document.querySelectorAll('svg')].map(s => s.clientWidth)")
    assert min(sizes) > 150
    assert complaints == []


def test_audio_clips_play(browse, page):
    tab, complaints = browse(page, flags=["--autoplay-policy=no-user-gesture-required"])
    durations = tab.evaluate(
        """async () => Promise.all([...document.querySelectorAll('audio')].map(async audio => {
            audio.muted = true;
            await audio.play();
            await new Promise(done => audio.addEventListener('timeupdate', done, {once: true}));
            audio.pause();
            return audio.duration;
        }))"""
    )
    assert len(durations) == 6 and min(durations) > 0.5
    assert complaints == []


def test_keyboard_reaches_content_and_tables(browse, page):
    tab, _ = browse(page)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = set()
    for _ in range(80):
        tab.keyboard.press("Tab")
        seen.add(
            tab.evaluate("document.activeElement.tagName + (document.activeElement.role || '')")
        )
    assert {"A", "SUMMARY", "DIVregion"} <= seen
    tab.locator("summary").first.press("Enter")
    assert tab.evaluate("document.querySelector('details').open")


@pytest.fixture(scope="module")
def live_page(folder, bundle, package, monkeypatch_module):
    monkeypatch_module.setattr(live, "package", lambda folder: package)
    return report.report([bundle], folder / "try.html", page=PageOptions(runs=0, live=True))


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def recording(folder, clip):
    """The clip as WAV, 16 kHz, 16 bit."""
    path = folder / "clip.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.round(clip * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def example_page(folder, bundle, package):
    """`examples/web`, built with the package that the report uses."""
    dist = folder / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in (live.SCRIPT, live.GLUE, live.WASM):
        (dist / name).write_bytes(package[name])
    words = [EXAMPLE / "build.py", bundle, "-o", folder / "site", "--onnxruntime-web", dist]
    subprocess.run([sys.executable, *words], check=True)
    return folder / "site" / "index.html"


READY = "window.wav2small && window.wav2small.ready"


@pytest.mark.parametrize("where", ["live_page", "example_page"])
def test_browser_computes_what_python_does(browse, where, bundle, recording, request):
    tab, complaints = browse(request.getfixturevalue(where))
    tab.wait_for_function(READY, timeout=60000)
    tab.set_input_files("#live-file", str(recording))
    tab.wait_for_function("window.wav2small.estimates > 0", timeout=30000)
    logits = tab.evaluate("window.wav2small.logits")
    expected = Predictor(bundle).predict_file(recording)
    assert logits == pytest.approx(expected.tolist(), abs=1e-4)
    shown = [tab.inner_text(f"#live-{name}-value") for name in DIMENSIONS]
    assert shown == [f"{value:.2f}" for value in logits]
    assert complaints == []


def test_microphone_moves_the_bars(browse, live_page, bundle, recording):
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
             f"--use-file-for-fake-audio-capture={recording}"]  # fmt: skip
    tab, complaints = browse(live_page, flags=flags, permissions=["microphone"])
    tab.wait_for_function(READY, timeout=60000)
    tab.click("#live-microphone")
    tab.wait_for_function("window.wav2small.estimates >= 3", timeout=30000)
    last = tab.evaluate(
        "({signal: Array.from(window.wav2small.signal), logits: window.wav2small.logits})"
    )
    signal = np.array(last["signal"], np.float32)
    assert np.abs(signal).max() > 0.01
    assert last["logits"] == pytest.approx(Predictor(bundle).predict(signal).tolist(), abs=1e-4)
    assert tab.get_attribute("#live-microphone", "aria-pressed") == "true"
    tab.click("#live-microphone")
    assert "off" in tab.inner_text("#live-status")
    assert complaints == []


def test_live_names_what_it_cannot_read(browse, live_page, tmp_path):
    tab, _ = browse(live_page)
    tab.wait_for_function(READY, timeout=60000)
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    tab.set_input_files("#live-file", str(text))
    tab.wait_for_function("document.getElementById('live-status').textContent.includes('cannot')")


def _json(path, text):
    path.write_text(text)
    return path
