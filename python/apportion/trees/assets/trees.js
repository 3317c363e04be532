// The trees as the page looks at them, and what the reader chose.

const state = { tree: 0, node: 0, top: 0, colour: null, order: "visits", query: "" };
const { parent, columns, offsets } = data;
const VALUES = ["value", "q", "mean", "raw_value"];

const colourable = Object.keys(columns).filter((name) => name !== "visits");
colourable.sort((a, b) => ((VALUES.indexOf(a) + 1) || 99) - ((VALUES.indexOf(b) + 1) || 99));
state.colour = colourable[0] ?? null;

const trees = offsets.length - 1;
const nameOf = (tree) => data.names?.[tree] ?? `Tree ${tree}`;

// The open tree: where its rows begin, children of each node, and their weight in the map.
let tree = null;

function load(number) {
  const start = offsets[number], size = offsets[number + 1] - start;
  const children = Array.from({ length: size }, () => []);
  const depth = new Int32Array(size), leaves = new Int32Array(size), below = new Int32Array(size);
  for (let node = 1; node < size; node++) {
    children[parent[start + node]].push(node);
    depth[node] = depth[parent[start + node]] + 1;
  }
  for (let node = size - 1; node >= 0; node--) {
    if (!children[node].length) leaves[node] = 1;
    if (node) {
      leaves[parent[start + node]] += leaves[node];
      below[parent[start + node]] += below[node] + 1;
    }
  }
  const visits = columns.visits?.slice(start, start + size);
  const some = visits?.some((n) => n > 0);
  tree = { number, start, size, children, depth, below, counted: some, weight: some ? visits : leaves };
  arrange();
}

// Children in the chosen order.
function arrange() {
  const by = state.order === "visits" ? tree.weight
    : state.order === "value" && state.colour ? columns[state.colour].slice(tree.start, tree.start + tree.size) : null;
  for (const list of tree.children) {
    list.sort((a, b) => (by ? (by[b] ?? -Infinity) - (by[a] ?? -Infinity) : 0) || a - b);
  }
}

const at = (name, node) => columns[name]?.[tree.start + node] ?? null;
const parentOf = (node) => parent[tree.start + node];
const valueOf = (node) => (state.colour === null ? null : at(state.colour, node));
const textIn = (number, node) => {
  const id = data.texts?.[offsets[number] + node];
  return id === null || id === undefined ? null : data.strings[id];
};
const textOf = (node) => textIn(tree.number, node);

// What a node is called where it has no text: which child it was made as.
function label(node) {
  const text = textOf(node);
  if (text !== null) return text.trim() || "(empty text)";
  if (!node) return "root";
  let first = node;
  while (first > 1 && parentOf(first - 1) === parentOf(node)) first -= 1;
  return `child ${node - first}`;
}

function path(node) {
  const nodes = [];
  for (let one = node; one >= 0; one = parentOf(one)) nodes.unshift(one);
  return nodes;
}

// Colour of a node by the chosen column, from the least through the middle to the most.
function shade(element, node) {
  const value = valueOf(node);
  if (value === null) {
    element.dataset.sign = "absent";
    element.style.setProperty("--strength", "0");
    return element;
  }
  const [low, middle, high] = data.scales[state.colour];
  return paint(element, value - middle, value > middle ? high - middle : middle - low);
}

// The way down through the most visited children.
function mainLine(node) {
  const line = [node];
  for (let list = tree.children[node]; list.length; list = tree.children[line.at(-1)]) {
    const best = list.reduce((a, b) => (tree.weight[b] > tree.weight[a] ? b : a));
    if (!tree.weight[best]) break;
    line.push(best);
  }
  return line;
}
