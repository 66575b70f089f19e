"""A page with a model in it: arousal, dominance and valence in the browser, nothing uploaded.

    python build.py BUNDLE -o site/                       # fetches ONNX Runtime Web with npm
    python build.py BUNDLE -o site/ --onnxruntime-web node_modules/onnxruntime-web

Then open `site/index.html`, from the disk or from any web server. `index.html` is the page:
change it, but for the ids that start with `live-`. What it loads is in `site/index_live/`: the
runtime, the model, and `live.js`, which opens the microphone and files, runs the model and moves
the bars (`wav2small report --live` puts the same into a report).
"""

import argparse
import shutil
from pathlib import Path

from wav2small.benchmarks.report import live

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("bundle", type=Path, help="folder of `wav2small export`, or an .onnx file")
parser.add_argument("-o", "--output", type=Path, default=Path("site"), help="folder of the page")
parser.add_argument("--onnxruntime-web", metavar="FOLDER", help="the npm package, unpacked")
args = parser.parse_args()

args.output.mkdir(parents=True, exist_ok=True)
page = args.output / "index.html"
shown = live.write(page, args.bundle, live.package(args.onnxruntime_web))
shutil.copyfile(Path(__file__).with_name("index.html"), page)
print(f"{page}: {shown['name']}, {shown['kilobytes']} KB, ONNX Runtime Web {shown['version']}")
