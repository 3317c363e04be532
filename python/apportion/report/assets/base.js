// What the reader of a report chose, and the batch as its pages look at it.

// `credit` is an index into data.credits.
const state = { credit: 0, group: null, sort: "file", only: "", query: "" };

const credit = () => data.credits[state.credit];

const tint = (node, value, scale = credit().scale) => paint(node, value, scale);

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
