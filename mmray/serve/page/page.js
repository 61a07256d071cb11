// The page: a record is put together in the form on the left, its prediction shown on the right.

import { $, NAMES, element, showAnswer } from "./answer.js";
import { Problem, hasToken, keepToken, model, predict, samples } from "./server.js";
import { decode, draw, peaksOf, play, startRecording } from "./sound.js";

const LABELS_NAMED = 40; // of those that the model knows
const BAR_PX = 4; // of a waveform

const form = $("record");
const files = { image: null, audio: null };
let peaks = () => []; // of the sound, for a number of bars: it is drawn anew when width or colours change

const part = (modality) => form.querySelector(`[data-modality=${modality}]`);
const within = (modality, selector) => part(modality).querySelector(selector);
const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// ── the record

async function put(modality, file) {
  files[modality] = file;
  const input = within(modality, "input");
  if (!file || input.files[0] !== file) input.value = "";
  within(modality, ".remove").hidden = !file;
  show(modality, file ? ".blank" : ".invite");
  note(modality, file ? `${file.name}, ${size(file.size)}` : "");
  if (modality === "audio") setSound(null);
  refresh();
  if (file) await (modality === "image" ? showImage(file) : showSound(file));
}

async function showImage(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { resizeWidth: 720, resizeQuality: "high" });
  } catch {
    return; // this browser cannot show it; the server may still read it
  }
  if (files.image !== file) return;
  const canvas = within("image", "canvas");
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  show("image", "canvas");
}

async function showSound(file) {
  const buffer = await decode(file);
  if (!buffer || files.audio !== file) return;
  note("audio", `${file.name}, ${buffer.duration.toFixed(1)} s, ${size(file.size)}`);
  setSound(buffer);
  peaks = (count) => peaksOf(buffer, count);
  show("audio", "canvas");
  drawWave();
}

/** Show one thing in the place where a file is dropped: "canvas", ".invite" or ".blank". */
function show(modality, what) {
  for (const one of ["canvas", ".invite", ".blank"]) within(modality, one).hidden = one !== what;
}

function drawWave() {
  const canvas = within("audio", "canvas");
  if (!canvas.hidden) draw(canvas, peaks(Math.floor(canvas.clientWidth / BAR_PX)));
}

function note(modality, text, bad = false) {
  const place = within(modality, ".note");
  place.textContent = text;
  place.classList.toggle("bad", bad);
  within(modality, "input, textarea").setAttribute("aria-invalid", String(bad));
}

function text() {
  return form.elements.text.value.trim();
}

function refresh() {
  within("text", ".remove").hidden = !form.elements.text.value;
  $("predict").disabled = !(files.image || files.audio || text());
  $("problem").hidden = true;
  $("result").classList.add("stale");
}

function collected() {
  const data = new FormData();
  for (const [modality, file] of Object.entries(files)) if (file) data.append(modality, file, file.name);
  if (text()) data.append("text", text());
  return data;
}

/** The record as a command for a shell; files by their names, since a page does not know where they lie. */
function curl() {
  const quoted = (words) => `'${words.replaceAll("'", "'\\''")}'`;
  const words = ["curl"];
  if (hasToken()) words.push('-H "Authorization: Bearer $TOKEN"');
  for (const [modality, file] of Object.entries(files)) {
    if (file) words.push(`-F ${quoted(`${modality}=@"${file.name.replace(/["\\]/g, "\\$&")}"`)}`);
  }
  if (text()) words.push(`--form-string ${quoted(`text=${text()}`)}`);
  return [...words, quoted(new URL("v1/predict", location.href).href)].join(" \\\n  ");
}

// ── playing and recording

let stopPlaying = null;
function setSound(buffer) {
  stopPlaying?.();
  const button = $("play");
  button.hidden = !buffer;
  button.onclick = () => {
    if (stopPlaying) return stopPlaying();
    button.textContent = "Stop";
    stopPlaying = play(buffer, () => {
      button.textContent = "Play";
      stopPlaying = null;
    });
  };
}

let recording = null;
let starting = false;
async function capture() {
  if (starting) return;
  const button = $("capture");
  const says = button.querySelector(".says");
  if (recording) {
    const current = recording;
    recording = null;
    button.classList.remove("on");
    says.textContent = "Record";
    await put("audio", await current.stop());
    return;
  }
  await put("audio", null);
  const heard = [];
  peaks = (count) => [...Array(count).fill(0), ...heard].slice(-count);
  starting = true;
  try {
    recording = await startRecording((seconds, loudness) => {
      note("audio", `${seconds.toFixed(1)} s`);
      heard.push(loudness);
    });
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    note("audio", refused ? "The browser may not use the microphone." : "No microphone was found.", true);
    return;
  } finally {
    starting = false;
  }
  button.classList.add("on");
  says.textContent = "Stop";
  show("audio", "canvas");
  const paint = () => {
    if (!recording) return;
    drawWave();
    requestAnimationFrame(paint);
  };
  paint();
  const current = recording;
  current.ended.then(() => recording === current && capture());
}

