// Arousal, dominance and valence of what this browser hears, computed in this browser.
"use strict";
(() => {
  const RATE = 16000; // Hz, of every student
  const WINDOW_S = 4; // seconds of the microphone behind each estimate
  const STEP_MS = 500; // from one estimate to the next
  const MIN_S = 0.5; // least audio for a first estimate
  const NAMES = ["arousal", "dominance", "valence"];
  const element = (id) => document.getElementById(id);
  const microphone = element("live-microphone");
  const file = element("live-file");
  const say = (text) => { element("live-status").textContent = text; };

  // What was heard and answered last, for tests and the curious.
  const live = { ready: false, signal: null, logits: null, estimates: 0, milliseconds: 0 };
  window.wav2small = live;

  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  async function open() {
    const assets = window.wav2smallAssets;
    ort.env.wasm.numThreads = 1; // threads need a server with special headers
    ort.env.wasm.wasmBinary = bytes(assets.wasm).buffer;
    const glue = new Blob([bytes(assets.glue)], { type: "text/javascript" });
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
    return ort.InferenceSession.create(bytes(assets.model), {
      executionProviders: ["wasm"],
      logSeverityLevel: 3,
    });
  }

  async function estimate(session, signal) {
    const start = performance.now();
    const feed = { signal: new ort.Tensor("float32", signal, [1, signal.length]) };
    const logits = Array.from((await session.run(feed, ["logits"])).logits.data);
    live.milliseconds = performance.now() - start;
    live.signal = signal;
    live.logits = logits;
    live.estimates += 1;
    NAMES.forEach((name, place) => {
      const value = Math.min(1, Math.max(0, logits[place]));
      const bar = element(`live-${name}`);
      bar.setAttribute("aria-valuenow", value.toFixed(2));
      bar.firstElementChild.style.width = `${100 * value}%`;
      element(`live-${name}-value`).textContent = logits[place].toFixed(2);
    });
    return logits;
  }

  // One channel at 16 kHz: an audio context of that rate resamples whatever comes in.
  async function decode(data) {
    const context = new OfflineAudioContext(1, 1, RATE);
    const audio = await context.decodeAudioData(data);
    const signal = new Float32Array(audio.length);
    for (let channel = 0; channel < audio.numberOfChannels; channel += 1) {
      const samples = audio.getChannelData(channel);
      for (let i = 0; i < signal.length; i += 1) signal[i] += samples[i] / audio.numberOfChannels;
    }
    return signal;
  }

  async function openFile(session) {
    const chosen = file.files[0];
    if (!chosen) return;
    try {
      const signal = await decode(await chosen.arrayBuffer());
      if (signal.length < 0.1 * RATE) throw new Error("less than 0.1 s of audio");
      await estimate(session, signal);
      say(`${chosen.name}: ${(signal.length / RATE).toFixed(1)} s, heard in ${live.milliseconds.toFixed(0)} ms.`);
    } catch (error) {
      say(`${chosen.name} cannot be used: ${error.message}`);
    }
  }

  const WORKLET = `registerProcessor("wav2small-tap", class extends AudioWorkletProcessor {
    process(inputs) {
      if (inputs[0].length) {
        const channels = inputs[0];
        const mixed = new Float32Array(channels[0].length);
        for (const samples of channels)
          for (let i = 0; i < mixed.length; i += 1) mixed[i] += samples[i] / channels.length;
        this.port.postMessage(mixed, [mixed.buffer]);
      }
      return true;
    }
  });`;

  async function listen(session) {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    const context = new AudioContext({ sampleRate: RATE });
    // A data URL: pages opened from a disk may not load worklets from blobs.
    await context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(WORKLET)}`);
    const tap = new AudioWorkletNode(context, "wav2small-tap", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(tap);
    const ring = new Float32Array(WINDOW_S * RATE);
    let heard = 0;
    tap.port.onmessage = ({ data }) => {
      ring.copyWithin(0, data.length);
      ring.set(data, ring.length - data.length);
      heard += data.length;
    };
    let busy = false;
    const timer = setInterval(async () => {
      const length = Math.min(heard, ring.length);
      if (busy || length < MIN_S * RATE) return;
      const signal = ring.slice(ring.length - length);
      if (!signal.some((sample) => sample !== 0)) {
        say("Only silence so far.");
        return;
      }
      busy = true;
      await estimate(session, signal);
      say(`Listening to the last ${(length / RATE).toFixed(1)} s; each estimate takes ${live.milliseconds.toFixed(0)} ms.`);
      busy = false;
    }, STEP_MS);
    return () => {
      clearInterval(timer);
      stream.getTracks().forEach((track) => track.stop());
      context.close();
    };
  }

  async function main() {
    let session;
    try {
      session = await open();
    } catch (error) {
      say(`The model cannot run in this browser: ${error.message}`);
      return;
    }
    let stop = null;
    microphone.addEventListener("click", async () => {
      if (stop) {
        stop();
        stop = null;
        say("The microphone is off.");
      } else {
        try {
          say("Asking for the microphone ...");
          stop = await listen(session);
          say("Listening ...");
        } catch (error) {
          say(`No microphone: ${error.message}`);
        }
      }
      microphone.textContent = stop ? "Stop microphone" : "Start microphone";
      microphone.setAttribute("aria-pressed", String(Boolean(stop)));
    });
    file.addEventListener("change", () => openFile(session));
    microphone.disabled = false;
    file.disabled = false;
    live.ready = true;
    say("Ready.");
  }

  main();
})();
