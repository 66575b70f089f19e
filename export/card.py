"""README.md of a bundle: the model card. All figures come from the export itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wav2small.dimensions import DIMENSIONS
from wav2small.provenance import UNKNOWN, licence_line
from wav2small.provenance import licences as licences_of

from . import licences

PRECISION = {
    "fp32": "32-bit float weights",
    "int8": "8-bit weights, float arithmetic",
    "int4": "convolutions 8-bit, large matrices 4-bit, float arithmetic",
    "int8-static": "8-bit weights and activations; the front end stays in float",
}


def card(
    record: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    categories: Sequence[str] = (),
    dimensions: bool = True,
    streaming: bool = False,
    c: str | None = None,
) -> str:
    """The text of the card.

    Args:
        record: of the verification, with `student`, `precision`, `bytes`, `parameters`,
            `macs_per_second` and `embedding`
        provenance: of the bundle
        categories: names of the second head
        dimensions: the first head is there
        streaming: the bundle also holds `streaming.onnx`
        c: likewise `c/` with this .h and .c
    """
    head = [front_matter(provenance), _head(record, provenance, categories, dimensions)]
    usage = _usage(categories, record["precision"]) if dimensions else CATEGORIES_USAGE
    parts = [*head, usage, *_embedded(streaming, c), _figures(record), LIMITS, _lineage(provenance)]
    return "\n".join(parts)


#: Licences that the hub knows, by its names for them.
_HUB_LICENCES = (
    "apache-2.0 bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 "
    "cc-by-sa-4.0 cc0-1.0 gpl-3.0 mit odbl"
).split()


_HUB_TAGS = """\
library_name: wav2small
pipeline_tag: audio-classification
tags: [speech-emotion-recognition, arousal, dominance, valence]"""


def front_matter(provenance: Mapping[str, Any]) -> str:
    """The YAML that the hub reads at the head of a card.

    The licence is the one that forbids most: the only one, that which forbids commercial use, or
    "other" where more than one does or one is unknown.

    Example:
        >>> print(front_matter({"teachers": [{"licence": "CC-BY-NC-4.0"}]}))
        ---
        license: cc-by-nc-4.0
        library_name: wav2small
        pipeline_tag: audio-classification
        tags: [speech-emotion-recognition, arousal, dominance, valence]
        ---
    """
    found = licences_of(provenance) if provenance.get("teachers") else [UNKNOWN]
    binding = [name for name in found if not licences.allows_commercial(name)] or [
        name for name in found if name not in ("MIT", "CC0-1.0")
    ]
    name = binding[0].lower() if len(binding) == 1 else ("other" if binding else "mit")
    lines = [f"license: {name}" if name in _HUB_LICENCES else "license: other"]
    if lines[0].endswith("other"):
        lines.append("license_name: see-provenance-json")
    return "\n".join(["---", *lines, _HUB_TAGS, "---"])


def _speech(record: Mapping[str, Any]) -> str:
    """Rows about the outputs of a head for voice activity."""
    if not record.get("voice"):
        return ""
    return """
| output `speech` | float32 [1, 1]: share of frames that hold speech |
| output `speech_logits` | float32 [1, 3]: as `logits`, of these frames alone; NaN without any |"""


def _head(
    record: Mapping[str, Any],
    provenance: Mapping[str, Any],
    categories: Sequence[str],
    dimensions: bool,
) -> str:
    teachers = [entry.get("name", UNKNOWN) for entry in provenance.get("teachers", ())]
    what, logits = f"Estimates the emotion of speech: {', '.join(categories)}", ""
    if dimensions:
        what = (
            "Estimates how speech sounds: **arousal** (calm to excited), **dominance** (weak to "
            "strong) and\n**valence** (negative to positive)"
        )
        logits = (
            "| output `logits` | float32 [1, 3]: arousal, dominance, valence; about 0..1, not "
            "clipped |\n"
        )
    second = (
        f"\n| output `categories` | float32 [1, {len(categories)}]: "
        f"logits of {', '.join(categories)} |"
        if categories
        else ""
    ) + _speech(record)
    return f"""\
