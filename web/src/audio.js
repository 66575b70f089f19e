// Sampling rates and channels.

export const RATE = 16000; // Hz, of every model
const ZEROS = 64; // zero crossings of the filter on each side, at the lower of both rates
const BETA = 9.6; // of Kaiser's window: the stop band lies about 97 dB below
const PASS = 0.95; // of the lower rate's half: where the transition is centred
const MOST_KEPT = 1000; // filters; of odd rates they are made each time

/** Modified Bessel function of the first kind, order 0. */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-17 * sum; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function greatestDivisor(a, b) {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

/** From any rate to 16 kHz, block by block, exactly: output n is the input at time n / 16000. */
export class Resampler {
  constructor(rate) {
    if (!(Number.isInteger(rate) && rate >= 4000 && rate <= 768000)) {
      throw new RangeError(`a sampling rate of ${rate} Hz: an integer from 4000 to 768000`);
    }
    const common = greatestDivisor(rate, RATE);
    this.up = RATE / common;
    this.down = rate / common;
    const cutoff = PASS * Math.min(1, RATE / rate); // 1 = half the input's rate
    this.half = Math.ceil(ZEROS / Math.min(1, RATE / rate));
    this.cutoff = cutoff;
    this.phases = new Map();
    this.reset();
  }

  /** The filter for an output `phase` / `up` samples behind an input. */
  taps(phase) {
    const known = this.phases.get(phase);
    if (known) return known;
    const taps = new Float64Array(2 * this.half);
    let sum = 0;
    for (let i = 0; i < taps.length; i += 1) {
      const t = i - this.half + 1 - phase / this.up; // samples from the output's place
      const x = Math.PI * this.cutoff * t;
      const edge = Math.min(1, Math.abs(t) / this.half);
      taps[i] = (x === 0 ? 1 : Math.sin(x) / x) * bessel(BETA * Math.sqrt(1 - edge * edge));
      sum += taps[i];
    }
    for (let i = 0; i < taps.length; i += 1) taps[i] /= sum;
    if (this.up <= MOST_KEPT) this.phases.set(phase, taps);
    return taps;
  }

  reset() {
    this.kept = new Float64Array(this.half - 1); // zeros before the first sample
    this.place = 0; // of the next output in `kept`, in samples ...
    this.phase = 0; // ... and this many of `up`
  }

  /** Samples of 16 kHz that are complete; `last` = nothing follows. */
  push(block, last = false) {
    if (this.up === 1 && this.down === 1) return Float32Array.from(block);
    const tail = last ? this.half : 0;
    const input = new Float64Array(this.kept.length + block.length + tail);
    input.set(this.kept);
    input.set(block, this.kept.length);
    const output = [];
    while (this.place + 2 * this.half <= input.length) {
      const taps = this.taps(this.phase);
      let sum = 0;
      for (let i = 0; i < taps.length; i += 1) sum += taps[i] * input[this.place + i];
      output.push(sum);
      this.phase += this.down;
      this.place += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    const used = Math.min(this.place, input.length);
    this.kept = input.slice(used);
    this.place -= used;
    return Float32Array.from(output);
  }
}

/** The mean of channels of equal length. */
export function mono(channels) {
  if (channels.length === 1) return channels[0];
  const mixed = new Float32Array(channels[0]?.length ?? 0);
  for (const channel of channels) {
    for (let i = 0; i < mixed.length; i += 1) mixed[i] += channel[i] / channels.length;
  }
  return mixed;
}

/** A signal as 16 kHz float32; rejects what is none. */
export function signal16k(samples, rate) {
  if (!(samples instanceof Float32Array)) throw new TypeError("samples: a Float32Array, -1..1");
  if (!samples.every(Number.isFinite)) throw new RangeError("samples: NaN or infinite");
  return rate === RATE ? samples : new Resampler(rate).push(samples, true);
}
