// The open group: a map of its turns, and its trajectories side by side.
// A trajectory's turns are drawn when it comes near the window, so that groups of any
// size open at once.

const LONG = 600; // characters of a text shown before "more"
const MAPPED = 3000; // turns of a group beyond which it has no map

const drawn = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) fillTrajectory(entry.target);
}, { rootMargin: "600px" });

function open(group, jump = false) {
  state.group = group;
  if (group !== null) history.replaceState(null, "", `#group-${group}`);
  draw();
  markOpen();
  if (jump && narrow.matches) document.getElementById("detail").scrollIntoView({ block: "start" });
}

// Moves along the list; the button at its end does nothing.
function step(by) {
  const at = listed.indexOf(state.group) + by;
  if (at >= 0 && at < listed.length) {
    open(listed[at]);
    document.querySelector(".entry[aria-current=true]")?.scrollIntoView({ block: "nearest" });
  }
}

function draw() {
  drawn.disconnect();
  hideTip();
  const place = document.getElementById("detail");
  if (state.group === null) {
    place.replaceChildren(el("p", { className: "nothing" },
      data.groups.length ? "No group matches." : "There are no trajectories in this batch."));
    return;
  }
  const group = state.group;
  const order = [...members[group]].sort(
    (a, b) => (outcome(b) ?? -Infinity) - (outcome(a) ?? -Infinity) || a - b);
  const at = listed.indexOf(group);
  place.replaceChildren(
    el("div", { className: "grouphead" },
      el("h2", { dir: "auto" }, data.groups[group]),
      el("span", { className: "faint" }, `group ${at + 1} of ${listed.length} listed`),
      el("span", { className: "steps" },
        el("button", { type: "button", disabled: at <= 0, onclick: () => step(-1) }, "‹ Previous"),
        el("button", { type: "button", disabled: at >= listed.length - 1, onclick: () => step(1) }, "Next ›"))),
    found[group].length ? el("p", { className: "flags" },
      found[group].map((finding) => el("span", { className: "flag" }, finding.short))) : "",
    map(order) ?? "",
    el("div", { className: "board" }, order.map((one, index) => trajectory(one, index))));
}

// Rows are trajectories, cells are turns. A shortcut for the mouse: the same turns can be
// reached by keyboard below.
function map(order) {
  const most = Math.max(0, ...order.map((one) => turnsOf(one).length));
  const many = order.reduce((sum, one) => sum + turnsOf(one).length, 0);
  if (order.length < 2 || most < 2 || many > MAPPED) return null;
  const size = Math.max(5, Math.min(16, Math.floor(900 / most)));
  const high = order.length > 24 ? 8 : 14;
  const cells = order.flatMap((one, row) => turnsOf(one).map((turn, k) => {
    const rect = svg("rect", { x: k * size, y: row * high, width: size - 1, height: high - 1,
      class: "bar cell", "data-turn": turn });
    return tint(rect, credit().advantages[turn]);
  }));
  const picture = svg("svg", {
    viewBox: `0 0 ${most * size} ${order.length * high}`, width: most * size, height: order.length * high,
    role: "img", "aria-label": "Map of turns: a row a trajectory, a cell a turn, in the order below",
  }, ...cells);
  picture.onclick = (event) => {
    if (event.target.dataset.turn) reach(Number(event.target.dataset.turn));
  };
  return el("div", { className: "map" }, picture);
}

// Brings a turn into view and selects it.
function reach(turn) {
  const offsets = data.trajectories.turns;
  for (const node of document.querySelectorAll(".trajectory")) {
    const one = Number(node.dataset.trajectory);
    if (offsets[one] <= turn && turn < offsets[one + 1]) {
      node.open = true;
      fillTrajectory(node);
    }
  }
  const card = document.querySelector(`.turn[data-turn="${turn}"]`);
  card?.scrollIntoView({ block: "center", inline: "center" });
  card?.focus({ preventScroll: true });
}

