// Sounds: recorded as WAV (browsers' own recorders give WebM, which the server does not decode), drawn, played.

const LONGEST_S = 60; // of a recording
const MOST_DRAWN_BYTES = 32 << 20; // larger files are sent, but not decoded here

/** Record the microphone. `onHeard(seconds, peak)` is called while it goes on.
 *  @returns {Promise<{stop: () => Promise<File>, ended: Promise<void>}>} `ended` settles when the time is up. */
export async function startRecording(onHeard) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const context = new AudioContext();
  const chunks = [];
  let samples = 0;
  let timeIsUp;
  const ended = new Promise((resolve) => (timeIsUp = resolve));
  const close = async () => {
    stream.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") await context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
  } catch (error) {
    await close();
    throw error;
  }
  const node = new AudioWorkletNode(context, "recorder");
  node.port.onmessage = ({ data }) => {
    if (samples >= LONGEST_S * context.sampleRate) return timeIsUp();
    chunks.push(data);
    samples += data.length;
    onHeard(samples / context.sampleRate, peak(data, 0, data.length));
  };
  context.createMediaStreamSource(stream).connect(node);
  const stop = async () => {
    node.port.onmessage = null; // what is still on its way comes too late
    await close();
    return new File([wav(chunks, samples, context.sampleRate)], "recording.wav", { type: "audio/wav" });
  };
  return { stop, ended };
}

/** Mono 16-bit PCM in a RIFF header of 44 bytes. */
function wav(chunks, samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples));
  const ascii = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  ascii(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples, true);
  ascii(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of what follows up to "data"
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  ascii(36, "data");
  view.setUint32(40, 2 * samples, true);
  let at = 44;
  for (const chunk of chunks) {
    for (const value of chunk) {
      view.setInt16(at, Math.round(32767 * Math.max(-1, Math.min(1, value))), true);
      at += 2;
    }
  }
  return view;
}

/** Decode a file for the eye and the ear; null where this browser cannot, or should not. */
export async function decode(file) {
  if (file.size > MOST_DRAWN_BYTES) return null;
  try {
    return await new OfflineAudioContext(1, 1, 44100).decodeAudioData(await file.arrayBuffer());
  } catch {
    return null;
  }
}

/** Play a decoded sound. @returns {() => void} stops it; `onEnd` is called either way. */
export function play(buffer, onEnd) {
  const context = new AudioContext();
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  source.onended = () => {
    context.close();
    onEnd();
  };
  source.start();
  return () => source.stop();
}

/** Peaks of a decoded sound, one for each of `count` slices. */
export function peaksOf(buffer, count) {
  const wave = buffer.getChannelData(0);
  const step = wave.length / count;
  return Array.from({ length: count }, (_, i) => peak(wave, Math.floor(i * step), Math.floor((i + 1) * step)));
}

/** Draw peaks as bars in the canvas's own colour. */
export function draw(canvas, peaks) {
  const scale = devicePixelRatio;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = getComputedStyle(canvas).color;
  const step = width / peaks.length;
  const loudest = Math.max(...peaks, 0.05);
  peaks.forEach((value, i) => {
    const tall = Math.max(2, (value / loudest) * height);
    pen.fillRect(i * step, (height - tall) / 2, Math.max(1, step - 1.5), tall);
  });
}

function peak(wave, from, to) {
  let most = 0;
  for (let i = from; i < to; i++) most = Math.max(most, Math.abs(wave[i]));
  return most;
}
