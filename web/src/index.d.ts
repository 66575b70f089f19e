/** Arousal, dominance and valence of speech in the browser; 0..1 on the teacher's scale. */

import type * as Ort from "onnxruntime-web";

/** Hz, of every model. */
export declare const RATE: 16000;

export interface Values {
  arousal: number;
  dominance: number;
  valence: number;
}

export interface Estimate extends Values {
  /** Seconds of audio since the start. */
  time: number;
  /** Seconds of it that counted: silence does not. */
  heard: number;
  /** Arousal, dominance, valence over everything since the start. */
  overall: [number, number, number];
  /** Probability that the last hop holds speech, where the model tells. */
  speech?: number;
}

export type Source = string | URL | ArrayBuffer | ArrayBufferView;

/** A model in ONNX Runtime Web, for full clips. */
export declare class Model {
  /**
   * @param samples mono, -1..1, at least 0.1 s
   * @param rate in Hz; other rates than 16000 are resampled
   */
  predict(samples: Float32Array, rate?: number): Promise<Values>;
  release(): Promise<void>;
}

/**
 * Load `model.onnx` of a bundle; without a source, the one in the box.
 * `ort` is the onnxruntime-web to use, if it is not to be imported by that name.
 */
export declare function load(
  source?: Source,
  options?: { ort?: typeof Ort; threads?: number },
): Promise<Model>;

export interface StreamOptions {
  /** Of what is pushed, in Hz (16000). */
  rate?: number;
  /** What moves the estimate: speech where the model tells, else all but silence (true); "energy":
   * all but silence; false: everything. */
  gate?: boolean | "energy";
  /** Hops of 16 ms from one estimate to the next (1). */
  every?: number;
}

/** nano in plain C as WebAssembly: one stream, no other runtime; also for workers and worklets. */
export declare class Stream {
  constructor(wasm: BufferSource | WebAssembly.Module, options?: StreamOptions);
  /** Samples between estimates. */
  readonly hop: number;
  /** Take a block of any size; the estimates that it completed. */
  push(samples: Float32Array): Estimate[];
  /** The estimate now, null before 0.25 s counted. */
  read(): Estimate | null;
  /** Weight of what comes, 0..1, from a voice activity detector. */
  setVoice(probability: number): void;
  /** Forget all audio. */
  reset(): void;
}

/** A `Stream` of `nano.wasm`; without a source, the one in the box. */
export declare function loadStream(source?: Source, options?: StreamOptions): Promise<Stream>;

export interface Listening {
  /** Hz, as the browser chose it. */
  rate: number;
  reset(): void;
  stop(): Promise<void>;
}

/**
 * Estimates from the microphone, computed on the audio thread (AudioWorklet).
 * Rejects with an error that names the reason: no AudioWorklet, no permission, no device.
 */
export declare function listen(
  onEstimates: (estimates: Estimate[]) => void,
  options?: { source?: MediaStream; wasm?: Source; gate?: boolean | "energy"; every?: number },
): Promise<Listening>;

/** Decode an audio file to mono of 16 kHz. */
export declare function decode(data: ArrayBuffer): Promise<Float32Array>;

/** From any rate to 16 kHz, block by block. */
export declare class Resampler {
  constructor(rate: number);
  /** `last`: nothing follows, give the rest. */
  push(block: Float32Array, last?: boolean): Float32Array;
  reset(): void;
}