function trajectory(one, index) {
  const turns = turnsOf(one);
  const credits = creditOf(one);
  const parts = Object.entries(credit().trajectory_parts);
  const value = outcome(one);
  const node = el("details", {
    className: "trajectory", "data-trajectory": one,
    open: !narrow.matches || index === 0 || turns.some(turnMatches),
  },
  el("summary", {},
    el("span", { className: "name", dir: "auto" },
      data.trajectories.name ? data.trajectories.name[one] : `Trajectory ${one}`),
    data.trajectories.outcome
      ? el("span", { className: value === null ? "flag" : "outcome" },
        value === null ? "no outcome" : `outcome ${short(value)}`) : null,
    el("span", { className: "faint" },
      `${plural(turns.length, "turn")} · ${plural(data.trajectories.tokens[one], "token")} · `,
      `mean ${signed(mean(credits))}`),
    parts.length ? el("span", { className: "faint parts" },
      parts.map(([name, values]) => `${name.replaceAll("_", " ")} ${short(values[one])}`).join(" · ")) : null),
  el("div", { className: "turns" }));
  // Room for what is to come, so that the page does not jump while it is scrolled.
  node.lastChild.style.minHeight = `${turns.length * 56}px`;
  node.ontoggle = () => { if (node.open) drawn.observe(node); };
  if (node.open) drawn.observe(node);
  return node;
}

function fillTrajectory(node) {
  drawn.unobserve(node);
  const place = node.lastChild;
  if (place.childElementCount || !node.open) return;
  const turns = turnsOf(Number(node.dataset.trajectory));
  place.append(...(turns.length ? turns.map(card) : [el("p", { className: "faint" }, "No turns.")]));
  place.style.minHeight = "";
}

function card(turn, k) {
  const value = credit().advantages[turn];
  const reward = data.turns.reward === null ? null : data.turns.reward[turn];
  const tokens = data.turns.tokens[turn];
  const node = el("article", { className: "turn", tabIndex: 0, "data-turn": turn, "data-k": k },
    el("div", { className: "turnhead" },
      el("span", {}, `Turn ${k}`),
      reward ? el("span", { className: "reward" }, `reward ${signed(reward)}`) : null,
      alone.has(turn) ? el("span", { className: "flag" }, "state not shared") : null,
      el("span", { className: "value" }, signed(value))),
    observation(turn),
    text("text", turn) ?? el("p", { className: "faint" }, `${plural(tokens, "token")}, no text`));
  node.setAttribute("aria-label", `Turn ${k}, credit ${signed(value)}`);
  if (turnMatches(turn)) node.classList.add("match");
  return tint(node, value);
}

// What was seen before the turn: one line, around what is searched for, and all of it when opened.
function observation(turn) {
  const seen = textOf("observation", turn);
  if (!seen) return null;
  const at = matches("observation", turn) ? seen.toLowerCase().indexOf(wanted()) : 0;
  const from = at > 40 ? at - 20 : 0;
  const preview = `${from ? "…" : ""}${seen.slice(from, from + 160)}`;
  const node = el("details", { className: "observation" },
    el("summary", {}, "saw ", fill(el("span", { dir: "auto" }), preview)));
  node.ontoggle = () => {
    if (node.open && node.childElementCount === 1) node.append(text("observation", turn));
  };
  return node;
}

// A text, cut with a "more" where it is long; not cut where the search found something in it.
function text(name, turn) {
  const whole = textOf(name, turn);
  if (whole === null) return null;
  const place = el("div", { className: "text", dir: "auto" });
  if (whole === "") return el("p", { className: "faint" }, "(empty text)");
  if (whole.length <= LONG * 1.2 || matches(name, turn)) return fill(place, whole);
  const cut = fill(place, `${whole.slice(0, LONG)}…`);
  const more = el("button", { type: "button", className: "link", onclick: () => {
    const longer = more.dataset.open !== "yes";
    more.dataset.open = longer ? "yes" : "no";
    fill(cut, longer ? whole : `${whole.slice(0, LONG)}…`);
    more.textContent = longer ? "less" : `more (${count(whole.length - LONG)} characters)`;
  } }, `more (${count(whole.length - LONG)} characters)`);
  return el("div", {}, cut, more);
}
