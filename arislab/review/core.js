// The review panel in the browser: a key a decision.
//
// A decision goes into the outbox (localStorage, one entry an event), then to the kernel, and leaves it when the
// kernel says that it is on its disk; until then it is sent again, by this page or the next. Texts of others come in
// parts and pass through textContent alone; formatted text comes as a tree of elements that the kernel chose.

const AHEAD = 50, BEHIND = 20, LONG = 20000, PATIENCE = 3000, AGAIN = 30000;
const VERDICTS = ["approve", "reject", "edit", "skip", "left", "right", "tie"];

function make(parent, tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = "arislab-" + name;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const on = (node, type, call) => node.addEventListener(type, call);

function tell(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

const eventName = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
const digits = new Intl.NumberFormat("en-US"), count = (n, word) => digits.format(n) + " " + word;
const plain = (parts) => parts.map(([text, isMark]) => (isMark ? String.fromCodePoint(parseInt(text.slice(2), 16)) : text)).join("");

// ---- the outbox

function makeOutbox(prefix) {
  const waiting = new Map(), earlier = [];
  let store = null, isFull = false, last = 0;
  try {
    localStorage.setItem(prefix + "try", "1");
    localStorage.removeItem(prefix + "try");
    store = localStorage;
  } catch { /* denied */ }
  for (let i = 0; store && i < store.length; i++) {
    const key = store.key(i);
    if (!key.startsWith(prefix + "event:")) continue;
    try { earlier.push(JSON.parse(store.getItem(key))); } catch { /* not by this panel */ }
  }
  const wait = (event, since) => waiting.set(event.event_id, { event, since, sent: -Infinity, tries: 0 });
  earlier.sort((a, b) => a.client_seq - b.client_seq).forEach((event) => wait({ id: event.custom_id, ...event }, -Infinity));
  const keep = (key, text) => {
    if (!store) return false;
    try { store.setItem(prefix + key, text); return true; } catch { return false; }
  };
  const read = (key) => (store ? store.getItem(prefix + key) : null);
  const drop = (key) => { if (store) store.removeItem(prefix + key); };
  const stream = read("stream") ?? eventName(); // in which client_seq counts
  keep("stream", stream);
  return {
    waiting, keep, read, drop, stream,
    number() {
      last = Math.max(last, Number(read("seq")) || 0) + 1;
      keep("seq", String(last));
      return last;
    },
    add(event) {
      wait(event, performance.now());
      if (!keep("event:" + event.event_id, JSON.stringify(event))) isFull = true;
    },
    done(id) {
      waiting.delete(id);
      drop("event:" + id);
      if (!waiting.size) isFull = false;
    },
    get where() { return !store ? "denied" : isFull ? "full" : "kept"; },
  };
}

// ---- texts

function put(node, parts, isJson) {
  node.textContent = "";
  let left = LONG, rest = [];
  for (const [text, isMark] of parts) {
    if (left <= 0) rest.push([text, isMark]);
    else if (!isMark && text.length > left) {
      const at = left - (/[\ud800-\udbff]/.test(text[left - 1]) ? 1 : 0); // not between the halves of one character
      putPart(node, text.slice(0, at), false, isJson);
      rest.push([text.slice(at), false]);
      left = 0;
    } else {
      putPart(node, text, isMark, isJson);
      left -= text.length;
    }
  }
  if (!rest.length) return;
  const more = make(node, "button", "more", `show the other ${count(rest.reduce((n, [text]) => n + text.length, 0), "characters")}`);
  on(more, "click", () => {
    more.remove();
    rest.forEach(([text, isMark]) => putPart(node, text, isMark, isJson));
  });
}

function putPart(node, text, isMark, isJson) {
  if (isMark) { make(node, "mark", "", text); return; }
  let end = 0;
  if (isJson) {
    for (const found of text.matchAll(/^( *)("(?:[^"\\]|\\.)*")(?=: )/gm)) {
      const at = found.index + found[1].length;
      node.append(text.slice(end, at));
      make(node, "b", "", found[2]);
      end = at + found[2].length;
    }
  }
  node.append(text.slice(end));
}

function grow(parent, tree) {
  for (const one of tree) {
    if (typeof one === "string") { parent.append(one); continue; }
    const [tag, inside, address] = one;
    const node = make(parent, tag);
    if (address) Object.assign(node, { href: address, title: address, target: "_blank", rel: "noopener noreferrer" });
    grow(node, inside);
  }
}

// ---- the panel

function render({ model, el }) {
  const about = model.get("about"), { texts } = about;
  const rows = new Map(), marks = new Map(), reasons = new Map();
  let order = [], decided = new Map(), trail = [], counts = { total: 0, decided: 0, skipped: 0, left: 0 };
  const boxes = new Map(), boxOf = (id) => [...boxes.values()].find((one) => one.waiting.has(id)) ?? box;
  const unsaved = () => [...boxes.values()].flatMap((one) => [...one.waiting.values()]);
  let reviewer = "", box = null, asked = 0, current = null, wanted = null, mode = "wait", extra = "", criterion = 0;
  let shownAt = 0, seen = 0, isAsked = false, isAll = false, isMarkdown = false, isDiff = false, failure = "";

  const root = make(el, "div", "core");
  root.tabIndex = 0;
  tell(root, { role: "application", "aria-label": texts.panel, "data-lm-suppress-shortcuts": "true" });
  const top = make(root, "div", "progress"), bar = make(make(top, "div", "bar"), "i"), said = make(top, "span", "counts");
  const saved = make(top, "span", "saved");
  tell(saved, { role: "status", "aria-live": "polite" });
  const head = make(root, "header"), title = make(head, "b"), chips = make(head, "span", "chips");
  const body = make(root, "div", "pair"), panes = {};
  for (const [name, label] of [["input", "Input"], ["left", "Left"], ["output", "Output"], ["right", "Right"]]) {
    const section = make(body, "section", name), heading = make(section, "h4", "", label), small = make(heading, "small");
    const text = make(section, "pre");
    text.tabIndex = 0;
    tell(text, { dir: "auto", "aria-label": label });
    panes[name] = { section, heading, small, text };
  }
  const { output } = panes, viewer = make(output.heading, "button", "view"), formatted = make(output.section, "div", "markdown");
  const field = make(output.section, "textarea"), diff = make(output.section, "pre", "diff");
  tell(formatted, { dir: "auto" });
  tell(field, { dir: "auto", "aria-label": "Edited output" });
  tell(diff, { dir: "auto", "aria-label": "What the edit changes" });
  const labelRow = make(root, "div", "labels"), ratingRow = make(root, "div", "ratings"), actions = make(root, "div", "actions");
  const notice = make(root, "div", "notice"), aside = make(root, "aside");
  tell(notice, { role: "alert" });

  const labelButtons = about.labels.map((label, i) => {
    const button = make(labelRow, "button", "label", i < 9 ? `${i + 1} ${label}` : label);
    on(button, "click", () => toggle(label));
    return [label, button];
  });
  const criteria = about.criteria.map(([name, meaning], i) => {
    const group = make(ratingRow, "span", "criterion");
    group.title = meaning;
    tell(group, { role: "radiogroup", "aria-label": `${name}: ${meaning}` });
    make(group, "span", "", name);
    return { name, group, buttons: [1, 2, 3, 4, 5].map((value) => {
      const button = make(group, "button", "rate", String(value));
      tell(button, { role: "radio" });
      on(button, "click", () => { criterion = i; rate(value); });
      return button;
    }) };
  });
  const category = make(ratingRow, "button", "category");
  on(category, "click", () => open("category"));
  const note = make(ratingRow, "input", "note");
  tell(note, { dir: "auto", placeholder: "note (n)", "aria-label": "Note" });
  on(note, "input", () => { if (current) markOf(current).note = note.value; });

  const buttons = {}, ACTIONS = {
    edit,
    reject: () => (mode === "reason" || (current !== null && markOf(current).labels.size) ? settle("reject") : reject()),
    save, cancel: leave, flag, undo, guide: () => open("guide"), help: () => open("help"),
  };
  for (const [name, label, tip] of about.actions) {
    buttons[name] = make(actions, "button", name, label);
    buttons[name].title = tip;
    on(buttons[name], "click", ACTIONS[name] ?? (() => settle(name)));
  }

  const focus = () => root.focus({ preventScroll: true });
  const now = () => performance.now();
  const row = () => rows.get(current);
  const isOpen = (id) => !decided.has(id);
  const nOpen = () => order.filter(isOpen).length;
  const send = (message) => { try { model.send(message); } catch { /* no kernel: the outbox says so */ } };
  function hello() { asked = now(); send({ kind: "hello" }); }
  function markOf(id) {
    if (!marks.has(id)) marks.set(id, { labels: new Set(), ratings: {}, category: null, note: "" });
    return marks.get(id);
  }
  function say(text, isError) {
    notice.textContent = text;
    notice.classList.toggle("error", Boolean(isError));
  }
  function take(items, isFirst) {
    for (const item of items) {
      rows.set(item.id, item);
      if (!order.includes(item.id)) order[isFirst ? "unshift" : "push"](item.id);
    }
  }
  function trim() {
    const behind = order.filter((id) => !isOpen(id) && id !== current);
    for (const id of behind.slice(0, -BEHIND)) {
      order.splice(order.indexOf(id), 1);
      rows.delete(id);
      marks.delete(id);
    }
    ask();
  }
  function ask() { // at the end from time to time: others may leave what they hold
    const n = nOpen(), isTooSoon = (isAsked || isAll) && now() - asked < AGAIN;
    if (isTooSoon || !reviewer || (isAll ? counts.left <= n : n > AHEAD / 2)) return;
    isAsked = true;
    asked = now();
    send({ kind: "more", n: AHEAD - n });
  }
  const next = () => order.slice(order.indexOf(current) + 1).find(isOpen) ?? order.find(isOpen) ?? null;
  function show(id) {
    current = id;
    mode = "look";
    isDiff = false;
    criterion = 0;
    shownAt = seen = 0;
    if (id !== null) {
      shownAt = now();
      const reason = reasons.get(id);
      say(reason ? `${texts.refused} ${reason}` : "", Boolean(reason));
    }
    paint();
  }

  // actions

  function ready() {
    if (!reviewer) say(texts.name, true);
    else if (current !== null && now() - shownAt < about.dwell_ms) say(texts.early);
    else return current !== null;
    return false;
  }
  function decide(decision, more) {
    const item = rows.get(more?.id ?? current), mark = marks.get(item?.id) ?? markOf(current ?? "");
    const isMarked = !/undo|flag/.test(decision);
    const event = {
      event_id: eventName(), client_seq: box.number(), stream: box.stream, id: item?.id, custom_id: item?.custom_id, decision,
      shown_sha256: item?.shown ?? null, asked_sha256: item?.asked ?? null, queue: item?.queue ?? null,
      labels: isMarked ? [...mark.labels] : [], ratings: isMarked ? { ...mark.ratings } : {},
      category: isMarked ? mark.category : null, note: isMarked && mark.note ? mark.note : null,
      shown_at: new Date(Date.now() - (now() - shownAt)).toISOString(), decided_at: new Date().toISOString(),
      dwell_ms: Math.round(dwell()), edited_output: null, undoes: null, ...more,
    };
    if (isMarked) mark.labels.clear(); // they belong to this decision, not to the next one about the same output
    apply(event);
    box.add(event);
    flush();
    return event;
  }
  function apply(event) {
    const { id } = event, before = decided.get(id);
    if (event.decision === "undo") trail = trail.filter((one) => one.event_id !== event.undoes);
    else trail.push(event);
    const verdict = trail.findLast((one) => one.id === id && VERDICTS.includes(one.decision));
    if (verdict) decided.set(id, verdict); else decided.delete(id);
    for (const [one, by] of [[before, -1], [verdict, 1]]) {
      if (!one) continue;
      counts[one.decision === "skip" ? "skipped" : "decided"] += by;
      counts.left -= by;
    }
  }
  function settle(decision, more) {
    if (!ready()) return;
    decide(decision, more);
    reasons.delete(current);
    show(next());
    trim();
  }
  function reject() {
    if (!about.labels.length) { settle("reject"); return; }
    if (!ready()) return;
    mode = "reason";
    say(texts.why);
    paintMarks();
  }
  function flag() {
    if (!ready()) return;
    decide("flag");
    say(texts.flagged);
    paintTop();
  }
  function undo() {
    const last = trail[trail.length - 1];
    if (!last) { say(texts[reviewer ? "nothing" : "name"]); return; }
    const { id, custom_id, queue } = last;
    decide("undo", { id, custom_id, queue, undoes: last.event_id });
    if (rows.has(id)) show(id);
    else want(id);
    say(`Took back: ${last.decision}.`);
    if (!trail.length) hello(); // the browser may not know earlier ones
  }
  function want(id) {
    wanted = id;
    send({ kind: "row", id });
    paintTop();
  }
  function rate(value) {
    if (current === null || !criteria.length) return;
    const { ratings } = markOf(current), { name } = criteria[criterion];
    if (ratings[name] === value) delete ratings[name]; else ratings[name] = value;
    criterion = (criterion + 1) % criteria.length;
    paintMarks();
  }
  function toggle(label) {
    if (current === null) return;
    const { labels } = markOf(current);
    if (mode === "reason") {
      labels.add(label);
      settle("reject");
    } else if (!labels.delete(label)) labels.add(label);
    paintMarks();
  }
  function edit() {
    const item = row();
    if (!item || item.kind === "pair" || !ready()) return;
    const before = item.edit ?? plain(item.output);
    field.value = box.read("draft:" + current) ?? before;
    mode = "edit";
    const names = new Set(item.output.filter(([, isMark]) => isMark).map(([text]) => text));
    say(names.size ? `${texts.hidden} ${[...names].join(", ")}` : "");
    paintMode();
    field.focus();
    paintDiff();
  }
  function draft() {
    if (mode === "edit") box.keep("draft:" + current, field.value);
  }
  function leave() {
    draft();
    mode = "look";
    extra = "";
    say("");
    focus();
    paintMode();
    paintMarks();
    paintExtra();
  }
  function save() {
    const item = row(), text = field.value; // the kernel checks the rest, and sends back what is no edit
    if (item.form === "JSON") {
      try { JSON.parse(text); } catch (error) { say(`${texts.json} ${error.message}`, true); return; }
    }
    draft();
    focus();
    settle("edit", { edited_output: text });
  }
  function move(by) {
    const at = order.indexOf(current) + by;
    const to = current !== null ? order[at] : by < 0 ? order[order.length - 1] : undefined;
    if (to !== undefined) show(to);
  }
  function open(what) {
    extra = extra === what ? "" : what;
    if (extra === "category" && current === null) extra = "";
    if (extra === "category" && !about.categories.length) { extra = ""; say(texts.categories); return; }
    paintExtra();
  }
  function choose(i) {
    if (current === null || !about.categories[i]) return;
    const mark = markOf(current), name = about.categories[i];
    mark.category = mark.category === name ? null : name;
    extra = "";
    paintExtra();
    paintMarks();
  }
  function find(text) {
    aside.querySelector("ul").textContent = "";
    if (text) send({ kind: "find", text });
  }
  function offer(item) {
    const button = make(make(aside.querySelector("ul"), "li"), "button", "found");
    put(button, [...item.title, [" · ", false], ...item.input.slice(0, 1)]);
    on(button, "click", () => {
      take([item], true);
      extra = "";
      show(item.id);
    });
  }

  // keys

  const KEYS = {
    a: () => settle("approve"), r: reject, e: edit, s: () => settle("skip"), f: flag, u: undo, j: () => move(1), k: () => move(-1),
    c: () => open("category"), n: () => note.focus(), "/": () => open("search"), g: () => open("guide"), m: () => open("meta"),
    "?": () => open("help"), v: markdown, d: () => { isDiff = !isDiff; paintDiff(); }, Escape: leave,
  };
  const SIDES = { 1: "left", 2: "right", 0: "tie", ArrowLeft: "left", ArrowRight: "right" }, NOT_OF_PAIRS = "arecdvf";
  function onKey(event) {
    event.stopPropagation(); // what is typed here is never a command of the notebook
    if (event.type !== "keydown" || event.isComposing || event.keyCode === 229) return;
    const { key, target } = event;
    if (target === field || target.tagName === "INPUT") {
      if (event.repeat) return;
      if (key === "Escape") { event.preventDefault(); leave(); }
      else if (key === "Enter" && (target !== field || event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        if (target === field) save();
        else if (target === note) focus();
        else aside.querySelector("li button")?.click();
      }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if ((key === "Enter" || key === " ") && target.tagName === "BUTTON" && !event.repeat) return; // it presses the button
    const act = keyOf(key);
    if (act || key.length === 1) event.preventDefault();
    if (act && !event.repeat) act();
  }
  function keyOf(key) {
    const digit = Number(key) || 0;
    if (mode === "wait") return null;
    if (mode === "reason") {
      if (key === "Escape") return leave;
      if (key === "r" || key === "Enter") return () => settle("reject");
      return digit && digit <= about.labels.length ? () => toggle(about.labels[digit - 1]) : () => {};
    }
    if (extra === "category" && key !== "Escape") return () => choose(key.charCodeAt(0) - 97);
    if (row()?.kind === "pair" && SIDES[key]) return () => settle(SIDES[key]);
    if (row()?.kind === "pair" && NOT_OF_PAIRS.includes(key)) return null;
    return digit && digit <= 5 ? () => rate(digit) : KEYS[key];
  }
  for (const type of ["keydown", "keyup", "keypress"]) on(root, type, onKey);
  on(root, "mousedown", (event) => {
    event.stopPropagation(); // else the notebook takes the focus
    if (event.target.closest("button")) event.preventDefault();
  });
  on(root, "click", (event) => {
    const isTyping = /INPUT|TEXTAREA/.test(document.activeElement.tagName);
    if (mode !== "edit" && (!isTyping || event.target.closest("button"))) focus();
  });
  let typing = 0;
  on(field, "input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { draft(); paintDiff(); }, isDiff ? 120 : 500);
  });
  on(field, "blur", draft);

  // the screen

  function paint() {
    const item = row();
    paintTop();
    for (const name of Object.keys(panes)) panes[name].section.hidden = !item?.[name];
    body.hidden = head.hidden = !item;
    if (item) {
      put(title, item.title);
      chips.textContent = "";
      item.chips.forEach((parts) => put(make(chips, "span"), parts));
      const own = decided.get(current);
      if (own) make(chips, "span", "own", `you: ${own.decision}`);
      for (const [name, { text, small }] of Object.entries(panes)) {
        put(text, item[name] ?? [], name === "output" && item.form === "JSON");
        small.textContent = name === "output" ? item.form : "";
      }
    } else if (mode !== "wait") {
      say(texts[!counts.total ? "none" : !reviewer ? "name" : !isAll || wanted ? "waiting" : counts.left > 0 ? "held" : "done"]);
    }
    paintMode();
    paintMarks();
    if (/search|category/.test(extra)) extra = "";
    paintExtra();
    for (const { text } of Object.values(panes)) text.scrollTop = 0; // forces a layout
  }
  function paintTop() {
    bar.style.width = `${(100 * (counts.total - counts.left)) / Math.max(counts.total, 1)}%`;
    said.textContent = ["decided", "skipped", "left"].map((word) => count(counts[word], word)).join(" · ");
    paintSaved();
  }
  function paintSaved() {
    if (!box) return;
    const all = unsaved(), n = all.length, where = texts[box.where];
    const isLate = box.where !== "kept" || all.some((entry) => now() - entry.since > PATIENCE);
    const told = n ? `${count(n, "unsaved")}, ${where}` : where;
    const text = failure ? `Not stored: ${failure} ${told}` : isLate ? told : n ? "saving…" : "all saved";
    if (saved.textContent !== text) saved.textContent = text;
    saved.className = `arislab-saved ${failure ? "error" : isLate ? "late" : ""}`;
  }
  function paintMode() {
    const item = row(), isEdit = mode === "edit", isPair = item?.kind === "pair";
    const formattedNow = isMarkdown && item?.tree && !isEdit;
    output.text.hidden = isEdit || Boolean(formattedNow);
    formatted.hidden = !formattedNow;
    field.hidden = !isEdit;
    viewer.hidden = isEdit || item?.form === "JSON";
    viewer.textContent = isMarkdown ? "Raw" : "Markdown";
    if (formattedNow && formatted.dataset.id !== item.id) {
      formatted.textContent = "";
      formatted.dataset.id = item.id;
      grow(formatted, item.tree);
    }
    const isText = isEdit || isPair, hidden = {
      approve: isText, reject: isText, edit: isText, save: !isEdit, cancel: !isEdit,
      left: !isPair, tie: !isPair, right: !isPair, flag: isPair, guide: !about.guideline.length,
    };
    for (const [name, button] of Object.entries(buttons)) {
      button.disabled = !item && !/undo|guide|help/.test(name);
      button.hidden = Boolean(hidden[name]);
    }
    labelRow.hidden = isPair || !about.labels.length;
    for (const { group } of criteria) group.hidden = isPair;
    category.hidden = isPair || !about.categories.length;
    paintDiff();
  }
  function paintMarks() {
    const mark = current === null ? null : markOf(current);
    root.classList.toggle("arislab-reason", mode === "reason");
    labelButtons.forEach(([label, button]) => {
      button.setAttribute("aria-pressed", String(Boolean(mark?.labels.has(label))));
      button.disabled = !mark;
    });
    criteria.forEach(({ name, group, buttons: five }, i) => {
      group.classList.toggle("arislab-now", i === criterion && criteria.length > 1);
      five.forEach((button, v) => {
        button.setAttribute("aria-checked", String(mark?.ratings[name] === v + 1));
        button.disabled = !mark;
      });
    });
    category.textContent = mark?.category ?? "category (c)";
    if (document.activeElement !== note) note.value = mark?.note ?? "";
    note.disabled = !mark;
  }
  function paintDiff() { // at the kernel, which may be busy
    const item = row(), after = mode === "edit" ? field.value : item && decided.get(current)?.edited_output;
    diff.hidden = !isDiff || !item?.output || !(after || item.isEdited);
    if (diff.hidden) return;
    diff.textContent = "…";
    send({ kind: "diff", id: current, text: after ?? null });
  }
  function markdown() {
    const item = row();
    if (!item?.output || item.form === "JSON") return;
    isMarkdown = !isMarkdown;
    if (isMarkdown && !item.tree) send({ kind: "markdown", id: item.id });
    paintMode();
  }
  on(viewer, "click", markdown);
  function fact(list, name) {
    make(list, "dt", "", name);
    return make(list, "dd");
  }
  function paintExtra() {
    aside.textContent = "";
    aside.hidden = !extra;
    const item = row();
    if (extra === "help") {
      const list = make(aside, "dl");
      for (const [key, what] of about.help[item?.kind === "pair" ? "pair" : "text"]) {
        fact(list, key).textContent = what;
      }
    } else if (extra === "guide") {
      grow(make(aside, "div", "markdown"), about.guideline.length ? about.guideline : [texts.guideline]);
    } else if (extra === "meta" && item) {
      const list = make(aside, "dl"), known = item.revealed && decided.has(item.id) ? Object.entries(item.revealed) : [];
      for (const [name, parts] of item.meta) put(fact(list, name), parts);
      for (const [name, value] of known) {
        fact(list, name).textContent = value === null ? "unknown" : typeof value === "string" ? value : JSON.stringify(value);
      }
      if (!known.length) make(aside, "p", "", texts.blind);
    } else if (extra === "category") {
      about.categories.forEach((name, i) => {
        on(make(aside, "button", "found", `${String.fromCharCode(97 + i)}  ${name}`), "click", () => choose(i));
      });
    } else if (extra === "search") {
      const input = make(aside, "input");
      tell(input, { type: "search", placeholder: texts.search, "aria-label": "Search" });
      make(aside, "ul");
      on(input, "input", () => find(input.value));
      input.focus();
    }
  }

  // the kernel

  function dwell() { return seen + (document.hidden || !shownAt ? 0 : now() - Math.max(shownAt, wokeAt)); }
  let wokeAt = 0;
  const onHide = () => {
    if (document.hidden) seen += now() - Math.max(shownAt, wokeAt);
    else wokeAt = now();
  };
  on(document, "visibilitychange", onHide);
  function flush() {
    const due = [...box.waiting.values()].filter((entry) => now() - entry.sent > Math.min(PATIENCE * 2 ** (entry.tries - 1), 24000));
    for (let i = 0; i < due.length; i += 100) {
      const some = due.slice(i, i + 100);
      some.forEach((entry) => { entry.sent = now(); entry.tries++; });
      send({ kind: "events", reviewer, events: some.map((entry) => entry.event) });
    }
    paintSaved();
  }
  function settleState(message) {
    const before = rows.get(current);
    if (!box || reviewer !== message.reviewer) {
      const prefix = (name) => ["arislab", about.lake, about.session, name, ""].map(encodeURIComponent).join(":");
      const own = (name) => boxes.get(name) ?? boxes.set(name, makeOutbox(prefix(name))).get(name);
      const known = own("").read("name");
      if (!message.reviewer && known) { // nothing is shown yet
        send({ kind: "name", name: known });
        return;
      }
      reviewer = message.reviewer;
      box = own(reviewer);
      if (reviewer) own("").keep("name", reviewer); // unsaved waits under it
    }
    rows.clear();
    order = [];
    trail = message.trail;
    decided = new Map();
    counts = message.counts;
    for (const one of trail) if (VERDICTS.includes(one.decision)) decided.set(one.id, one);
    take([...message.behind, ...message.items]);
    for (const { event } of box.waiting.values()) if (!trail.some((one) => one.event_id === event.event_id)) apply(event);
    isAll = message.is_all;
    isAsked = false;
    asked = now();
    const stays = rows.has(current) && isOpen(current);
    if (stays && rows.get(current).shown === before?.shown) paint(); // somebody is reading, or typing
    else show(stays ? current : order.find(isOpen) ?? null);
    trim();
    flush();
  }
  const HEARD = {
    state: settleState,
    items(message) {
      isAsked = false;
      take(message.items);
      isAll = message.is_all;
      if (!box.waiting.size) counts = message.counts;
      if (current === null && mode !== "wait") show(next());
    },
    row(message) {
      if (message.id !== wanted) return;
      wanted = null;
      if (!message.item) { say(texts.elsewhere); return; }
      take([message.item], true);
      show(message.id);
      say("Took it back.");
    },
    found(message) {
      if (extra !== "search" || aside.querySelector("input").value !== message.text) return;
      aside.querySelector("ul").textContent = "";
      message.items.forEach(offer);
    },
    diff(message) {
      if (message.id !== current) return;
      diff.textContent = "";
      for (const [kind, parts] of message.changes) {
        const node = kind ? make(diff, kind) : diff;
        parts.forEach(([text, isMark]) => putPart(node, text, isMark));
      }
    },
    markdown(message) {
      const item = rows.get(message.id);
      if (item) { item.tree = message.tree; if (item.id === current) paintMode(); }
    },
    acks(message) {
      failure = "";
      for (const [id, told] of Object.entries(message.told)) {
        const from = boxOf(id), event = from.waiting.get(id)?.event;
        from.done(id);
        const item = rows.get(event?.id);
        if (item && told.revealed) item.revealed = { ...item.revealed, ...told.revealed };
        if (event?.decision === "edit") from.drop("draft:" + event.id);
      }
      for (const [id, reason] of Object.entries(message.refused)) refuse(id, reason);
      if (!box.waiting.size) counts = message.counts;
      paintTop();
      if (extra === "meta") paintExtra();
    },
    failed(message) { failure = message.reason; paintSaved(); },
  };
  function refuse(id, reason) {
    const from = boxOf(id), event = from.waiting.get(id)?.event, name = event?.id;
    from.done(id);
    if (!name) return;
    const isEdit = event.decision === "edit";
    if (isEdit) from.keep("draft:" + name, event.edited_output);
    if (from !== box) return;
    if (isEdit) reasons.set(name, reason);
    apply({ ...event, decision: "undo", undoes: id });
    if (!rows.has(name)) { if (wanted === null) want(name); return; }
    order = order.filter((one) => one !== name);
    order.splice(order.indexOf(current) + 1, 0, name); // not into the hands of who is about to decide
    if (current === null || current === name) show(name);
    else say(`Refused, and shown next: ${reason}`, true);
  }
  const onMessage = (message) => (box || message.kind === "state") && HEARD[message.kind]?.(message);
  model.on("msg:custom", onMessage);
  const clock = setInterval(() => {
    if (!box) { if (now() - asked > PATIENCE) hello(); return; }
    flush();
    ask();
  }, 1000);
  const onLeave = (event) => {
    draft();
    if (unsaved().length) event.preventDefault();
  };
  on(window, "beforeunload", onLeave);
  body.hidden = head.hidden = aside.hidden = true;
  say(texts.waiting);
  paintMode();
  paintMarks();
  hello();
  if (document.activeElement === document.body) focus();
  return () => {
    clearInterval(clock);
    model.off("msg:custom", onMessage);
    removeEventListener("beforeunload", onLeave);
    document.removeEventListener("visibilitychange", onHide);
  };
}

export default { render };
