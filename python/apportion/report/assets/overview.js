// The upper part: what was run on what, how the credit is spread, and the warnings.

const CERTAINTY = {
  code: "agrees with the authors' code",
  paper: "follows the paper's text",
  "third-party": "follows another trainer's code",
  reconstructed: "sources leave gaps, completed by us",
};

function header() {
  const { groups, trajectories, turns, tokens } = data.counts;
  const facts = [
    plural(groups, "group"), plural(trajectories, "trajectory").replace("trajectorys", "trajectories"),
    plural(turns, "turn"), `${plural(tokens, "token")} trained`,
  ];
  return el("header", { className: "top" },
    el("h1", { dir: "auto" }, data.title),
    el("p", { className: "facts" },
      data.source ? el("span", { className: "source", dir: "auto" }, data.source) : null,
      facts.map((fact) => el("span", {}, fact)),
      el("span", { className: "faint" }, `apportion ${data.version}`)),
    data.credits.length > 1 ? selector() : null);
}

function selector() {
  return el("fieldset", { className: "methods" }, el("legend", {}, "Credit by"),
    data.credits.map((one, index) => el("label", {},
      el("input", {
        type: "radio", name: "credit", checked: index === state.credit,
        onchange: () => { state.credit = index; recolour(); },
      }),
      el("span", {}, one.label))));
}

// The method that is shown, with the options that were in force.
function method() {
  const one = credit();
  const set = one.options.filter((option) => option[2]);
  const pair = ([name, value]) => el("code", {}, `${name}=${value}`);
  return el("details", { className: "card", open: !narrow.matches },
    el("summary", {}, el("h2", {}, one.method, " ", el("span", { className: "faint" }, one.title))),
    el("p", {}, `Credit per ${one.level}. `,
      one.like ? `Settings of ${one.like}. ` : "",
      one.certainty ? el("span", { title: CERTAINTY[one.certainty] ?? "" },
        `Certainty: ${one.certainty}`, one.certainty in CERTAINTY ? ` (${CERTAINTY[one.certainty]}).` : ".") : null),
    one.paper ? el("p", { className: "faint" }, one.paper) : null,
    el("p", { className: "options" },
      set.length ? set.map(pair) : one.options.length ? "All options at their defaults." : "No options."),
    one.options.length ? el("details", {}, el("summary", {}, `${plural(one.options.length, "option")} in force`),
      el("dl", { className: "alloptions" }, one.options.map((option) => [
        el("dt", {}, pair(option), option[2] ? " set" : null), el("dd", {}, option[3] ?? "")]))) : null,
    Object.keys(one.counts).length ? el("p", { className: "faint" }, "Counted: ", Object.entries(one.counts)
      .map(([name, n]) => `${name.replaceAll("_", " ")} ${count(n)}`).join(" · ")) : null);
}

const HISTOGRAM = { width: 420, height: 130, base: 108 };

function histogram() {
  const { edges, counts, zeros } = credit().histogram;
  const { width, height, base } = HISTOGRAM;
  const top = Math.max(1, ...counts);
  const reach = edges[edges.length - 1];
  const x = (value) => ((value + reach) / (2 * reach)) * (width - 20) + 10;
  const bars = counts.map((n, bar) => {
    const tall = n ? Math.max(2, (n / top) * (base - 12)) : 0;
    const middle = (edges[bar] + edges[bar + 1]) / 2;
    const rect = svg("rect", {
      x: x(edges[bar]) + 0.5, width: Math.max(1, x(edges[bar + 1]) - x(edges[bar]) - 1),
      y: base - tall, height: tall, class: "bar",
    }, svg("title"));
    rect.firstChild.textContent = `${short(edges[bar])} to ${short(edges[bar + 1])}: ${plural(n, "turn")}`;
    return tint(rect, Math.abs(middle) < reach / counts.length ? 0 : middle);
  });
  const label = (value, anchor) => {
    const node = svg("text", { x: x(value), y: base + 15, "text-anchor": anchor });
    node.textContent = signed(value);
    return node;
  };
  const shown = counts.reduce((sum, n) => sum + n, 0);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Histogram of ${plural(shown, "turn")} by credit, from ${short(-reach)} to ${short(reach)}`,
  }, svg("line", { x1: 10, x2: width - 10, y1: base, y2: base, class: "axis" }), ...bars,
  ...(shown ? [label(-reach, "start"), label(0, "middle"), label(reach, "end")] : []));
  return el("section", { className: "card" }, el("h2", {}, "Credit of turns"),
    shown ? picture : el("p", {}, "No turn has credit other than 0."),
    el("p", { className: "faint" },
      `${plural(shown, "turn")} shown; the highest bar has ${count(Math.max(0, ...counts))}. `,
      zeros ? `${plural(zeros, "turn")} with exactly 0 left out.` : ""),
    legend());
}

// Colours at five strengths, with the numbers that they stand for.
function legend() {
  const { scale } = credit();
  const steps = [-1, -0.5, 0, 0.5, 1].map((share) => {
    const text = share === 0 ? "0" : signed(share * scale);
    const sign = Math.abs(share) < 1 ? "" : share > 0 ? "≥ " : "≤ ";
    return tint(el("span", {}, sign + text), share * scale);
  });
  return el("p", { className: "legend", "aria-label": "Colours" }, steps);
}

function warnings() {
  const items = data.findings.map((finding) => el("li", {},
    el("strong", {}, finding.short), " ", finding.text, " ",
    finding.groups.length ? el("button", {
      type: "button", className: "link", onclick: () => onlyGroups(finding.kind),
    }, `Show ${plural(finding.groups.length, "group")}`) : null));
  if (data.text_limit !== null) {
    items.push(el("li", {}, el("strong", {}, "long texts cut"),
      ` Texts longer than ${count(data.text_limit)} characters are cut in the middle.`));
  }
  return el("section", { className: "card" }, el("h2", {}, "Warnings"),
    items.length ? el("ul", { className: "warnings" }, items) : el("p", {}, "Nothing found."));
}

function overview() {
  return el("div", { className: "overview", id: "overview" }, method(), histogram(), warnings());
}
