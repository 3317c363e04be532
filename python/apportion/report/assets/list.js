// The list of groups: small bars, sorting, filters and the search in texts.

const outcomeRange = (() => {
  let low = 0, high = 0;
  for (const value of data.trajectories.outcome ?? []) {
    if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  return { low, high: high > low ? high : low + 1 };
})();

// One bar a trajectory: as high as its outcome, coloured by its mean credit.
function bars(group) {
  const all = members[group];
  const step = Math.max(1, Math.ceil(all.length / 32));
  const shown = all.filter((_, index) => index % step === 0);
  const { low, high } = outcomeRange;
  const rects = shown.map((trajectory, index) => {
    const value = outcome(trajectory);
    const tall = value === null ? 3 : 3 + ((value - low) / (high - low)) * 19;
    const rect = svg("rect", { x: index * 6, width: 5, y: 22 - tall, height: tall, class: "bar" });
    return tint(rect, mean(creditOf(trajectory)));
  });
  return svg("svg", { viewBox: `0 0 ${shown.length * 6} 22`, width: shown.length * 6, height: 22,
    "aria-hidden": "true" }, ...rects);
}

const spreadOf = (group) => deviation(members[group].flatMap(creditOf));
const outcomeOf = (group) => mean(members[group].map(outcome));

const SORTS = {
  file: ["as in the batch", (group) => group],
  spread: ["largest spread of credit", (group) => -spreadOf(group)],
  flat: ["smallest spread of credit", (group) => spreadOf(group)],
  low: ["lowest mean outcome", (group) => outcomeOf(group) ?? Infinity],
  high: ["highest mean outcome", (group) => -(outcomeOf(group) ?? -Infinity)],
  warned: ["most warnings", (group) => -found[group].length],
};

let listed = []; // groups in the order of the list

function matchesIn(group) {
  return members[group].reduce((sum, trajectory) => sum + turnsOf(trajectory).filter(turnMatches).length, 0);
}

function relist() {
  const rank = new Map(data.groups.map((_, group) => [group, SORTS[state.sort][1](group)]));
  const kept = state.only === "mixed"
    ? (group) => new Set(members[group].map(outcome)).size > 1
    : (group) => !state.only || found[group].some((finding) => finding.kind === state.only);
  const hits = new Map();
  listed = data.groups.map((_, group) => group).filter((group) => {
    if (!kept(group)) return false;
    if (matching !== null) hits.set(group, matchesIn(group));
    return matching === null || hits.get(group) > 0;
  }).sort((a, b) => rank.get(a) - rank.get(b) || a - b);
  const total = [...hits.values()].reduce((sum, n) => sum + n, 0);
  document.getElementById("shown").textContent = matching === null
    ? `${count(listed.length)} of ${plural(data.groups.length, "group")}`
    : `${plural(total, "turn")} in ${plural(listed.length, "group")}`;
  document.getElementById("groups").replaceChildren(...listed.map((group) => entry(group, hits.get(group))));
  markOpen();
}

function entry(group, hits) {
  const size = members[group].length;
  return el("li", {}, el("button", {
    type: "button", className: "entry", "data-group": group, onclick: () => open(group, true),
  },
  el("span", { className: "name", dir: "auto" }, data.groups[group]),
  el("span", { className: "bars" }, bars(group)),
  el("span", { className: "faint" },
    [`${size}×`, outcomeOf(group) === null ? null : `outcome ${short(outcomeOf(group))}`,
      `spread ${short(spreadOf(group))}`, hits ? plural(hits, "match").replace("matchs", "matches") : null]
      .filter(Boolean).join(" · ")),
  found[group].length ? el("span", { className: "flags" },
    found[group].map((finding) => el("span", { className: "flag" }, finding.short))) : null));
}

function markOpen() {
  for (const button of document.querySelectorAll(".entry")) {
    const here = Number(button.dataset.group) === state.group;
    button.setAttribute("aria-current", here ? "true" : "false");
  }
}

function option(value, text) {
  return el("option", { value }, text);
}

function onlyGroups(kind) {
  const select = document.getElementById("only");
  select.value = kind;
  select.onchange();
  document.getElementById("list").scrollIntoView({ block: "start" });
}

// Keeps the open group if the list still has it, else opens the first.
function refresh() {
  relist();
  if (!listed.includes(state.group)) open(listed.length ? listed[0] : null);
  else draw();
}

function later(action, wait) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(action, wait); };
}

function list() {
  const only = el("select", { id: "only", onchange: () => { state.only = only.value; refresh(); } },
    option("", "all groups"),
    data.trajectories.outcome ? option("mixed", "unequal outcomes") : null,
    data.findings.map((finding) => option(finding.kind, finding.short)));
  const sort = el("select", { onchange: () => { state.sort = sort.value; relist(); } },
    Object.entries(SORTS).map(([name, [text]]) => option(name, text)));
  const field = el("input", {
    type: "search", placeholder: "Search in texts", spellcheck: false,
    oninput: later(() => { state.query = field.value; search(); refresh(); }, 200),
  });
  field.setAttribute("aria-label", "Search in texts");
  const groups = el("details", { className: "groups", open: !narrow.matches },
    el("summary", {}, "Groups"), el("ol", { id: "groups" }));
  return el("nav", { className: "list", id: "list", "aria-label": "Groups" },
    data.strings.length ? field : null,
    el("label", {}, el("span", {}, "Show"), only),
    el("label", {}, el("span", {}, "Sort"), sort),
    el("p", { className: "faint", id: "shown", role: "status" }),
    groups);
}
