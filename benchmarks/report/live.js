// Arousal, dominance and valence of a microphone or a recording, computed in this browser.
"use strict";
(() => {
  const RATE = 16000; // Hz, of every student
  const WINDOW_S = 4; // seconds of the microphone behind each estimate
  const STEP_MS = 500; // from one estimate to the next
  const MIN_S = { file: 0.1, microphone: 0.5 }; // least audio for an estimate
  const NAMES = ["arousal", "dominance", "valence"];
  const element = (id) => document.getElementById(id);
  const microphone = element("live-microphone");
  const file = element("live-file");
  const show = (text) => { element("live-status").textContent = text; };

  // The last input and output, for tests and the curious.
  const live = { ready: false, signal: null, logits: null, estimates: 0, milliseconds: 0 };
  window.wav2small = live;

  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const seconds = (signal) => (signal.length / RATE).toFixed(1);

  async function open() {
    const assets = window.wav2smallAssets;
    ort.env.wasm.numThreads = 1; // threads need a server with special headers
    ort.env.wasm.wasmBinary = bytes(assets.wasm).buffer;
    const glue = new Blob([bytes(assets.glue)], { type: "text/javascript" });
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    return ort.InferenceSession.create(bytes(assets.model), options);
  }

  async function estimate(session, signal) {
    const start = performance.now();
    const feed = { signal: new ort.Tensor("float32", signal, [1, signal.length]) };
    const logits = Array.from((await session.run(feed, ["logits"])).logits.data);
    const milliseconds = performance.now() - start;
    Object.assign(live, { signal, logits, milliseconds, estimates: live.estimates + 1 });
    NAMES.forEach((name, place) => {
      const value = Math.min(1, Math.max(0, logits[place]));
      const bar = element(`live-${name}`);
      bar.setAttribute("aria-valuenow", value.toFixed(2));
      bar.firstElementChild.style.width = `${100 * value}%`;
      element(`live-${name}-value`).textContent = logits[place].toFixed(2);
    });
    return `${milliseconds.toFixed(0)} ms`;
  }

  // Mean of the channels; the worklet below does the same.
  function mix(channels) {
    const mixed = new Float32Array(channels[0].length);
    for (const samples of channels)
      for (let i = 0; i < mixed.length; i += 1) mixed[i] += samples[i] / channels.length;
    return mixed;
  }

  async function openFile(session) {
    const chosen = file.files[0];
    if (!chosen) return;
    try {
      // An audio context of 16 kHz resamples whatever comes in.
      const context = new OfflineAudioContext(1, 1, RATE);
      const audio = await context.decodeAudioData(await chosen.arrayBuffer());
      const signal = mix([...Array(audio.numberOfChannels).keys()].map((i) => audio.getChannelData(i)));
      if (signal.length < MIN_S.file * RATE) throw new Error(`less than ${MIN_S.file} s of audio`);
      show(`${chosen.name}: ${seconds(signal)} s, estimated in ${await estimate(session, signal)}.`);
    } catch (error) {
      show(`${chosen.name} cannot be used: ${error.message}`);
    }
  }

  const WORKLET = `${mix}
    registerProcessor("wav2small-tap", class extends AudioWorkletProcessor {
      process([channels]) {
        if (channels.length) this.port.postMessage(mix(channels));
        return true;
      }
    });`;

  async function start(session) {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    const context = new AudioContext({ sampleRate: RATE });
    // A data URL: pages opened from a disk may not load worklets from blobs.
    await context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(WORKLET)}`);
    const tap = new AudioWorkletNode(context, "wav2small-tap", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(tap);
    const ring = new Float32Array(WINDOW_S * RATE);
    let received = 0;
    tap.port.onmessage = ({ data }) => {
      ring.copyWithin(0, data.length);
      ring.set(data, ring.length - data.length);
      received += data.length;
    };
    let busy = false;
    const timer = setInterval(async () => {
      const length = Math.min(received, ring.length);
      if (busy || length < MIN_S.microphone * RATE) return;
      const signal = ring.slice(ring.length - length);
      if (!signal.some((sample) => sample !== 0)) return show("Only silence so far.");
      busy = true;
      const time = await estimate(session, signal);
      show(`Estimate of the last ${seconds(signal)} s, computed in ${time}.`);
      busy = false;
    }, STEP_MS);
    return () => {
      clearInterval(timer);
      stream.getTracks().forEach((track) => track.stop());
      context.close();
    };
  }

  async function main() {
    const session = await open();
    let stop = null;
    microphone.addEventListener("click", async () => {
      if (stop) {
        stop();
        stop = null;
        show("The microphone is off.");
      } else {
        show("Asking for the microphone ...");
        try {
          stop = await start(session);
          show("The microphone is on.");
        } catch (error) {
          show(`No microphone: ${error.message}`);
        }
      }
      microphone.textContent = stop ? "Stop microphone" : "Start microphone";
      microphone.setAttribute("aria-pressed", String(Boolean(stop)));
    });
    file.addEventListener("change", () => openFile(session));
    microphone.disabled = file.disabled = false;
    live.ready = true;
    show("Ready.");
  }

  main().catch((error) => show(`The model cannot run in this browser: ${error.message}`));
})();
