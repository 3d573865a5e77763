// Linked histograms over one block of bin codes: a brush filters all others here, without a word to the kernel.
//
// The block holds the score of every row as Float64, best row first (a row's place is its rank), then one column of
// Uint8 codes after the other: the number of a bin or of a name; 255 says that the row has no value there.
// What the kernel is told, once a pointer lets go: which codes are brushed, and the cut. It answers with the selection
// as text. Names and texts of others pass through textContent and fillText alone.

const NONE = 255;
const count = (n) => n.toLocaleString("en-US");
const percent = (x) => (100 * x).toFixed(1) + " %";

function make(parent, tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = "arislab-" + name;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function crossfilter(model) {
  const { n, scored, columns, by } = model.get("about");
  const view = model.get("block");
  const start = view.byteOffset;
  const score = new Float64Array(view.buffer.slice(start, start + 8 * n));
  const bytes = new Uint8Array(view.buffer, start + 8 * n, n * columns.length);
  const codes = columns.map((_, i) => bytes.subarray(i * n, (i + 1) * n));
  const miss = new Uint32Array(n); // one bit for each brush that does not hold the row
  const fresh = () => columns.map(() => new Uint32Array(256));
  const held = fresh(), kept = fresh(), all = fresh();
  codes.forEach((column, c) => { for (let i = 0; i < n; i++) all[c][column[i]]++; });

  function first(below) { // of the scored rows, which stand from the best to the worst
    let low = 0, high = scored;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (below(score[middle])) high = middle; else low = middle + 1;
    }
    return low;
  }

  function recount(brushes, cut) {
    miss.fill(0);
    columns.forEach((column, c) => {
      const brush = brushes[column.name];
      if (!brush) return;
      const out = new Uint32Array(256).fill(1 << c), own = codes[c];
      if (column.edges) out.fill(0, brush[0], brush[1] + 1); else for (const code of brush) out[code] = 0;
      for (let i = 0; i < n; i++) miss[i] |= out[own[i]];
    });
    let nHeld = 0, nScored = 0;
    for (let i = 0; i < scored; i++) if (miss[i] === 0) nScored++;
    nHeld = nScored;
    for (let i = scored; i < n; i++) if (miss[i] === 0) nHeld++;
    let end = 0, nKept = 0, threshold = cut.threshold, last = -1; // of the rows before end, those held are kept
    if (cut.rule === "top") {
      const wanted = Math.ceil(Math.round(cut.fraction * nScored * 1e9) / 1e9); // as selection.n_top
      for (; end < scored && nKept < wanted; end++) if (miss[end] === 0) { nKept++; last = end; }
      threshold = last < 0 ? null : score[last];
    } else {
      end = first((value) => value < threshold);
      for (let i = 0; i < end; i++) if (miss[i] === 0) nKept++;
    }
    let ties = 0, tiesKept = 0;
    if (threshold !== null) {
      for (let i = first((v) => v <= threshold); i < scored && score[i] === threshold; i++) {
        if (miss[i] === 0) { ties++; if (i < end) tiesKept++; }
      }
    }
    columns.forEach((_, c) => {
      const own = codes[c], others = ~(1 << c), inside = held[c], stay = kept[c];
      inside.fill(0);
      stay.fill(0);
      for (let i = 0; i < end; i++) {
        if ((miss[i] & others) === 0) { inside[own[i]]++; if (miss[i] === 0) stay[own[i]]++; }
      }
      for (let i = end; i < n; i++) if ((miss[i] & others) === 0) inside[own[i]]++;
    });
    return { nHeld, nScored, nKept, threshold, ties, tiesKept };
  }
  return { n, by, columns, all, held, kept, recount };
}

// ---- one picture a column

