// Runs a stream on the audio thread; sends estimates.
import { mono } from "./audio.js";
import { Stream } from "./stream.js";

registerProcessor(
  "wav2small",
  class extends AudioWorkletProcessor {
    constructor({ processorOptions: { wasm, ...options } }) {
      super();
      this.stream = new Stream(wasm, { ...options, rate: sampleRate });
      this.port.onmessage = () => this.stream.reset();
    }

    process([channels]) {
      if (channels.length > 0) {
        const estimates = this.stream.push(mono(channels));
        if (estimates.length > 0) this.port.postMessage(estimates);
      }
      return true;
    }
  },
);
