// What the questions and sliders of a page share; it stands once in its head.
// One plot of one curve: its band, its measured points, the dense model, and marks that move. 44 px of margin on the left and
// 14 on the right, which pages.css knows: a slider below it has its thumb (24 px) under the mark.
function clawPlot(svg, o) {
  const W = Math.max(280, svg.clientWidth || 640), H = Math.round(Math.min(340, Math.max(240, 0.5 * W)));
  const L = 44, R = 14, T = 26, B = 42;
  svg.setAttribute("viewBox", "0 0 " + W + " " + H);
  svg.replaceChildren();
  const inside = (v) => v !== null && v !== undefined && isFinite(v);
  const near = o.points.filter((p) => p[0] <= o.end + 1e-9), last = Math.floor(o.end / o.step + 1e-9) + 1;
  const values = near.map((p) => p[1]).concat(o.grid.mean.slice(0, last), o.dense === null ? [] : [o.dense], o.also || []).filter(inside);
  let low = Math.min(...values), high = Math.max(...values);
  const pad = 0.08 * (high - low || 1);
  low = Math.max(0, low - pad); high += pad; // neither loss nor accuracy nor speed is below zero
  if (o.most) high = Math.min(o.most, high);
  const sx = (r) => L + (W - L - R) * r / o.end, sy = (y) => H - B - (H - T - B) * (y - low) / (high - low);
  function node(name, attributes, text) {
    const e = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text !== undefined) e.textContent = text;
    svg.append(e);
    return e;
  }
  function ticks(from, to, about) {
    const rough = (to - from) / about, power = Math.pow(10, Math.floor(Math.log10(rough)));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough), at = [];
    for (let v = Math.ceil(from / step - 1e-9) * step; v <= to + 1e-9; v += step) at.push([v, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))]);
    return at;
  }
  for (const [y, digits] of ticks(low, high, 5)) {
    node("line", { x1: L, x2: W - R, y1: sy(y), y2: sy(y), style: "stroke: var(--line)" });
    node("text", { x: L - 6, y: sy(y) + 4, "text-anchor": "end" }, o.percentY ? Math.round(100 * y) + " %" : y.toFixed(digits));
  }
  for (const [r, digits] of ticks(0, o.end, W < 480 ? 5 : 8)) {
    const text = o.percentX ? Number((100 * r).toFixed(1)) + " %" : r.toFixed(digits);
    node("text", { x: sx(r), y: H - B + 17, "text-anchor": "middle" }, text);
  }
  node("text", { x: (L + W - R) / 2, y: H - 5, "text-anchor": "middle", class: "x-label" }, o.xLabel);
  node("text", { x: L, y: 14, class: "y-label" }, o.yLabel);
  const clip = "claw-clip-" + Math.random().toString(36).slice(2); // curves end at the frame
  node("clipPath", { id: clip }).append(node("rect", { x: L, y: T, width: W - L - R, height: H - T - B }));
  const cut = { "clip-path": "url(#" + clip + ")" };
  const line = (points) => points.map((p, i) => (i ? "L" : "M") + p[0].toFixed(1) + " " + p[1].toFixed(1)).join("");
  const grid = o.grid.mean.map((mean, i) => i).filter((i) => i < last && inside(o.grid.mean[i]));
  for (const [under, over, opacity] of [["run_low", "run_high", 0.12], ["low", "high", 0.28]]) {
    const known = o.grid[under] ? grid.filter((i) => inside(o.grid[under][i]) && inside(o.grid[over][i])) : [];
    if (!known.length) continue;
    const up = known.map((i) => [sx(i * o.step), sy(o.grid[over][i])]), down = known.map((i) => [sx(i * o.step), sy(o.grid[under][i])]).reverse();
    node("path", { d: line(up.concat(down)) + "Z", ...cut, class: "band", style: "fill: var(--blue)", opacity });
  }
  const shown = near.filter((p) => p[0] >= 0 && inside(p[1]) && p[1] <= high);
  const through = grid.map((i) => [i * o.step, o.grid.mean[i]]).concat(o.joined === false ? [] : shown.map((p) => [p[0], p[1]])).sort((a, b) => a[0] - b[0]);
  if (through.length) node("path", { d: line(through.map((p) => [sx(p[0]), sy(p[1])])), ...cut, class: "curve", style: "fill: none; stroke: var(--blue); stroke-width: 2" });
  const past = (o.beyond || []).filter((p) => inside(p[1]) && p[0] <= o.end), off = past.findIndex((p) => p[1] > high || p[1] < low);
  const on = (shown.length && past.length ? [shown[shown.length - 1]] : []).concat(off < 0 ? past : past.slice(0, off));
  if (on.length > 1) node("path", { d: line(on.map((p) => [sx(p[0]), sy(p[1])])), ...cut, style: "fill: none; stroke: var(--blue); stroke-width: 2; stroke-dasharray: 4 4" });
  if (o.dense !== null) {
    node("line", { x1: L, x2: W - R, y1: sy(o.dense), y2: sy(o.dense), class: "dense", style: "stroke: var(--ink); stroke-dasharray: 2 3" });
    node("text", { x: W - R, y: sy(o.dense) + (sy(o.dense) > H - B - 16 ? -5 : 14), "text-anchor": "end" }, "dense model");
  }
  const rule = node("line", { y1: T, y2: H - B, class: "rule", style: "stroke: var(--accent); stroke-width: 1.5" });
  const level = node("line", { x1: L, x2: W - R, class: "level", visibility: "hidden", style: "stroke: var(--accent); stroke-dasharray: 6 3" });
  const span = node("rect", { y: T, height: H - T - B, class: "span", visibility: "hidden", opacity: 0.18, style: "fill: var(--accent)" });
  for (const p of shown) {
    const dot = node("circle", { cx: sx(p[0]), cy: sy(p[1]), r: 4.5, class: "measured", style: "fill: var(--paper); stroke: var(--ink); stroke-width: 1.5" });
    dot.append(Object.assign(document.createElementNS("http://www.w3.org/2000/svg", "title"), { textContent: o.say(p) }));
  }
  const mark = node("circle", { r: 6, class: "mark", style: "fill: var(--accent)" });
  svg.onpointermove = svg.onpointerdown = (event) => { // the measured point nearest to the finger, in words
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * W / box.width;
    if (shown.length) o.readout(o.say(shown.reduce((a, b) => (Math.abs(sx(b[0]) - x) < Math.abs(sx(a[0]) - x) ? b : a))));
  };
  return {
    move(r, y) {
      rule.setAttribute("x1", sx(r)); rule.setAttribute("x2", sx(r));
      mark.setAttribute("visibility", inside(y) && y <= high && y >= low ? "visible" : "hidden");
      if (inside(y)) { mark.setAttribute("cx", sx(r)); mark.setAttribute("cy", sy(y)); }
    },
    accept(y, from, to) {
      level.setAttribute("visibility", y <= high && y >= low ? "visible" : "hidden");
      level.setAttribute("y1", sy(y)); level.setAttribute("y2", sy(y));
      span.setAttribute("visibility", "visible");
      span.setAttribute("x", sx(from)); span.setAttribute("width", Math.max(0, sx(Math.min(to, o.end)) - sx(from)));
    },
  };
}
function clawResized(root, draw) { // again when its width changes, as when a phone is turned or a fold opens
  let width = 0;
  new ResizeObserver(() => { const now = Math.round(root.clientWidth); if (now && now !== width) { width = now; draw(); } }).observe(root);
}
function clawBetween(pairs, r) { // between the points of pairs; null beyond them
  if (!pairs.length || r < pairs[0][0] - 1e-9 || r > pairs[pairs.length - 1][0] + 1e-9) return null;
  const next = pairs.findIndex((p) => p[0] >= r - 1e-9), b = pairs[next], a = pairs[Math.max(0, next - 1)];
  return b[0] - a[0] < 1e-9 ? b[1] : a[1] + (b[1] - a[1]) * Math.min(1, Math.max(0, (r - a[0]) / (b[0] - a[0])));
}
function clawFill(select, values, label) { // other options, the chosen one kept where it still is one
  const before = select.value;
  select.replaceChildren(...values.map((v) => new Option(label ? label(v) : v, v)));
  if (values.includes(before)) select.value = before;
}
function clawTable(table, rows) { // the first row is the head
  table.replaceChildren(...rows.map((cells, i) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text) => Object.assign(document.createElement(i ? "td" : "th"), { textContent: text })));
    return row;
  }));
}
const clawUnique = (values) => [...new Set(values)];
const clawTokens = (t) => (t ? (t >= 1e9 ? t / 1e9 + "G" : t >= 1e6 ? t / 1e6 + "M" : t >= 1e3 ? t / 1e3 + "k" : t) + " tokens" : "none");