function histogram(parent, data, c, act) {
  const column = data.columns[c], isNumber = Boolean(column.edges), isBy = column.name === data.by;
  const box = make(parent, "figure", isBy ? "by" : "");
  const title = make(box, "figcaption", "", column.name);
  const small = make(title, "small");
  const place = make(box, "div", "place");
  const canvas = make(place, "canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "group");
  const keys = "arrows choose a bar, Shift extends, Enter shows its rows, Escape clears";
  canvas.setAttribute("aria-label", `${column.name}: ${keys}`);
  canvas.title = keys;
  const handle = isBy ? make(place, "div", "handle") : null;
  const n = isNumber ? column.edges.length - 1 : column.names.length;
  const left = isNumber ? 42 : 128, right = isNumber ? 10 : 46, top = 10, bottom = isNumber ? 18 : 4;
  const height = isNumber ? (isBy ? 170 : 110) : n * 17 + top + bottom;
  let width = 300, anchor = null;
  const span = () => width - left - right;
  const codeAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const share = isNumber ? (event.clientX - box.left - left) / span() : (event.clientY - box.top - top) / (n * 17);
    return Math.max(0, Math.min(n - 1, Math.floor(share * n)));
  };
  const value = (event) => {
    const low = column.edges[0], high = column.edges[n], rect = canvas.getBoundingClientRect();
    const x = low + (high - low) * (event.clientX - rect.left - left) / span();
    return Math.round(Math.max(low, Math.min(high, x)) * 1000) / 1000;
  };
  const xOf = (v) => left + span() * (v - column.edges[0]) / (column.edges[n] - column.edges[0]);

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    const code = codeAt(event), before = act.brush(column.name);
    if (isNumber) {
      anchor = code;
      act.change(column.name, [code, code]);
    } else {
      const more = event.shiftKey || event.ctrlKey || event.metaKey;
      let chosen = more && before ? [...before] : [];
      if (before && before.includes(code) && (more || before.length === 1)) chosen = chosen.filter((k) => k !== code);
      else chosen.push(code);
      act.change(column.name, chosen.length ? chosen : null);
      anchor = code;
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (anchor === null || !isNumber) return;
    const code = codeAt(event);
    act.change(column.name, [Math.min(anchor, code), Math.max(anchor, code)]);
  });
  const letGo = (isClick) => {
    if (anchor === null) return;
    anchor = null;
    act.settle(isClick);
  };
  canvas.addEventListener("pointerup", (event) => letGo(!isNumber || codeAt(event) === anchor));
  canvas.addEventListener("pointercancel", () => letGo(false));
  canvas.addEventListener("dblclick", () => { act.change(column.name, null); act.settle(false); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const now = act.brush(column.name);
    if (step) {
      const [low, high] = !now ? [step > 0 ? -1 : n, step > 0 ? -1 : n] : isNumber ? now : [now[0], now[now.length - 1]];
      const next = Math.max(0, Math.min(n - 1, (step > 0 ? high : low) + step));
      if (!isNumber) act.change(column.name, [next]);
      else if (event.shiftKey && now) act.change(column.name, [Math.min(low, next), Math.max(high, next)]);
      else act.change(column.name, [next, next]);
      act.settle(false);
    } else if (event.key === "Escape" && now) {
      act.change(column.name, null);
      act.settle(false);
    } else if (event.key === "Enter") act.settle(true);
    else return;
    event.preventDefault();
  });
  if (handle) {
    handle.tabIndex = 0;
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", `cut of ${column.name}`);
    handle.setAttribute("aria-valuemin", column.edges[0]);
    handle.setAttribute("aria-valuemax", column.edges[n]);
    handle.title = "drag the cut, or move it with the arrow keys (Shift: finer)";
    handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) act.cut(value(event)); });
    handle.addEventListener("lostpointercapture", () => act.settle(false));
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!step) return;
      const size = (column.edges[n] - column.edges[0]) / (event.shiftKey ? 1000 : 100);
      const to = (act.now().threshold ?? column.edges[n]) + step * size;
      act.cut(Math.round(Math.max(column.edges[0], Math.min(column.edges[n], to)) * 1000) / 1000);
      act.settle(false);
      event.preventDefault();
    });
  }

  function outline(pen, counts, most, color, dash) {
    pen.strokeStyle = color;
    pen.setLineDash(dash);
    pen.beginPath();
    pen.moveTo(left, height - bottom);
    for (let k = 0; k < n; k++) {
      const y = height - bottom - (height - top - bottom) * counts[k] / most;
      pen.lineTo(left + span() * k / n, y);
      pen.lineTo(left + span() * (k + 1) / n, y);
    }
    pen.lineTo(left + span(), height - bottom);
    pen.stroke();
    pen.setLineDash([]);
  }

  function numbers(pen, color, now, brush) {
    const inside = data.held[c], stay = data.kept[c], other = column.before === undefined ? null : data.held[column.before];
    let most = 1, mostOfAll = 1;
    for (let k = 0; k < n; k++) {
      most = Math.max(most, inside[k], other ? other[k] : 0);
      mostOfAll = Math.max(mostOfAll, data.all[c][k]);
    }
    const base = height - bottom, unit = (base - top) / most, wide = span() / n;
    if (brush) {
      pen.fillStyle = color.brush;
      pen.fillRect(left + brush[0] * wide, top, (brush[1] - brush[0] + 1) * wide, base - top);
    }
    pen.fillStyle = color.dropped;
    for (let k = 0; k < n; k++) {
      pen.globalAlpha = brush && (k < brush[0] || k > brush[1]) ? 0.45 : 1; // what its own brush leaves out
      pen.fillRect(left + k * wide, base - inside[k] * unit, wide - 1, inside[k] * unit);
    }
    pen.globalAlpha = 1;
    pen.fillStyle = color.kept;
    for (let k = 0; k < n; k++) pen.fillRect(left + k * wide, base - stay[k] * unit, wide - 1, stay[k] * unit);
    outline(pen, data.all[c], mostOfAll, color.dim, []);
    if (other) outline(pen, other, most, color.before, [4, 3]);
    pen.fillStyle = color.dim;
    pen.textAlign = "right";
    pen.fillText(count(most), left - 4, top + 8);
    pen.fillText("0", left - 4, base);
    const parts = width > 260 ? (n % 5 ? 4 : 5) : 2;
    for (let part = 0; part <= parts; part++) {
      const k = Math.round(part * n / parts), last = k === n;
      pen.textAlign = k === 0 ? "left" : last ? "right" : "center";
      pen.fillText(column.edges[k].toLocaleString("en-US") + (last && column.open ? "+" : ""), left + k * wide, height - 4);
    }
    if (isBy) {
      const x = now.threshold === null ? left + span() : xOf(now.threshold);
      pen.fillStyle = color.text;
      pen.fillRect(x - 0.75, top - 6, 1.5, base - top + 6);
      handle.style.left = `${x - 8}px`;
      handle.setAttribute("aria-valuenow", now.threshold ?? "");
      handle.setAttribute("aria-valuetext", act.words());
    }
  }

  function names(pen, color, brush) {
    const inside = data.held[c], stay = data.kept[c];
    let sum = 0, sumKept = 0, most = 0.001;
    for (let k = 0; k < 256; k++) { sum += inside[k]; sumKept += stay[k]; }
    const share = (of, total) => total ? of / total : 0;
    for (let k = 0; k < n; k++) most = Math.max(most, share(inside[k], sum), share(stay[k], sumKept));
    for (let k = 0; k < n; k++) {
      const y = top + k * 17, before = share(inside[k], sum), after = share(stay[k], sumKept);
      if (brush && brush.includes(k)) {
        pen.fillStyle = color.brush;
        pen.fillRect(0, y, width, 16);
      }
      pen.fillStyle = color.dropped;
      pen.fillRect(left, y + 1, span() * before / most, 7);
      pen.fillStyle = color.kept;
      pen.fillRect(left, y + 8, span() * after / most, 7);
      pen.fillStyle = color.text;
      pen.textAlign = "left";
      const name = column.names[k];
      pen.fillText(name.length > 19 ? name.slice(0, 18) + "…" : name, 2, y + 12, left - 8);
      pen.fillStyle = color.dim;
      pen.fillText(percent(after), left + span() + 4, y + 12, right - 4);
    }
  }

  return {
    box,
    draw(color, now) {
      const pen = canvas.getContext("2d"), dots = window.devicePixelRatio || 1, brush = act.brush(column.name);
      pen.setTransform(dots, 0, 0, dots, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.font = "11px system-ui, sans-serif";
      if (isNumber) numbers(pen, color, now, brush); else names(pen, color, brush);
      const none = data.held[c][NONE];
      small.textContent = `n ${count(now.nHeld)}` + (none ? `, ${count(none)} without` : "");
    },
    resize() {
      const dots = window.devicePixelRatio || 1;
      width = place.clientWidth || width; // a notebook takes what is scrolled away out of its page
      canvas.width = Math.round(width * dots);
      canvas.height = Math.round(height * dots);
      canvas.style.height = height + "px";
    },
  };
}

