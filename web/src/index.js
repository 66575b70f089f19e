// Arousal, dominance and valence of speech in the browser. See index.d.ts.
import { RATE, Resampler, mono, signal16k } from "./audio.js";
import { Stream } from "./stream.js";

export { RATE, Resampler, Stream };

const SHORTEST_S = 0.1;
const MODEL = new URL("../model/model.onnx", import.meta.url);
const NANO = new URL("../model/nano.wasm", import.meta.url);

async function bytesOf(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source;
  const answer = await fetch(source);
  if (!answer.ok) throw new Error(`${source}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

export class Model {
  constructor(session, ort) {
    this.session = session;
    this.ort = ort;
  }

  async predict(samples, rate = RATE) {
    const signal = signal16k(samples, rate);
    if (signal.length < SHORTEST_S * RATE) throw new RangeError(`less than ${SHORTEST_S} s`);
    if (!signal.some((sample) => sample !== 0)) throw new RangeError("digital silence");
    const feed = { signal: new this.ort.Tensor("float32", signal, [1, signal.length]) };
    const { logits } = await this.session.run(feed, ["logits"]);
    const [arousal, dominance, valence] = logits.data;
    return { arousal, dominance, valence };
  }

  release() {
    return this.session.release();
  }
}

export async function load(source = MODEL, { ort, threads = 1 } = {}) {
  const runtime = ort ?? (await import("onnxruntime-web"));
  runtime.env.wasm.numThreads = threads; // more need a page that is cross-origin isolated
  const bytes = new Uint8Array(await bytesOf(source));
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  return new Model(await runtime.InferenceSession.create(bytes, options), runtime);
}

export async function loadStream(source = NANO, options = {}) {
  return new Stream(await WebAssembly.compile(await bytesOf(source)), options);
}

export async function decode(data) {
  const context = new OfflineAudioContext(1, 1, RATE); // resamples to its own rate
  const audio = await context.decodeAudioData(data);
  return mono(Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i)));
}

export async function listen(onEstimates, { source, wasm = NANO, gate = true, every = 1 } = {}) {
  if (typeof AudioWorkletNode === "undefined") {
    throw new Error("this browser has no AudioWorklet (or the page is not served by https)");
  }
  const bytes = await bytesOf(wasm);
  const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const media = source ?? (await navigator.mediaDevices.getUserMedia({ audio: raw }));
  const context = new AudioContext(); // at the rate that the browser chooses
  try {
    await context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
    const node = new AudioWorkletNode(context, "wav2small", {
      numberOfOutputs: 0,
      processorOptions: { wasm: bytes, gate, every },
    });
    node.port.onmessage = ({ data }) => onEstimates(data);
    context.createMediaStreamSource(media).connect(node);
    await context.resume();
    return {
      rate: context.sampleRate,
      reset: () => node.port.postMessage("reset"),
      stop: async () => {
        if (!source) media.getTracks().forEach((track) => track.stop());
        await context.close();
      },
    };
  } catch (error) {
    if (!source) media.getTracks().forEach((track) => track.stop());
    await context.close();
    throw error;
  }
}
