// The upper part: what is shown, the budget over time, and what the reader can choose.

function header() {
  const facts = [plural(trees, "tree"), plural(parent.length, "node")];
  if (columns.visits) {
    const visits = offsets.slice(0, -1).reduce((sum, start) => sum + (columns.visits[start] ?? 0), 0);
    facts.push(`${plural(visits, "visit")} of roots`);
  }
  const told = Object.entries(data.meta);
  return el("header", { className: "top" },
    el("h1", { dir: "auto" }, data.title),
    el("p", { className: "facts" },
      data.source && data.source !== data.title ? el("span", { className: "source", dir: "auto" }, data.source) : null,
      facts.map((fact) => el("span", {}, fact)),
      el("span", { className: "faint" }, `apportion ${data.version}`)),
    told.length ? el("p", { className: "facts faint" },
      told.map(([name, value]) => el("span", { dir: "auto" }, `${name}: ${value}`))) : null,
    data.left_out ? el("p", { className: "flag" },
      `${plural(data.left_out, "tree")} more not shown: the page holds ${count(parent.length)} nodes.`) : null,
    data.text_limit ? el("p", { className: "faint" },
      `Texts longer than ${count(data.text_limit)} characters are cut in the middle.`) : null);
}

function chosen(name, options, current, change) {
  return el("label", {}, el("span", { className: "faint" }, name),
    el("select", { onchange: (event) => change(event.target.value) },
      options.map(([value, text]) => el("option", { value, selected: value === current }, text))));
}

function controls() {
  const rooted = (number) => {
    const value = state.colour === null ? null : columns[state.colour][offsets[number]];
    const worth = value === null ? "" : `, ${state.colour.replaceAll("_", " ")} ${short(value)}`;
    return `${nameOf(number)} (${plural(offsets[number + 1] - offsets[number], "node")}${worth})`;
  };
  const steps = trees < 2 ? null : el("span", { className: "steps" },
    chosen("Tree", Array.from({ length: trees }, (_, k) => [String(k), rooted(k)]), String(state.tree),
      (value) => openTree(Number(value))),
    el("button", { type: "button", "aria-label": "Tree before", disabled: state.tree === 0,
      onclick: () => openTree(state.tree - 1) }, "‹"),
    el("button", { type: "button", "aria-label": "Next tree", disabled: state.tree === trees - 1,
      onclick: () => openTree(state.tree + 1) }, "›"));
  return el("div", { id: "controls", className: "controls" }, steps,
    colourable.length ? chosen("Colour", colourable.map((name) => [name, name.replaceAll("_", " ")]), state.colour,
      (value) => { state.colour = value; arrange(); redraw(); }) : null,
    chosen("Order", [["visits", tree.counted ? "most visits" : "most leaves"], ["value", "highest colour"], ["made", "as made"]],
      state.order, (value) => { state.order = value; arrange(); redraw(); }),
    legend());
}

function legend() {
  if (state.colour === null) return null;
  const [low, middle, high] = data.scales[state.colour];
  const places = [low, (low + middle) / 2, middle, (middle + high) / 2, high];
  return el("div", { className: "legend", "aria-label": `colour is ${state.colour.replaceAll("_", " ")}` },
    places.map((value, k) => paint(el("span", {}, k % 2 ? "\u00a0" : short(value)), value - middle, (high - low) / 2)),
    el("span", { "data-sign": "absent" }, "none"));
}

const PLOT = { width: 300, height: 48 };
const ABOUT = { answered: "leaves answered", nodes: "children proposed", failed: "leaves failed" };

// Each column of the timeline as a chart of its own, from 0 to its most.
function timeline() {
  const { seconds, ...series } = data.timeline;
  const names = Object.keys(series).filter((name) => series[name].some((n) => n > 0));
  if (!seconds || seconds.length < 2 || !names.length) return null;
  const last = seconds.at(-1) || 1;
  return el("section", { className: "card time", "aria-label": "Budget over time" },
    el("h2", {}, "Budget over time ", el("span", { className: "faint" }, `0 to ${short(last)} s`)),
    el("div", { className: "charts" }, names.map((name) => chart(name, series[name], seconds, last))));
}

function chart(name, values, seconds, last) {
  const most = Math.max(...values);
  const points = values.map((n, i) =>
    `${((seconds[i] / last) * PLOT.width).toFixed(1)},${((1 - n / most) * PLOT.height).toFixed(1)}`).join(" ");
  return el("figure", {},
    el("figcaption", {}, el("b", {}, count(most)), ` ${ABOUT[name] ?? name.replaceAll("_", " ")}`),
    svg("svg", { viewBox: `0 -2 ${PLOT.width} ${PLOT.height + 2}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("polygon", { points: `${points} ${PLOT.width},${PLOT.height} 0,${PLOT.height}`, class: "area" }),
      svg("polyline", { points, class: "line" })));
}