// ── the prediction

async function send() {
  if ($("predict").disabled) return;
  document.body.classList.add("busy");
  $("predict").textContent = "Predicting…";
  $("problem").hidden = true;
  for (const modality of Object.keys(NAMES)) within(modality, ".note.bad") && note(modality, "");
  try {
    const record = collected();
    showAnswer(await predict(record), [...record.keys()], curl());
  } catch (error) {
    if (error.status === 401) return askForToken(send);
    showProblem(error);
  } finally {
    document.body.classList.remove("busy");
    $("predict").textContent = "Predict";
  }
}

function showProblem(error) {
  if (!(error instanceof Problem)) throw error;
  $("problem").replaceChildren(element("b", "", error.message), element("span", "", error.detail));
  $("problem").hidden = false;
  const name = files[error.modality]?.name ?? "This";
  if (error.modality) note(error.modality, `${name} could not be used.`, true);
}

// ── the model, and the token that may be needed to see it

async function meet() {
  let known;
  try {
    known = await model();
  } catch (error) {
    if (error.status === 401) return askForToken(meet);
    return showProblem(error);
  }
  document.title = `${known.name}: mmray`;
  $("name").textContent = known.name;
  const takes = known.modalities.map((m) => NAMES[m].toLowerCase()).join(", ");
  $("model").textContent = `Takes ${takes}. Model variant ${known.variant}.`;
  $("model").title = `bundle ${known.digest}`;
  $("api").hidden = hasToken(); // a link cannot send the token
  for (const modality of Object.keys(NAMES)) part(modality).hidden = !known.modalities.includes(modality);
  const named = known.labels.slice(0, LABELS_NAMED);
  if (known.labels.length > named.length) named.push(`and ${known.labels.length - named.length} more`);
  $("labels").replaceChildren(...named.map((label) => element("li", "", label)));
  if (known.samples) await offerSamples();
}

async function offerSamples() {
  const buttons = (await samples()).map(({ key, record }) => {
    const inputs = Object.keys(NAMES).filter((modality) => record[modality]).map((m) => NAMES[m]);
    const button = element("button", "round", record.text || inputs.join(" and "));
    Object.assign(button, { type: "button", title: inputs.join(", "), onclick: () => tryOut(key, record) });
    return button;
  });
  $("samples").append(...buttons);
  $("samples").hidden = !buttons.length;
}

async function tryOut(key, record) {
  const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  form.elements.text.value = record.text ?? "";
  for (const modality of Object.keys(files)) {
    await put(modality, record[modality] ? new File([bytes(record[modality])], key) : null);
  }
  await send();
}

function askForToken(then) {
  $("token-note").textContent = hasToken() ? "That one was not right." : "";
  $("token").value = "";
  $("token-form").onsubmit = () => {
    keepToken($("token").value.trim());
    then();
  };
  if (!$("access").open) $("access").showModal();
}

// ── wiring

for (const modality of Object.keys(files)) {
  const drop = within(modality, ".drop");
  within(modality, "input").addEventListener("change", ({ target }) => {
    if (target.files[0]) put(modality, target.files[0]);
  });
  within(modality, ".remove").addEventListener("click", () => {
    put(modality, null);
    within(modality, "input").focus();
  });
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, () => drop.classList.add("over"));
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
}
within("text", ".remove").addEventListener("click", () => {
  form.elements.text.value = "";
  form.elements.text.focus();
  refresh();
});
form.elements.text.addEventListener("input", () => {
  note("text", "");
  refresh();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
});
$("capture").addEventListener("click", capture);
$("capture").hidden = !navigator.mediaDevices; // browsers give a microphone to localhost and https only

// A file may fall anywhere: its type says where it belongs, or else the part that it fell on.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const on = event.target.closest?.("[data-modality]")?.dataset.modality;
  for (const file of event.dataTransfer.files) take(file, on);
});
addEventListener("paste", ({ clipboardData }) => {
  for (const file of clipboardData.files) take(file);
});

function take(file, otherwise) {
  const kind = file.type.split("/")[0];
  const modality = kind in files ? kind : otherwise;
  if (modality in files) put(modality, file);
}

new ResizeObserver(drawWave).observe(within("audio", ".drop"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawWave);
refresh();
meet();
