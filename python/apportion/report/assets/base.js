// Elements, numbers and colours. Text reaches the page as text nodes alone: nothing in
// these files builds markup from a string.

const data = JSON.parse(document.getElementById("data").textContent);
const narrow = matchMedia("(max-width: 700px)");

// What the reader chose. `credit` is an index into data.credits.
const state = { credit: 0, group: null, sort: "file", only: "", query: "" };

// An element: `properties` set on it, `children` (elements, strings, null) inside it.
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name.startsWith("data-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const credit = () => data.credits[state.credit];

const grouped = new Intl.NumberFormat("en");
const count = (n) => grouped.format(n);
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

// A number in few characters; a minus sign as wide as the plus.
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  let text = size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(1) : value.toFixed(
    size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  if (/^-?\d+\.\d+$/.test(text)) text = text.replace(/\.?0+$/, "");
  return text.replace("-", "−");
}

const signed = (value) => (value > 0 ? `+${short(value)}` : short(value));
// All embedded digits, for the panel of numbers.
const exact = (value) => (value === null || value === undefined ? "absent" : String(value).replace("-", "−"));

// Sign and strength (0 to 1) of a credit, as attributes that the style sheet colours.
function tint(node, value, scale = credit().scale) {
  const known = value !== null && value !== undefined && value !== 0;
  node.dataset.sign = !known ? "none" : value > 0 ? "pos" : "neg";
  // Less than linear, so that small credit is still told from none.
  const strength = known ? Math.max(0.12, Math.min(1, Math.abs(value) / scale) ** 0.7) : 0;
  node.style.setProperty("--strength", strength.toFixed(3));
  return node;
}

function mean(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function deviation(values) {
  const middle = mean(values);
  return middle === null ? 0 : Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
}

// Trajectories of each group, and the first and last turn of each trajectory.
const members = data.groups.map(() => []);
data.trajectories.group.forEach((group, trajectory) => members[group].push(trajectory));

function turnsOf(trajectory) {
  const [start, end] = data.trajectories.turns.slice(trajectory, trajectory + 2);
  return Array.from({ length: end - start }, (_, k) => start + k);
}

const outcome = (trajectory) => (data.trajectories.outcome ? data.trajectories.outcome[trajectory] : null);
const creditOf = (trajectory) => turnsOf(trajectory).map((turn) => credit().advantages[turn]);

const alone = new Set(data.turns.alone);

// Findings of each group, in the order in which they are listed.
const found = data.groups.map(() => []);
for (const finding of data.findings) for (const group of finding.groups) found[group].push(finding);

function textOf(name, turn) {
  const ids = data.turns[name];
  return ids === null || ids[turn] === null ? null : data.strings[ids[turn]];
}

// Numbers of the texts that contain what is searched for; null without a search.
let matching = null;
const lowered = [];

const wanted = () => state.query.trim().toLowerCase();

function search() {
  const query = wanted();
  matching = query ? new Set() : null;
  if (!query) return;
  data.strings.forEach((text, id) => {
    lowered[id] ??= text.toLowerCase();
    if (lowered[id].includes(query)) matching.add(id);
  });
}

function matches(name, turn) {
  const ids = data.turns[name];
  return matching !== null && ids !== null && ids[turn] !== null && matching.has(ids[turn]);
}

const turnMatches = (turn) => matches("text", turn) || matches("observation", turn);

// `text` into `node`, what is searched for marked.
function fill(node, text) {
  node.replaceChildren();
  const query = wanted();
  const low = text.toLowerCase();
  let from = 0;
  // Lower case can be longer than the text (some letters of Turkish); no marks then.
  if (query && low.length === text.length) {
    for (let at = low.indexOf(query); at >= 0; at = low.indexOf(query, from)) {
      node.append(text.slice(from, at), el("mark", {}, text.slice(at, at + query.length)));
      from = at + query.length;
    }
  }
  node.append(text.slice(from));
  return node;
}
