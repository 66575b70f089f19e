import { RATE, decode, listen, load } from "../src/index.js";

const NAMES = ["arousal", "dominance", "valence"];
const EVERY = 6; // hops: about ten estimates a second
const element = (id) => document.getElementById(id);
const show = (text) => {
  element("status").textContent = text;
};
const state = { ready: false, values: null, estimates: 0, rate: null }; // for tests
window.wav2small = state;

for (const name of NAMES) {
  const row = document.createElement("div");
  row.className = "row";
  row.innerHTML = `<span>${name}</span><div class="bar" id="${name}" role="meter" aria-label="${name}"
    aria-valuemin="0" aria-valuemax="1"><div></div></div><output id="${name}-value"></output>`;
  element("bars").append(row);
}

function draw(values) {
  state.values = values;
  state.estimates += 1;
  for (const name of NAMES) {
    const value = Math.min(1, Math.max(0, values[name]));
    element(name).setAttribute("aria-valuenow", value.toFixed(2));
    element(name).firstElementChild.style.width = `${100 * value}%`;
    element(`${name}-value`).textContent = values[name].toFixed(2);
  }
}

/** Keep all that the page has fetched, and what the microphone needs, for when there is no network. */
async function keep() {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register("offline.js");
  await navigator.serviceWorker.ready;
  const fetched = performance.getEntriesByType("resource").map(({ name }) => name);
  const urls = [location.href, ...fetched.filter((url) => url.startsWith(location.origin))];
  const cache = await caches.open("wav2small");
  await cache.addAll([...new Set(urls), "../src/worklet.js", "../model/nano.wasm"]);
}

let listening = null;

async function toggle() {
  const button = element("microphone");
  try {
    if (listening) {
      await listening.stop();
      listening = null;
      show("The microphone is off.");
    } else {
      show("Asking for the microphone ...");
      listening = await listen((estimates) => draw(estimates.at(-1)), { every: EVERY });
      state.rate = listening.rate;
      show(`Listening (${listening.rate} Hz).`);
    }
  } catch (error) {
    show(`No microphone: ${error.message}`);
  }
  button.textContent = listening ? "Stop microphone" : "Start microphone";
  button.setAttribute("aria-pressed", String(Boolean(listening)));
}

try {
  const model = await load();
  await keep().catch((error) => console.info(`It needs the network: ${error.message}`));
  element("microphone").addEventListener("click", toggle);
  element("file").addEventListener("change", async ({ target }) => {
    const file = target.files[0];
    if (!file) return;
    try {
      const signal = await decode(await file.arrayBuffer());
      draw(await model.predict(signal));
      show(`${file.name}: ${(signal.length / RATE).toFixed(1)} s.`);
    } catch (error) {
      show(`${file.name} cannot be used: ${error.message}`);
    }
  });
  element("microphone").disabled = false;
  element("file").disabled = false;
  state.ready = true;
  show("Ready.");
} catch (error) {
  show(`The model cannot run in this browser: ${error.message}`);
}
