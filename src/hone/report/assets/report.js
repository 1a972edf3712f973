"use strict";
const run = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const NS = "http://www.w3.org/2000/svg";

// Elements. Texts become text nodes, never markup.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
function svg(tag, attributes, text) {
  const node = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const color = (index) => `var(--c${index % 8})`;

// Numbers.
function show(value, share) {
  if (value === null || value === undefined) return "–";
  if (share) return `${trim((100 * value).toFixed(Math.abs(value) < 0.1 && value !== 0 ? 2 : 1))}%`;
  const size = Math.abs(value);
  if (size >= 1e6) return `${trim((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${trim((value / 1e3).toPrecision(3))}k`;
  if (size !== 0 && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return trim(value.toPrecision(4));
}
const trim = (text) => (text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text);
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return found;
}
function smoothed(values) {
  const width = values.length / 50, reach = Math.ceil(3 * width);
  return values.map((_, at) => {
    let total = 0, weight = 0;
    for (let i = Math.max(0, at - reach); i <= Math.min(values.length - 1, at + reach); i++) {
      const share = Math.exp(-0.5 * ((i - at) / width) ** 2);
      total += share * values[i];
      weight += share;
    }
    return total / weight;
  });
}
function limits(values, panel) {
  const ordered = [...values].sort((a, b) => a - b);
  let low = ordered[0], high = ordered[ordered.length - 1];
  const usual = ordered[Math.floor(0.98 * (ordered.length - 1))];
  if (!panel.stacked && ordered.length >= 50 && usual > low && high > low + 3 * (usual - low)) high = low + 1.3 * (usual - low);
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  if (low >= 0 && (panel.from_zero || panel.percent)) low = 0; else low -= margin;
  high += margin;
  return [low, panel.percent ? Math.min(high, 1.03) : high];
}

// Axes: every chart has the run's steps below it, and the pointer marks the same step in all of them.
const charts = [];
const first = run.steps[0], last = run.steps[run.steps.length - 1];
const HEIGHT = 170, LEFT = 50, RIGHT = 12, TOP = 8, BOTTOM = 34;
function frame(box, low, high, label, yTicks) {
  const width = Math.max(box.clientWidth, 200);
  const x = (step) => LEFT + (last === first ? 0.5 : (step - first) / (last - first)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img" });
  for (const at of yTicks || ticks(low, high, 4)) {
    root.append(svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }));
    root.append(svg("text", { x: LEFT - 7, y: y(at) + 4, "text-anchor": "end" }, label(at)));
  }
  const across = ticks(first, last, width < 420 ? 5 : 7).filter((at) => Number.isInteger(at));
  for (const at of last === first ? [first] : across) root.append(svg("text", { x: x(at), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, String(at)));
  root.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  root.append(svg("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "step"));
  return { root, x, y, width };
}
function chart(title, unit, about, draw, read) {
  const at = el("span", { class: "at" }), legend = el("div", { class: "read" }), box = el("div");
  const heading = el("h3", about ? { title: about } : {}, title, unit ? el("span", { class: "unit" }, ` · ${unit}`) : "");
  const node = el("section", { class: "card chart" }, el("div", { class: "top" }, heading, at), legend, box);
  const one = { legend, box, cursor: null, drawn: null, node };
  one.redraw = () => {
    one.drawn = draw(box);
    one.cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    one.drawn.root.append(one.cursor);
    one.drawn.root.addEventListener("pointermove", (event) => {
      const { left, width } = one.drawn.root.getBoundingClientRect();
      const share = ((event.clientX - left) * (one.drawn.width / width) - LEFT) / (one.drawn.width - LEFT - RIGHT);
      point(first + Math.min(1, Math.max(0, share)) * (last - first));
    });
    one.drawn.root.addEventListener("pointerleave", () => point(null));
    box.replaceChildren(one.drawn.root);
  };
  one.point = (step) => {
    one.cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) for (const end of ["x1", "x2"]) one.cursor.setAttribute(end, one.drawn.x(step));
    at.textContent = step === null ? "" : `step ${step}`;
    legend.replaceChildren(...read(step));
  };
  charts.push(one);
  return node;
}
function point(wanted) {
  const step = wanted === null ? null : run.steps.reduce((best, at) => (Math.abs(at - wanted) < Math.abs(best - wanted) ? at : best), first);
  for (const one of charts) one.point(step);
}
function named(index, label, value, several) {
  return el("span", {}, several || label ? el("i", { style: `background:${color(index)}` }) : "", label ? `${label} ` : "", el("b", {}, value));
}

// A panel of curves, or of parts that add up.
function curves(panel) {
  const lines = panel.lines.map(([metric, label], index) => {
    const points = run.metrics[metric].map((value, at) => [run.steps[at], value]).filter(([, value]) => value !== null);
    return { metric, label, index, points };
  });
  const several = lines.length > 1;
  const draw = (box) => {
    const all = panel.stacked ? run.steps.map((_, at) => lines.reduce((sum, line) => sum + (run.metrics[line.metric][at] || 0), 0)) : lines.flatMap((line) => line.points.map(([, value]) => value));
    const [low, high] = limits(all, panel);
    const drawn = frame(box, low, high, (value) => show(value, panel.percent));
    const { root, x, y } = drawn;
    const clip = `clip${charts.length}-${Math.random().toString(36).slice(2)}`;
    const window_ = svg("clipPath", { id: clip });
    window_.append(svg("rect", { x: 0, y: TOP - 4, width: drawn.width, height: HEIGHT - TOP - BOTTOM + 5 }));
    const group = svg("g", { "clip-path": `url(#${clip})` });
    root.append(window_, group);
    const path = (points, attributes) => group.append(svg("path", { d: points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(""), fill: "none", "stroke-linejoin": "round", ...attributes }));
    if (panel.stacked) {
      const indices = run.steps.map((_, at) => at).filter((at) => lines.some((line) => run.metrics[line.metric][at] !== null));
      let below = indices.map(() => 0);
      for (const line of lines) {
        const top = below.map((value, i) => value + (run.metrics[line.metric][indices[i]] || 0));
        const ring = [...indices.map((at, i) => [run.steps[at], top[i]]), ...indices.map((at, i) => [run.steps[at], below[i]]).reverse()];
        path(ring, { fill: color(line.index), "fill-opacity": 0.75 });
        below = top;
      }
      return drawn;
    }
    for (const { points, index } of lines) {
      const noisy = points.length >= 30;
      path(points, { stroke: color(index), "stroke-width": noisy ? 1 : 2, "stroke-opacity": noisy ? 0.3 : 1 });
      if (noisy) {
        const within = points.map(([, value]) => Math.min(Math.max(value, low), high));
        path(smoothed(within).map((value, at) => [points[at][0], value]), { stroke: color(index), "stroke-width": 2 });
      }
      if (points.length <= 25) for (const [step, value] of points) group.append(svg("circle", { cx: x(step), cy: y(value), r: 2.6, fill: color(index) }));
    }
    return drawn;
  };
  const read = (step) => lines.map(({ metric, label, index, points }) => {
    const value = step === null ? points[points.length - 1][1] : run.metrics[metric][run.steps.indexOf(step)];
    return named(index, label, show(value, panel.percent), several);
  });
  return chart(panel.title, panel.unit, panel.about, draw, read);
}

// How rewards are spread at each step: shares of the step's rollouts, the lowest reward at the bottom.
function shade(index, count) {
  const share = count === 1 ? 1 : index / (count - 1);
  const [from, to, part] = share < 0.5 ? ["low", "mid", 2 * share] : ["mid", "high", 2 * share - 1];
  return `color-mix(in oklab, rgb(var(--${to})) ${(100 * part).toFixed(0)}%, rgb(var(--${from})))`;
}
function histogram(drawn, steps) {
  const totals = drawn.counts.map((row) => row.reduce((sum, count) => sum + count, 0));
  const nearest = (step) => steps.reduce((best, at, index) => (Math.abs(at - step) < Math.abs(steps[best] - step) ? index : best), 0);
  const draw = (box) => {
    const made = frame(box, 0, 1, (value) => show(value, true), [0, 0.25, 0.5, 0.75, 1]);
    steps.forEach((step, index) => {
      const from = index ? (made.x(steps[index - 1]) + made.x(step)) / 2 : made.x(first);
      const to = index < steps.length - 1 ? (made.x(steps[index + 1]) + made.x(step)) / 2 : made.x(last);
      let below = 0;
      drawn.counts[index].forEach((count, bin) => {
        if (!count) return;
        const share = count / totals[index];
        made.root.append(svg("rect", { x: from, width: Math.max(to - from, 2), y: made.y(below + share), height: made.y(below) - made.y(below + share), style: `fill:${shade(bin, drawn.bins.length)}`, "shape-rendering": "crispEdges" }));
        below += share;
      });
    });
    return made;
  };
  const read = (step) => {
    const index = step === null ? steps.length - 1 : nearest(step);
    const shown = drawn.bins.map((label, bin) => [label, bin]).filter(([, bin]) => drawn.counts[index][bin]);
    return shown.map(([label, bin]) => el("span", {}, el("i", { style: `background:${shade(bin, drawn.bins.length)}` }), `${label}: `, el("b", {}, String(drawn.counts[index][bin])))).concat(el("span", {}, `of ${totals[index]}`));
  };
  return chart(drawn.name === "reward" ? "Rewards" : `Rewards: ${drawn.name}`, "share of rollouts", "", draw, read);
}

// Rollouts.
function content(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}
function messages(value, style) {
  if (!Array.isArray(value)) return [el("pre", { class: style }, content(value ?? ""))];
  const alone = value.length === 1;
  return value.flatMap((message) => [alone ? "" : el("div", { class: "role" }, String(message.role ?? "")), el("pre", { class: style }, content(message.tool_calls ? [message.content, message.tool_calls] : message.content ?? message))]);
}
function rollout(record, prompt) {
  const chip = (text, tone) => el("span", { class: `chip ${tone || ""}` }, text);
  const signed = (value) => (value > 0 ? "good" : value < 0 ? "bad" : "");
  const scores = Object.entries(record.rewards || {});
  const chips = [
    record.reward !== undefined ? chip(`reward ${show(record.reward)}`, signed(record.advantage ?? (record.reward > 0 ? 1 : -1))) : "",
    ...(scores.length > 1 ? scores.map(([name, value]) => chip(`${name} ${show(value)}`)) : []),
    record.advantage !== undefined ? chip(`advantage ${record.advantage > 0 ? "+" : ""}${show(record.advantage)}`, signed(record.advantage)) : "",
    chip(`${record.num_tokens ?? "?"} tokens${record.finish === "length" ? ", cut off" : ""}`, record.finish === "length" ? "warn" : ""),
    record.turns > 1 ? chip(`${record.turns} turns`) : "",
    record.logprob !== undefined ? chip(`log-probability ${show(record.logprob)}`) : "",
    record.failure ? chip(record.failure, "bad") : "",
    record.excluded ? chip(`left out: ${record.excluded}`, "warn") : "",
    ...Object.entries(record.extra || {}).map(([name, value]) => chip(`${name}: ${content(value).slice(0, 200)}`)),
    record.answer !== undefined ? chip(`expected ${content(record.answer)}`) : "",
  ];
  const asked = prompt === undefined ? [] : messages(prompt, "said asked");
  return el("article", { class: "card" }, el("div", { class: "chips" }, ...chips), ...asked, ...messages(record.messages || record.completion || "", "said"));
}
function browser(found, title) {
  const views = [["best", "best"], ["worst", "worst"], ["failed", "failed or left out"], ["first", "the first prompts"], ["groups", "whole groups"]]
    .filter(([key]) => found.steps.some((step) => (step[key] || []).length));
  let at = found.steps.length - 1, view = found.steps[0].first ? "first" : "best", group = 0;
  if (!views.some(([key]) => key === view)) view = views.length ? views[0][0] : "best";
  const output = el("output"), body = el("div"), buttons = el("div", { class: "bar", style: "margin:0" });
  const slider = el("input", { type: "range", min: 0, max: found.steps.length - 1, value: at, "aria-label": "step", oninput: () => { at = Number(slider.value); group = 0; update(); } });
  function update() {
    const step = found.steps[at];
    output.textContent = `step ${step.step} · ${step.count} in all`;
    buttons.replaceChildren(...views.map(([key, label]) => el("button", { type: "button", "aria-pressed": key === view, onclick: () => { view = key; update(); } }, label)));
    if (view !== "groups") {
      const shown = (step[view] || []).map((index) => rollout(found.records[index], found.prompts[found.records[index].group]));
      return body.replaceChildren(shown.length ? el("div", { class: "cards" }, ...shown) : el("p", { class: "soft" }, "none at this step"));
    }
    const indices = step.groups[Math.min(group, step.groups.length - 1)] || [];
    if (!indices.length) return body.replaceChildren(el("p", { class: "soft" }, "none at this step"));
    const choose = el("div", { class: "bar" }, ...step.groups.map((_, index) => el("button", { type: "button", "aria-pressed": index === group, onclick: () => { group = index; update(); } }, `group ${index + 1}`)), el("span", { class: "soft" }, found.records[indices[0]].group));
    body.replaceChildren(choose, el("div", { class: "card", style: "margin-bottom:14px" }, ...messages(found.prompts[found.records[indices[0]].group], "said asked")), el("div", { class: "cards" }, ...indices.map((index) => rollout(found.records[index]))));
  }
  update();
  return [el("h2", {}, title), el("div", { class: "bar" }, slider, output, buttons), body, el("p", { class: "soft" }, found.note)];
}
// A setting's name may be broken after a dot or an underscore, and nowhere else.
function keyCell(key) {
  return el("td", { class: "key" }, ...key.split(/(?<=[._])/).flatMap((part) => [part, el("wbr")]));
}
function table(heads, rows, numbers) {
  const cell = (tag) => (text, index) => tag === "td" && index === 0 && heads[0] === "key" ? keyCell(text) : el(tag, numbers.includes(index) ? { class: "number" } : {}, text);
  return el("table", {}, el("thead", {}, el("tr", {}, ...heads.map(cell("th")))), el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell("td"))))));
}