// ---- the rows behind a selection

function text(parent, name, parts) {
  const node = make(parent, "pre", name);
  node.dir = "auto";
  node.tabIndex = 0;
  for (const [part, isUnseen] of parts) if (isUnseen) make(node, "mark", "", part); else node.append(part);
}

function page(parent, answer, turn) {
  parent.replaceChildren();
  if (!answer) return;
  const { rows, n, first } = answer;
  const head = make(parent, "div", "pager");
  const last = first + rows.length;
  make(head, "b", "", n ? `rows ${count(first + 1)} to ${count(last)} of ${count(n)}, best first` : "no row is held");
  const back = make(head, "button", "", "previous"), next = make(head, "button", "", "next");
  back.disabled = first === 0;
  next.disabled = last >= n;
  back.addEventListener("click", () => turn(Math.max(0, first - answer.size)));
  next.addEventListener("click", () => turn(last));
  for (const row of rows) {
    const card = make(parent, "article", row.kept ? "kept" : "");
    const line = make(card, "header");
    for (const fact of row.facts) make(line, "span", "", fact);
    if (row.why.length) text(card, "why", row.why);
    const pair = make(card, "div", "texts");
    for (const [title, parts] of row.texts) {
      const part = make(pair, "section");
      make(part, "h4", "", title);
      text(part, "", parts);
    }
  }
}

