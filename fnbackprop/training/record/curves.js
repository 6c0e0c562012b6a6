// Redraws the curves of a report when a control is changed: smoothing, scale, steps or time. Until then, and without
// scripts, the drawings of curve_drawing.py stand. The data are in the element #curve-data: see curve_controls.py.
(() => {
  const data = JSON.parse(document.getElementById("curve-data").textContent);
  const controls = document.getElementById("curve-controls");
  const [smooth, scale, axis] = ["smooth", "scale", "axis"].map((name) => controls.elements[name]);
  const panels = [...document.querySelectorAll("[data-metric]")].map((box) => ({ box, still: box.innerHTML }));
  const [width, height, left, right, top, bottom] = [420, 210, 64, 412, 8, 172];

  const label = (value) => {
    const size = Math.abs(value);
    return size && (size >= 1e5 || size < 1e-3) ? value.toExponential(0) : String(Number(value.toPrecision(3)));
  };

  // Debiased exponential average: of the first point it is the point itself.
  function smoothed(values, weight) {
    let sum = 0, norm = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + (1 - weight) * value;
      norm = weight * norm + (1 - weight);
      return sum / norm;
    });
  }

  // The time at which a step was done, between those that are known.
  function timeOf(step, [steps, seconds]) {
    let i = steps.findIndex((known) => known >= step);
    if (i < 0) i = steps.length - 1;
    if (i === 0) return seconds[0];
    const share = (step - steps[i - 1]) / (steps[i] - steps[i - 1]);
    return seconds[i - 1] + Math.min(share, 1) * (seconds[i] - seconds[i - 1]);
  }

  function ticks(low, high, isLog) {
    if (isLog) {
      const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
      const every = Math.max(1, Math.round((to - from) / 5)), found = [];
      const within = Math.log10(high / low) > 3 ? [1] : Math.log10(high / low) > 1.5 ? [1, 3] : [1, 2, 5];
      for (let power = from; power <= to; power += every) found.push(...within.map((x) => x * 10 ** power));
      return found.filter((x) => x >= low && x <= high);
    }
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((x) => x * power >= rough), found = [];
    for (let x = Math.ceil(low / step) * step; x <= high + step / 1e6; x += step) found.push(Math.abs(x) < step / 1e6 ? 0 : x);
    return found;
  }

  function drawn(name) {
    const metric = data.metrics[name], byTime = axis.value === "time";
    const lines = metric.lines.map((line) => {
      const time = data.times[line.run];
      const x = byTime ? (time ? line.step.map((step) => timeOf(step, time)) : []) : line.step;
      return { ...line, x, y: smoothed(line.mean, Number(smooth.value)) };
    });
    const seconds = Math.max(0, ...lines.flatMap((line) => (byTime ? line.x : [])));
    const unit = byTime ? (seconds >= 7200 ? [3600, "hours"] : seconds >= 600 ? [60, "minutes"] : [1, "seconds"]) : [1, "step"];
    const all = lines.flatMap((line) => [...line.y, ...line.low, ...line.high]).filter((value) => value !== null);
    const wanted = scale.value === "fit" ? metric.log : scale.value === "log";
    const isLog = wanted && all.some((value) => value > 0);
    const shown = isLog ? all.filter((value) => value > 0) : all;
    let [low, high] = [Math.min(...shown), Math.max(...shown)];
    if (!shown.length) return `<p class="note">${metric.words}: nothing to draw</p>`;
    if (low === high) [low, high] = isLog ? [low / 2, high * 2] : [low - (Math.abs(low) || 1), high + (Math.abs(high) || 1)];
    const ends = lines.flatMap((line) => line.x);
    const [first, last] = [Math.min(...ends), Math.max(...ends)];
    const place = isLog ? Math.log : Number;
    const toX = (x) => left + ((right - left) * (x - first)) / (last - first || 1);
    const toY = (y) => bottom - ((bottom - top) * (place(Math.max(y, low)) - place(low))) / (place(high) - place(low));
    const path = (xs, ys) => {
      let pen = "M";
      return xs.map((x, i) => {
        if (ys[i] === null || ys[i] === undefined) { pen = "M"; return ""; }
        const point = `${pen}${toX(x).toFixed(1)} ${toY(ys[i]).toFixed(1)}`;
        pen = "L";
        return point;
      }).join("");
    };
    const parts = ticks(low, high, isLog).map((y) =>
      `<path d="M${left} ${toY(y)}H${right}" stroke="currentColor" opacity=".25"/>` +
      `<text x="${left - 6}" y="${toY(y) + 4}" text-anchor="end">${label(y)}</text>`);
    ticks(first / unit[0], last / unit[0], false).forEach((x) => parts.push(
      `<text x="${toX(x * unit[0])}" y="${bottom + 18}" text-anchor="middle">${label(x)}</text>`));
    lines.forEach((line, number) => {
      if (!line.x.length) return;
      const back = line.x.map((_, i) => line.x.length - 1 - i);
      const band = path(line.x, line.high) + path(back.map((i) => line.x[i]), back.map((i) => line.low[i])).replace(/^M/, "L");
      if (line.binned) parts.push(`<path d="${band}Z" fill="${line.colour}" opacity=".2"/>`);
      if (Number(smooth.value)) parts.push(`<path d="${path(line.x, line.mean)}" fill="none" stroke="${line.colour}" opacity=".3"/>`);
      parts.push(`<path d="${path(line.x, line.y)}" fill="none" stroke="${line.colour}" stroke-width="1.8"/>`);
      if (line.run) parts.push(`<text x="${right}" y="${top + 12 + 15 * number}" text-anchor="end" style="fill:${line.colour}">${line.title}</text>`);
    });
    parts.push(`<path d="M${left} ${top}V${bottom}H${right}" fill="none" stroke="currentColor"/>`);
    parts.push(`<text x="${(left + right) / 2}" y="${height - 4}" text-anchor="middle">${unit[1]}</text>`);
    parts.push(`<text transform="translate(10 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">${metric.words}</text>`);
    return `<${"svg"} viewBox="0 0 ${width} ${height}" class="drawn" font-family="system-ui, sans-serif" font-size="12" ` +
      `fill="currentColor" role="img">${parts.join("")}</svg>`;
  }

  function redraw() {
    controls.elements.weight.value = smooth.value === "0" ? "none" : smooth.value;
    const asItWas = smooth.value === "0" && scale.value === "fit" && axis.value === "step";
    panels.forEach(({ box, still }) => { box.innerHTML = asItWas ? still : drawn(box.dataset.metric); });
  }

  controls.hidden = false;
  if (!Object.keys(data.times).length) axis.disabled = true;
  controls.addEventListener("input", redraw);
  controls.addEventListener("submit", (event) => event.preventDefault());
  redraw(); // a browser keeps what was chosen when the page is loaded again
})();