// The page.
const best = run.best ? `best checkpoint: step_${run.best.step} (${run.best.metric} ${show(run.best.value)})` : "";
page.replaceChildren(el("header", {}, el("h1", {}, `${run.algorithm}: ${run.model}`), el("div", { class: "sub" }, `on ${run.data}, in ${run.folder}`), el("div", { class: "sub" }, [run.state, best, run.run_info.started ? `began ${run.run_info.started}` : ""].filter(Boolean).join(" · "))));
const shares = new Set(run.sections.flatMap(([, panels]) => panels.filter((panel) => panel.percent).flatMap((panel) => panel.lines.map(([metric]) => metric))));
const telling = [["val_accuracy", "held-out accuracy"], ["val_reward_accuracy", "held-out pairs ranked right"], ["val_loss", "held-out loss"], ["val_reward", "held-out reward"], ["reward", "reward"], ["train_loss", "loss"], ["completion_length", "tokens per completion"], ["approx_entropy", "entropy, nats per token"], ["generation_mismatch", "generator against learner"], ["failed", "failed in the last step"], ["tokens_per_s", "tokens per second"], ["score", "score"]];
page.append(el("div", { class: "tiles" }, ...telling.filter(([metric]) => metric in run.last).slice(0, 8).map(([metric, label]) => el("div", { class: "card tile" }, el("b", {}, show(run.last[metric], shares.has(metric))), el("span", {}, label)))));
if (run.steps.length > 1) {
  const spread = run.rollouts ? run.rollouts.histograms.map((drawn) => histogram(drawn, run.rollouts.steps.map((step) => step.step))) : [];
  for (const [name, panels] of run.sections) {
    const flat = panels.filter((panel) => panel.lines.every(([metric]) => new Set(run.metrics[metric].filter((value) => value !== null).map((value) => value.toPrecision(5))).size === 1));
    const still = flat.flatMap((panel) => panel.lines.map(([metric, label]) => el("span", { class: "chip", title: panel.about || panel.unit }, `${panel.title}${label ? `, ${label}` : ""}: ${show(run.last[metric], panel.percent)}`)));
    const moving = panels.filter((panel) => !flat.includes(panel)).map(curves);
    page.append(el("h2", {}, name), el("div", { class: "charts" }, ...moving, ...spread.splice(0)));
    if (still.length) page.append(el("div", { class: "chips still" }, el("span", { class: "soft" }, "the same at every step"), ...still));
  }
}
if (run.rollouts) page.append(...browser(run.rollouts, "Rollouts"));
if (run.validation) page.append(...browser(run.validation, "Held-out samples"));
for (const [found, title] of [[run.rollouts, "What failed or was left out"], [run.validation, "What failed on held-out prompts"]]) {
  if (found && found.causes.length) page.append(el("h2", {}, title), el("div", { class: "card" }, table(["cause", "count", "for example"], found.causes.map(([cause, count, example]) => [cause, String(count), example]), [1]), el("p", { class: "soft" }, `counted at ${found.steps.length} steps`)));
}
const values = table(["metric", "last value"], Object.entries(run.last).map(([metric, value]) => [metric, String(value)]), [1]);
page.append(el("h2", {}, "Settings, numbers, versions"), el("div", { class: "two" },
  el("div", { class: "card" }, el("h3", {}, "Settings that are not the default"), run.changed.length ? table(["key", "value"], run.changed, []) : el("p", { class: "soft" }, "none"), el("details", {}, el("summary", {}, "all settings"), el("pre", {}, run.settings))),
  el("div", { class: "card" }, el("h3", {}, "Versions"), table(["", ""], Object.entries(run.run_info.versions || {}), []), run.run_info.command ? el("p", {}, el("code", {}, run.run_info.command)) : "", el("details", {}, el("summary", {}, "every metric's last value"), values))));
for (const text of run.left_out) page.append(el("p", { class: "soft" }, text));
const redraw = () => { for (const one of charts) one.redraw(); point(null); };
redraw();
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
