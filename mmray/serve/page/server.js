// The server as this page sees it: three requests, and problems (RFC 9457) turned into words.

const TOKEN = "mmray-token";
const TITLES = {
  400: "The server could not read this request",
  408: "The upload took too long",
  413: "This is too large for the server",
  415: "The server does not read this kind of file",
  422: "This record cannot be predicted",
};

/** What went wrong, for people. `modality` is the part to blame, where the server names one. */
export class Problem extends Error {
  constructor(title, detail, { status = 0, modality = null } = {}) {
    super(title);
    Object.assign(this, { detail, status, modality });
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

export const model = () => ask("v1/model");
export const samples = async () => (await ask("v1/samples")).samples;

/** Predict from a FormData; the answer has also `round_trip_ms`. */
export async function predict(form) {
  const start = performance.now();
  const answer = await ask("v1/predict?explain=true", { method: "POST", body: form });
  return { ...answer, round_trip_ms: performance.now() - start };
}

async function ask(url, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(url, { ...options, headers });
  } catch {
    throw new Problem("The server does not answer", "Check that it still runs, then try again.");
  }
  if (response.ok) return response.json();
  throw await problemOf(response);
}

async function problemOf(response) {
  const { status } = response;
  const said = await response.json().catch(() => ({}));
  if (status === 429 || status === 503) {
    const wait = Number(response.headers.get("Retry-After"));
    return new Problem("The server is busy", wait ? `Try again in ${wait} s.` : "Try again soon.", { status });
  }
  const title = TITLES[status] ?? `The server answered ${status}`;
  const [first] = String(said.reason ?? "").split("-");
  const modality = ["image", "text", "audio"].includes(first) ? first : null;
  return new Problem(title, said.detail ?? response.statusText, { status, modality });
}
