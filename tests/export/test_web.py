"""The npm package: Python's numbers in a real browser, types, and WebAssembly without a runtime."""

import base64
import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from nanos import random_nano

from wav2small import Predictor
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

WEB = Path(__file__).parents[2] / "web"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome")
     if (path := shutil.which(name))), None
)  # fmt: skip
DOWN = threading.Event()  # the server of `site` answers nothing
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
HAS_WASM = shutil.which("clang") and any(
    shutil.which(name) for name in ("wasm-ld", "wasm-ld-14", "wasm-ld-16", "wasm-ld-19")
)

pytestmark = [
    pytest.mark.tools,
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_WASM, reason="no clang with wasm-ld: apt-get install clang lld"),
]


def load_build():
    spec = importlib.util.spec_from_file_location("web_build", WEB / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clips(speech):
    return [soundfile.read(f, dtype="float32")[0] for f in sorted(speech.glob("*.flac"))[:12]]


@pytest.fixture(scope="module")
def bundle(clips, speech, tmp_path_factory):
    from wav2small.export.c.emitter import COptions
    from wav2small.export.export import export_bundle
    from wav2small.export.verification import VerificationOptions

    folder = tmp_path_factory.mktemp("web")
    random_nano(clips).save_pretrained(folder / "run")
    options = VerificationOptions(calibration=speech, clips=12)
    c = COptions(name="box")
    return export_bundle(folder / "run", folder / "bundle", verification=options, c=c).bundle


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """node_modules with onnxruntime-web and typescript: $WAV2SMALL_NODE_MODULES, else from npm."""
    if folder := os.environ.get("WAV2SMALL_NODE_MODULES"):
        return Path(folder)
    if not shutil.which("npm"):
        pytest.skip("no npm")
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    command += ["--prefix", folder, "onnxruntime-web", "typescript"]
    if subprocess.run(command, capture_output=True, check=False, cwd=folder).returncode:
        pytest.skip("npm could not fetch onnxruntime-web; set WAV2SMALL_NODE_MODULES")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def package(bundle, tmp_path_factory):
    """The package with the bundle in its box."""
    folder = tmp_path_factory.mktemp("package") / "wav2small"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules", "model"))
    load_build().build(bundle, folder / "model")
    return folder


def encoded(signal):
    data = base64.b64encode(np.asarray(signal, "<f4").tobytes()).decode()
    return f"new Float32Array(Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0)).buffer)"


# without a browser ------------------------------------------------------------------------------


def node(package, script, *, check=True):
    if not shutil.which("node"):
        pytest.skip("no node")
    head = (
        'import { readFileSync } from "node:fs";\n'
        'import { Resampler, signal16k } from "./src/audio.js";\n'
        'import { Stream } from "./src/stream.js";\n'
        'const wasm = readFileSync("./model/nano.wasm");\n'
        "const print = (value) => console.log(JSON.stringify(value));\n"
    )
    path = package / "check.mjs"
    path.write_text(head + script)
    done = subprocess.run(["node", path], capture_output=True, text=True, cwd=package, check=False)
    assert not check or done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def plain_c(bundle, signal):
    """What the plain C of the bundle computes on this machine."""
    from wav2small.benchmarks.studies.plain_c import PlainC

    samples = np.clip(np.round(np.asarray(signal, np.float64) * 32768), -32768, 32767)
    return PlainC(next(bundle.glob("c/nano_*.c"))).predict(samples.astype(np.int16))


def test_wasm_is_small_and_needs_nothing(package):
    assert (package / "model/nano.wasm").stat().st_size <= 60_000
    script = "const m = new WebAssembly.Module(wasm); print(WebAssembly.Module.imports(m));"
    assert node(package, script) == [[]]


@pytest.mark.parametrize("size", [1, 100, 256, 1024, 5000])
def test_stream_equals_plain_c(package, bundle, clips, size):
    signal = clips[0]
    script = f"""
    const stream = new Stream(wasm, {{ gate: false }});
    const signal = {encoded(signal)};
    let last;
    let count = 0;
    for (let at = 0; at < signal.length; at += {size}) {{
      for (const estimate of stream.push(signal.subarray(at, at + {size}))) {{
        last = estimate;
        count += 1;
      }}
    }}
    print({{ ...last, count }});
    """
    (last,) = node(package, script)
    hops = len(signal) // 256
    assert last["time"] == last["heard"] == hops * 256 / 16000
    assert last["count"] == hops - 15  # none before .25 s
    np.testing.assert_allclose(last["overall"], plain_c(bundle, signal), rtol=0, atol=1e-6)


def test_every_and_reset(package, clips):
    script = f"""
    const stream = new Stream(wasm, {{ gate: false, every: 10 }});
    const signal = {encoded(clips[0])};
    const first = stream.push(signal);
    stream.reset();
    const second = stream.push(signal);
    print([first.length, JSON.stringify(first) === JSON.stringify(second)]);
    print(stream.push(new Float32Array(0)));
    """
    counts, nothing = node(package, script)
    assert counts == [len(clips[0]) // 256 // 10 - 1, True] and nothing == []


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 44101, 48000, 96000, 192000])
def test_resampler(package, rate):
    """Tones below 7 kHz pass as computed; above 8.2 kHz nothing is left; blocks change nothing."""
    half = min(rate, 16000) / 2
    low, high = 0.42 * half, 0.88 * half
    script = f"""
    const n = {rate} >> 1;
    const tone = (hz) => Float32Array.from({{ length: n }}, (_, i) =>
      Math.sin((2 * Math.PI * hz * i) / {rate}));
    const out = [{low}, {high}, {1.05 * 8000}].map((hz) =>
      Array.from(new Resampler({rate}).push(tone(hz), true)));
    const blocks = new Resampler({rate});
    const parts = [];
    for (let at = 0; at < n; at += 128) {{
      parts.push(...blocks.push(tone({low}).subarray(at, at + 128), at + 128 >= n));
    }}
    print(out);
    print(parts.length === out[0].length && parts.every((x, i) => x === out[0][i]));
    """
    (one, two, stopped), same = node(package, script)
    assert same and abs(len(one) - 8000) <= 1
    time = np.arange(len(one)) / 16000
    inside = slice(500, -500)
    for outputs, hz in ((one, low), (two, high)):
        error = np.array(outputs) - np.sin(2 * np.pi * hz * time)
        assert np.abs(error[inside]).max() < 2e-4
    if rate > 2 * 1.05 * 8000:
        assert np.abs(np.array(stopped)[inside]).max() < 2e-4


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("new Resampler(0)", "sampling rate of 0"),
        ("new Resampler(44100.5)", "an integer"),
        ("new Resampler(NaN)", "NaN"),
        ("signal16k([1, 2], 16000)", "Float32Array"),
        ("signal16k(new Float32Array([NaN]), 16000)", "NaN"),
        ("new Stream(wasm).push(new Int16Array(3))", "Float32Array"),
        ("new Stream(wasm).push(new Float32Array([Infinity]))", "infinite"),
        ("new Stream(wasm, { every: 0 })", "0 hops"),
        ("new Stream(wasm).setVoice(2)", "voice"),
        ("new Stream(wasm.subarray(0, 100))", "WebAssembly"),
    ],
)
def test_bad_input(package, code, message):
    script = (
        f"try {{ {code}; print('nothing'); }} catch (e) {{ print(`${{e.name}} ${{e.message}}`); }}"
    )
    (printed,) = node(package, script)
    assert message in printed