// ---- all of it

function render({ model, el }) {
  const data = crossfilter(model);
  const root = make(el, "div", "explorer");
  root.dataset.lmSuppressShortcuts = "true"; // else a key meant for a bar deletes the cell in JupyterLab
  root.addEventListener("keydown", (event) => event.stopPropagation());
  const state = structuredClone(model.get("state"));
  let now = null, frame = 0, isMoving = false, told = model.get("told"), color = {}, sizes = true;

  make(root, "h3", "", model.get("about").title);
  const bar = make(root, "div", "bar");
  const field = (before, after, attributes) => {
    const label = make(bar, "label", "", before);
    const input = make(label, "input");
    Object.assign(input, { type: "number", ...attributes });
    label.append(after);
    return input;
  };
  const fraction = field("keep the best ", " %", { min: 0.1, max: 100, step: 0.1 });
  const threshold = field("or all from ", "", { step: 0.001 });
  const clear = make(bar, "button", "", "clear brushes");
  const account = make(root, "p", "account"), worth = make(root, "p", "worth"), moved = make(root, "p", "worth");
  const key = make(root, "p", "key");
  const before = model.get("about").before;
  for (const [name, words] of [["kept", "kept"], ["dropped", "held, not kept"],
    ["line", "outline: all rows, to their own scale"], ...(before ? [["before", before]] : [])]) {
    const entry = make(key, "span");
    make(entry, "i", name);
    entry.append(words);
  }
  const grid = make(root, "div", "grid");

  const words = () => `kept ${count(now.nKept)} of ${count(now.nScored)} scored rows`
    + ` (${percent(now.nScored ? now.nKept / now.nScored : 0)})`
    + (now.threshold === null ? "" : `; cut at ${Number(now.threshold.toPrecision(4))}; ${count(now.ties)} lie exactly there`
      + `, ${count(now.tiesKept)} of them kept`)
    + `; ${count(now.nHeld - now.nScored)} unscored`;
  const act = {
    now: () => now,
    words,
    brush: (name) => state.brushes[name],
    change(name, brush) {
      isMoving = true;
      if (brush) state.brushes[name] = brush; else delete state.brushes[name];
      schedule();
    },
    cut(value) { isMoving = true; Object.assign(state.cut, { rule: "above", threshold: value }); schedule(); },
    settle(isClick) {
      isMoving = false;
      state.seq += 1;
      model.set("state", structuredClone(state));
      model.save_changes();
      if (isClick) ask(0); else page(list, null);
    },
  };
  const pictures = data.columns.map((column, c) => column.hidden ? null : histogram(grid, data, c, act)).filter(Boolean);

  const chosen = make(root, "div", "chosen");
  const selection = make(chosen, "code", "selection"), command = make(chosen, "code", "command");
  const buttons = make(root, "div", "bar");
  const show = make(buttons, "button", "", "show rows"), review = make(buttons, "button", "", "review these");
  const notice = make(buttons, "span", "notice");
  notice.setAttribute("role", "status");
  const list = make(root, "div", "rows");
  const ask = (first) => model.send({ kind: "rows", first });
  show.addEventListener("click", () => ask(0));
  review.addEventListener("click", () => model.send({ kind: "review" }));
  clear.addEventListener("click", () => { state.brushes = {}; schedule(); act.settle(false); });
  fraction.addEventListener("change", () => {
    const value = Number(fraction.value) / 100;
    if (value > 0 && value <= 1) { Object.assign(state.cut, { rule: "top", fraction: value }); schedule(); act.settle(false); }
  });
  threshold.addEventListener("change", () => {
    const value = Number(threshold.value);
    if (threshold.value !== "" && Number.isFinite(value)) { act.cut(value); act.settle(false); }
  });

  function precise() { // while something is dragged: the nearest of the cuts that the kernel has worked out before
    const { labels, curve } = model.get("about");
    if (told.seq === state.seq && !isMoving) return told.worth;
    if (!curve.length) return labels;
    if (Object.keys(state.brushes).length) return "estimated precision: …";
    const near = curve.reduce((a, b) => Math.abs(b[0] - now.nKept) < Math.abs(a[0] - now.nKept) ? b : a);
    const [kept, mean, low, high, n] = near;
    return n ? `estimated precision of the best ${count(kept)}: ${mean.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}], n ${count(n)} labels`
      : `estimated precision of the best ${count(kept)}: no label says it`;
  }

  function draw() {
    frame = 0;
    if (sizes) {
      const style = getComputedStyle(root), read = (name) => style.getPropertyValue("--ar-" + name).trim();
      color = Object.fromEntries(["text", "dim", "kept", "dropped", "before", "brush"].map((name) => [name, read(name)]));
      for (const picture of pictures) picture.resize();
      sizes = false;
    }
    now = data.recount(state.brushes, state.cut);
    for (const picture of pictures) picture.draw(color, now);
    account.textContent = words();
    worth.textContent = precise();
    if (document.activeElement !== fraction) fraction.value = state.cut.rule === "top" ? +(100 * state.cut.fraction).toFixed(3) : "";
    if (document.activeElement !== threshold) threshold.value = state.cut.rule === "above" ? state.cut.threshold : "";
  }
  function schedule() { if (!frame) frame = requestAnimationFrame(draw); }
  function again() { sizes = true; schedule(); }
  function tell() {
    told = model.get("told");
    selection.textContent = told.selection || "(no brush: every row)";
    command.textContent = told.command;
    moved.textContent = told.moved;
    notice.textContent = "";
    schedule();
    if (now && told.seq === state.seq) worth.textContent = told.worth;
  }
  function answer(message) {
    if (message.kind === "rows") page(list, message, ask);
    if (message.kind === "review") {
      notice.textContent = message.notice;
      navigator.clipboard?.writeText(message.text).catch(() => {}); // where a page may not, the text stands there
    }
  }
  model.on("change:told", tell);
  model.on("msg:custom", answer);
  const size = new ResizeObserver(again);
  size.observe(root);
  const theme = new MutationObserver(again);
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-theme"] });
  tell();
  return () => {
    cancelAnimationFrame(frame);
    size.disconnect();
    theme.disconnect();
    model.off("change:told", tell);
    model.off("msg:custom", answer);
  };
}

export default { render };
