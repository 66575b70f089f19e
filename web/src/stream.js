// A stream through the plain C of nano, as WebAssembly. Works on a page, in a worker, in a worklet.
import { RATE, Resampler } from "./audio.js";

const OK = 0;
const GATES = new Map([[false, 0], [true, 1], ["energy", 2]]);
const MESSAGES = { "-3": "samples: NaN or infinite", "-4": "an argument out of its range" };

function check(status) {
  if (status < OK) throw new RangeError(MESSAGES[status] ?? `the engine answers ${status}`);
  return status;
}

export class Stream {
  /** @param {BufferSource | WebAssembly.Module} wasm see index.d.ts */
  constructor(wasm, { rate = RATE, gate = true, every = 1 } = {}) {
    if (!(Number.isInteger(every) && every > 0)) throw new RangeError(`every: ${every} hops`);
    if (!GATES.has(gate)) throw new RangeError(`gate: ${gate}: true, "energy" or false`);
    const module = wasm instanceof WebAssembly.Module ? wasm : new WebAssembly.Module(wasm);
    this.engine = new WebAssembly.Instance(module).exports;
    this.resampler = new Resampler(rate);
    this.gate = gate;
    this.every = every;
    this.hop = this.engine.hop();
    this.reset();
  }

  reset() {
    check(this.engine.reset(GATES.get(this.gate)));
    this.resampler.reset();
    this.filled = 0; // samples in the hop that fills
    this.hops = 0;
  }

  /** Weight of what comes, 0..1, from a voice activity detector. */
  setVoice(probability) {
    if (!(probability >= 0 && probability <= 1)) throw new RangeError(`voice: ${probability}`);
    check(this.engine.voice(probability));
  }

  push(samples) {
    if (!(samples instanceof Float32Array)) throw new TypeError("samples: a Float32Array, -1..1");
    if (!samples.every(Number.isFinite)) throw new RangeError("samples: NaN or infinite");
    const block = this.resampler.push(samples);
    const { memory } = this.engine;
    const estimates = [];
    for (let at = 0; at < block.length; ) {
      const n = Math.min(block.length - at, this.hop - this.filled, this.engine.capacity());
      const room = new Float32Array(memory.buffer, this.engine.block(), n);
      room.set(block.subarray(at, at + n));
      check(this.engine.push(n));
      at += n;
      this.filled = (this.filled + n) % this.hop;
      if (this.filled === 0) {
        this.hops += 1;
        const estimate = this.hops % this.every === 0 ? this.read() : null;
        if (estimate) estimates.push(estimate);
      }
    }
    return estimates;
  }

  /** The estimate now, null before .25 s counted. */
  read() {
    if (check(this.engine.read(1)) !== OK) return null;
    const overall = Array.from(this.results().subarray(0, 3));
    if (check(this.engine.read(0)) !== OK) return null;
    const [arousal, dominance, valence, time, heard, speech] = this.results();
    const estimate = { arousal, dominance, valence, time, heard, overall };
    return speech < 0 ? estimate : { ...estimate, speech };
  }

  results() {
    return new Float64Array(this.engine.memory.buffer, this.engine.result(), 6);
  }
}