def test_build_rejects(tmp_path):
    with pytest.raises(Wav2SmallError, match="export a nano"):
        load_build().build(tmp_path, tmp_path / "model")


def test_pack(package):
    """What npm would publish."""
    if not shutil.which("npm"):
        pytest.skip("no npm")
    done = subprocess.run(["npm", "pack", "--dry-run", "--json"], capture_output=True, text=True,
                          cwd=package, check=True)  # fmt: skip
    (packed,) = json.loads(done.stdout)
    names = {file["path"] for file in packed["files"]}
    sources = {f"src/{path.name}" for path in (WEB / "src").iterdir()}
    assert sources | {"package.json", "model/model.onnx", "model/nano.wasm"} <= names
    assert not any(name.startswith(("demo/", "wasm/", "build")) for name in names)
    assert packed["size"] < 150_000


def test_types(package, modules, tmp_path):
    """A strict TypeScript project uses every export."""
    (tmp_path / "node_modules").mkdir()
    for path in modules.iterdir():
        (tmp_path / "node_modules" / path.name).symlink_to(path)
    (tmp_path / "node_modules/wav2small").symlink_to(package)
    (tmp_path / "app.ts").write_text("""
        import * as ort from "onnxruntime-web";
        import { RATE, Resampler, Stream, decode, listen, load, loadStream } from "wav2small";
        import type { Estimate, Listening, Model, Values } from "wav2small";
        export async function app(file: File): Promise<Values> {
            const model: Model = await load(undefined, { ort, threads: 1 });
            const stream: Stream = await loadStream("nano.wasm", { rate: 48000, every: 4 });
            const some: Estimate[] = stream.push(new Float32Array(128));
            const overall: number = some[0]!.overall[2] + stream.hop + RATE;
            const on: Listening = await listen((e) => e.map((x) => x.arousal), { gate: false });
            await on.stop();
            new Resampler(overall).push(new Float32Array(1), true);
            return model.predict(await decode(await file.arrayBuffer()), 16000);
        }
        // @ts-expect-error numbers are not samples
        export const wrong = (m: Model) => m.predict([1, 2]);
    """)
    command = ["node", modules / "typescript/bin/tsc", "--noEmit", "--strict", "--skipLibCheck"]
    command += ["--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "app.ts"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout


# in a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(package, modules):
    """The package by http on this machine, with onnxruntime-web in it."""
    (package / "node_modules").mkdir(exist_ok=True)
    if not (package / "node_modules/onnxruntime-web").exists():
        (package / "node_modules/onnxruntime-web").symlink_to(modules / "onnxruntime-web")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = {
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def log_message(self, *_):
            pass

        def do_GET(self):
            if DOWN.is_set():
                self.close_connection = True
            else:
                super().do_GET()

    handler = functools.partial(Quiet, directory=str(package))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def recording(clips, tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "speech.wav"
    soundfile.write(path, np.concatenate(clips[:3]), 16000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browse(site, recording):
    """A function that opens the demo in headless Chromium; gives the tab and its complaints."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                  f"--use-file-for-fake-audio-capture={recording}"]  # fmt: skip
    with playwright.sync_playwright() as machine:
        browser = machine.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *microphone])
        context = browser.new_context(permissions=["microphone"])

        def browse(before=""):
            tab = context.new_page()
            complaints, requests = [], []
            tab.on("console", lambda note: complaints.append(note.text)
                   if note.type in ("error", "warning") else None)  # fmt: skip
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("request", lambda request: requests.append(request.url))
            if before:
                tab.add_init_script(before)
            tab.goto(f"{site}/demo/")
            tab.wait_for_function("window.wav2small?.ready", timeout=60000)
            assert all(url.startswith((site, "data:", "blob:")) for url in requests)  # offline
            return tab, complaints

        yield browse
        browser.close()


def test_demo_of_a_file(browse, bundle, recording, tmp_path):
    tab, complaints = browse()
    tab.set_input_files("#file", str(recording))
    tab.wait_for_function("window.wav2small.estimates > 0", timeout=30000)
    values = tab.evaluate("window.wav2small.values")
    expected = Predictor(bundle).predict_file(recording)
    np.testing.assert_allclose([values[d] for d in DIMENSIONS], expected, rtol=0, atol=1e-4)
    shown = [float(tab.inner_text(f"#{d}-value")) for d in DIMENSIONS]
    np.testing.assert_allclose(shown, expected, atol=0.0051)
    (tmp_path / "notes.wav").write_text("no audio")
    tab.set_input_files("#file", str(tmp_path / "notes.wav"))
    tab.wait_for_function("document.getElementById('status').textContent.includes('cannot')")
    assert complaints == []


def test_demo_of_the_microphone(browse):
    tab, complaints = browse()
    tab.click("#microphone")
    tab.wait_for_function("window.wav2small.estimates >= 3", timeout=30000)
    values = tab.evaluate("window.wav2small.values")
    assert values["heard"] >= 0.25 and tab.evaluate("window.wav2small.rate") >= 8000
    assert all(-0.5 < values[d] < 1.5 for d in DIMENSIONS)
    assert "Listening" in tab.inner_text("#status")
    tab.click("#microphone")
    tab.wait_for_function("document.getElementById('status').textContent.includes('off')")
    assert tab.get_attribute("#microphone", "aria-pressed") == "false" and complaints == []


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("delete window.AudioWorkletNode;", "no AudioWorklet"),
        (
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('denied'));",
            "denied",
        ),
    ],
)  # fmt: skip
def test_demo_without_a_microphone(browse, before, message):
    tab, complaints = browse(before)
    tab.click("#microphone")
    tab.wait_for_function("document.getElementById('status').textContent.startsWith('No')")
    assert message in tab.inner_text("#status") and complaints == []


def test_demo_without_a_network(browse, recording):
    """Once loaded, a reload, a file and the microphone work with nobody at the other end."""
    tab, _ = browse()
    DOWN.set()
    try:
        tab.reload()
        tab.wait_for_function("window.wav2small?.ready", timeout=60000)
        tab.set_input_files("#file", str(recording))
        tab.wait_for_function("window.wav2small.estimates > 0", timeout=30000)
        tab.click("#microphone")
        tab.wait_for_function("window.wav2small.estimates >= 3", timeout=30000)
        tab.click("#microphone")
    finally:
        DOWN.clear()


def test_predict_at_other_rates(browse, bundle, clips):
    tab, _ = browse()
    predictor = Predictor(bundle)
    expected = predictor.predict(clips[1])
    for rate, allowed in ((16000, 1e-4), (48000, 5e-3), (44100, 5e-3)):
        signal = clips[1] if rate == 16000 else soxr.resample(clips[1], 16000, rate, "VHQ")
        values = tab.evaluate(f"""async () => {{
            const {{ load }} = await import("../src/index.js");
            const model = await load();
            return model.predict({encoded(signal)}, {rate});
        }}""")
        np.testing.assert_allclose([values[d] for d in DIMENSIONS], expected, atol=allowed)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_stream_in_a_worklet(browse, bundle, clips, rate):
    """On the audio thread, at the context's rate: what the plain C computes of the same audio."""
    tab, complaints = browse()
    signal = np.concatenate(clips[:2])
    played = signal if rate == 16000 else soxr.resample(signal, 16000, rate, "VHQ")
    last = tab.evaluate(f"""async () => {{
        const signal = {encoded(played)};
        const context = new OfflineAudioContext(1, signal.length + {rate}, {rate});
        await context.audioWorklet.addModule("../src/worklet.js");
        const wasm = await (await fetch("../model/nano.wasm")).arrayBuffer();
        const node = new AudioWorkletNode(context, "wav2small", {{
          numberOfOutputs: 1, processorOptions: {{ wasm, gate: false }},
        }});
        const got = [];
        node.port.onmessage = ({{ data }}) => got.push(...data);
        const buffer = context.createBuffer(1, signal.length, {rate});
        buffer.copyToChannel(signal, 0);
        const source = new AudioBufferSourceNode(context, {{ buffer }});
        source.connect(node).connect(context.destination);
        source.start();
        await context.startRendering();
        const end = {len(signal) // 256 * 256 / 16000};
        for (let i = 0; i < 100 && (got.at(-1)?.time ?? 0) < end; i += 1) {{
          await new Promise((done) => setTimeout(done, 20));
        }}
        return got.filter((estimate) => estimate.time <= end).at(-1);
    }}""")
    expected = plain_c(bundle, signal)
    allowed = 1e-4 if rate == 16000 else 5e-3
    np.testing.assert_allclose(last["overall"], expected, rtol=0, atol=allowed)
    assert complaints == []