# {record["student"]}, {record["precision"]}

{what}. Distilled from {", ".join(teachers) or UNKNOWN} with
[wav2small](https://arxiv.org/abs/2408.13920).

| | |
|---|---|
| `model.onnx` | {record["bytes"]:,} bytes ({PRECISION[record["precision"]]}) |
| parameters | {record["parameters"]:,} |
| multiply-accumulates | {record["macs_per_second"] / 1e6:,.1f} million per second of audio |
| input `signal` | float32 [1, samples]: mono, 16,000 Hz, -1..1, at least 1,600 samples (0.1 s) |
{logits}| output `hidden_states` | float32 [1, {record["embedding"]}]: pooled embedding |{second}

{_level(record)}Other sampling rates must be converted to 16,000 Hz first. Latency and memory
depend on your machine: `wav2small benchmark .` measures them.
"""


def _level(record: Mapping[str, Any]) -> str:
    """What was measured of quieter recordings."""
    changes = record.get("level")
    if not changes:
        return ""
    figures = ", ".join(f"{change:.2g} at {quieter} dB" for quieter, change in changes.items())
    return f"Recording level: clips made quieter move an output by at most {figures}.\n"


def _embedded(streaming: bool, c: str | None) -> list[str]:
    rows = []
    if streaming:
        rows.append(
            "| `streaming.onnx` | blocks in, the past as explicit state: `wav2small.Stream`, or "
            "`wav2small predict . --follow -` |"
        )
    if c:
        rows += [
            "| `c/wav2small.h` | C library over ONNX Runtime, with two programs: `make c` |",
            f"| `c/{c}.h`, `.c` | plain C99 for a microcontroller: no heap, no runtime |",
        ]
    if not rows:
        return []
    table = "\n".join(["| | |", "|---|---|", *rows])
    return [f"## In a stream, in C\n\n{table}\n\nSee wav2small's `docs/embedding.md`.\n"]


CATEGORIES_USAGE = """\
## Use

Python, without torch (`pip install wav2small`), the signal 16 kHz mono:

```python
from wav2small import Predictor

predictor = Predictor("path/to/this/folder")
_, probabilities = predictor.predict_categories(signal)
print(dict(zip(predictor.categories, probabilities)))
```

Command line: `wav2small predict path/to/this/folder recordings/ -o emotions.csv`
"""


def _usage(categories: Sequence[str], precision: str) -> str:
    outputs = "logits, embedding" + (", categories" if categories else "")
    names = '"logits", "hidden_states"' + (', "categories"' if categories else "")
    strict = (
        "" if precision != "int8-static" else "  # needed here: no silent saturation on old x86"
    )
    return f"""\
## Use

Python, without torch (`pip install wav2small`):

```python
from wav2small import Predictor

predictor = Predictor("path/to/this/folder")
arousal, dominance, valence = predictor.predict_file("speech.wav")
```

Plain ONNX Runtime (1.20 or newer):

```python
import onnxruntime, soundfile

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.x64quantprecision", "1"){strict}
session = onnxruntime.InferenceSession("model.onnx", options)
signal, sampling_rate = soundfile.read("speech.wav", dtype="float32")  # 16 kHz, mono
{outputs} = session.run([{names}], {{"signal": signal[None]}})
```

audonnx:

```python
import audonnx

model = audonnx.load("path/to/this/folder")
model(signal, 16000, outputs="logits")
```

Command line: `wav2small predict path/to/this/folder recordings/ -o emotions.csv`

C, C++ (ONNX Runtime's C interface; wav2small's own C library wraps it, see its
`docs/embedding.md`):

```c
const char *inputs[] = {{"signal"}}, *outputs[] = {{"logits"}};
int64_t shape[] = {{1, samples}};
ort->CreateTensorWithDataAsOrtValue(memory, signal, samples * sizeof(float), shape, 2,
                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input);
ort->Run(session, NULL, inputs, (const OrtValue *const *)&input, 1, outputs, 1, &output);
```

Browser (`npm install onnxruntime-web`):

```js
const session = await ort.InferenceSession.create("model.onnx");
const signal = new ort.Tensor("float32", samples, [1, samples.length]); // Float32Array, 16 kHz
const {{ logits }} = await session.run({{ signal }}); // arousal, dominance, valence
```
"""


def _figures(record: Mapping[str, Any]) -> str:
    lines = ["## Figures", ""]
    for key, name in (("streaming", "`streaming.onnx`"), ("plain_c", "The plain C")):
        if compared := record.get(key):
            lines += [
                f"{name} gives the outputs of `model.onnx` on {compared['count']} signals, largest "
                f"difference {compared['max_difference']:.2g}.",
                "",
            ]
    if clips := record.get("clips"):
        lines += [
            f"Same audio through torch and through `model.onnx` ({clips['count']} clips, "
            f"{clips['seconds']:,} s, {clips['source']}), ONNX Runtime with "
            "`session.x64quantprecision` = 1:",
            "",
            "| difference of outputs | largest | mean |",
            "|---|---|---|",
            f"| real clips | {clips['max_difference']:.2g} | {clips['mean_difference']:.2g} |",
            f"| {', '.join(row['name'] for row in record['signals'])} | "
            f"{max(row['difference'] for row in record['signals']):.2g} | |",
            "",
        ]
    if ccc := record.get("ccc"):
        lines += [
            "Agreement with the teacher (CCC, 95 % interval over clips) on the same clips:",
            "",
            f"| | student in torch | this file ({record['precision']}) | drop |",
            "|---|---|---|---|",
            *(
                f"| {dimension} | {_interval(ccc['before'][dimension])} | "
                f"{_interval(ccc['after'][dimension])} | {_figure(ccc['drop'][dimension], 4)} |"
                for dimension in DIMENSIONS
            ),
            "",
            "`drop` is the CCC in torch minus that of this file: above 0 the export loses "
            "agreement, below 0 rounding gains some by chance.",
            "",
            "This is agreement with the teacher, not with people; `wav2small evaluate` measures "
            "either against a table of labels.",
            "",
        ]
    else:
        lines += ["The teacher's labels of these clips were not at hand: no CCC.", ""]
    lines.append("`wav2small verify .` checks the files and repeats the verification.")
    return "\n".join([*lines, ""])


LIMITS = """\
## Limits

- It estimates how speech sounds, not what a person feels. Do not decide about people with it.
- The scale is the teacher's. Compare values of the same speaker and microphone rather than reading
  one value as absolute.
- Silence, music and noise get numbers too: find speech first (`predict --speech-only` and streams
  do, where the model has an output `speech`).
- Other languages, ages and recording conditions than those it learned from are untested until you
  test them: `wav2small audit . YOUR_RECORDINGS/`.
"""


def _lineage(provenance: Mapping[str, Any]) -> str:
    forbidding = licences.forbidding(provenance)
    rows = [
        ("teacher", entry.get("name"), entry.get("id"), entry.get("revision"), entry.get("licence"))
        for entry in provenance.get("teachers", ())
    ]
    rows += [
        ("audio", entry.get("source"), "", "", entry.get("licence"))
        for entry in provenance.get("audio", ())
    ]
    code = provenance.get("code", {})
    rows.append(("code", code.get("name"), "", "", code.get("licence")))
    table = "\n".join(
        f"| {kind} | {name or UNKNOWN} | {id_ or ''} | {revision or ''} | {licence or UNKNOWN} |"
        for kind, name, id_, revision, licence in rows
    )
    verdict = (
        "Commercial use is **not** allowed, or not known to be, by: " + "; ".join(forbidding)
        if forbidding
        else "Every part of the lineage allows commercial use under its licence's terms."
    )
    return f"""\
## Lineage and licences

| | name | id | revision | licence |
|---|---|---|---|---|
{table}

{verdict}.

Licence line: {licence_line(provenance)}
""".replace("..\n", ".\n")


def _interval(value: Mapping[str, float | None]) -> str:
    return f"{_figure(value['value'], 3)} [{_figure(value['low'], 3)}, {_figure(value['high'], 3)}]"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
