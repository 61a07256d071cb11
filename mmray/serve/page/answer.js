// The right side of the page: a prediction, the answers without each input, and the time it took.

const SHOWN = 10; // labels
export const NAMES = { image: "Image", text: "Text", audio: "Sound" };
export const $ = (id) => document.getElementById(id);
const named = ({ label }) => label ?? "No label"; // null: the score is too low
const percent = (score) => `${(100 * score).toFixed(1)} %`;

export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/**
 * Show what the server answered, with `round_trip_ms`, for a record that was given these modalities; `command` asks the same.
 */
export function showAnswer(answer, given, command) {
  $("empty").hidden = true;
  $("result").hidden = false;
  $("result").classList.remove("stale");
  const labelled = "label" in answer;
  $("label").textContent = labelled ? named(answer) : `${answer.features.length} features`;
  $("score").textContent = labelled ? percent(answer.score) : "";
  const from = answer.modalities.map((m) => NAMES[m].toLowerCase()).join(", ");
  $("spoken").textContent = labelled ? `${named(answer)}, ${percent(answer.score)}, from ${from}` : from;
  showScores(Object.entries(answer.scores ?? {}));
  $("counted").hidden = !labelled;
  showStage(answer, given);
  if (labelled) showWithout(answer, given);
  showTimes(answer);
  $("curl").textContent = command;
  if (!matchMedia("(min-width: 60rem)").matches) $("answer").scrollIntoView();
}

/** At which stage of a cascade the answer was found. */
function showStage({ stage, confidence, modalities }, given) {
  const rest = given.filter((m) => !modalities.includes(m));
  const list = (names) => names.map((m) => NAMES[m].toLowerCase()).join(" and ");
  const early = `Answered at stage ${stage}, from the ${list(modalities)}: confidence ${percent(confidence)}. `;
  const spared = `The ${list(rest)} ${rest.length > 1 ? "were" : "was"} not used.`;
  $("stage").hidden = stage === undefined;
  $("stage").textContent = rest.length ? early + spared : `Answered at stage ${stage}, from all inputs.`;
}

function showScores(scores) {
  const rows = scores.slice(0, SHOWN).map(([label, score]) => {
    const row = element("li", "");
    row.append(element("span", "what", label), bar(score), element("span", "figures", percent(score)));
    return row;
  });
  if (scores.length > SHOWN) rows.push(element("li", "quiet", `and ${scores.length - SHOWN} more`));
  $("scores").replaceChildren(...rows);
}

function bar(share) {
  const track = element("span", "bar");
  track.setAttribute("aria-hidden", "true");
  const fill = element("span", "fill");
  fill.style.inlineSize = `${100 * share}%`;
  track.append(fill);
  return track;
}

function showWithout({ modalities, without = {}, ...answer }, given) {
  const rows = Object.entries(NAMES).map(([modality, name]) => {
    const row = element("li", modalities.includes(modality) ? "" : "absent");
    row.append(element("span", "what", name), ...answerWithout(modality));
    return row;
  });
  $("without").replaceChildren(...rows);

  function answerWithout(modality) {
    if (!given.includes(modality)) return [element("span", "quiet", "not given")];
    if (!modalities.includes(modality)) return [element("span", "quiet", "not used")];
    const left = without[modality];
    if (!left) return [element("span", "quiet", "the only input")];
    const changed = left.label !== answer.label;
    const [tag, label, score] = changed ? ["b", "turned", "figures turned"] : ["span", "", "figures quiet"];
    return [element(tag, label, named(left)), element(tag, score, percent(left.score))];
  }
}

function showTimes({ latency_ms: latency, round_trip_ms: whole, without = {} }) {
  const decisions = 1 + Object.keys(without).length;
  const shares = [
    ["preprocessing", latency.preprocess],
    [`model${decisions > 1 ? ` (${decisions} decisions)` : ""}`, latency.model],
    ["the rest", Math.max(0, whole - latency.preprocess - latency.model)],
  ];
  $("time").replaceChildren(
    ...shares.map(([, ms]) => {
      const piece = element("span", "piece");
      piece.style.flexGrow = ms;
      return piece;
    }),
  );
  const words = shares.map(([what, ms], i) => element("span", `key key-${i}`, `${what} ${ms.toFixed(0)} ms`));
  $("times").replaceChildren(element("b", "", `${whole.toFixed(0)} ms`), ...words);
}
