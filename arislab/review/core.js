// The review panel in the browser: 50 items ahead, one key a decision, and an outbox that outlives the kernel.
//
// A key paints the next item at once; what was decided goes into the outbox (localStorage, one entry an event), then to
// the kernel, and leaves the outbox when the kernel says that it is on its disk. What is not acknowledged is sent again,
// by this page or the next one: events have names of their own, and the kernel stores each once.
// Texts of candidates, models and people come in parts and pass through textContent alone; formatted text comes as a
// tree of names and texts, of which only the elements below are made.

const AHEAD = 50, BEHIND = 20, LONG = 20000, PATIENCE = 3000, MOST_CELLS = 4e6;
const ELEMENTS = ["p", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "hr", "br",
  "blockquote", "table", "thead", "tbody", "tr", "th", "td", "a", "mark"];
const VERDICTS = ["approve", "reject", "edit", "skip", "left", "right", "tie"];
const HELP = [["a", "approve"], ["r, then 1-9", "reject, for a reason (r or Enter: without one)"], ["e", "edit; Ctrl+Enter saves, Esc leaves"],
  ["s", "skip: leave it to somebody else"], ["f", "flag for the lead"], ["u", "undo, without limit"], ["1-5", "rate the marked criterion, then the next one"],
  ["c, then a letter", "category"], ["n", "note"], ["j / k", "next, previous"], ["/", "search"], ["d", "what an edit changes"],
  ["v", "Markdown or raw"], ["g", "guideline"], ["m", "metadata"], ["?", "these keys"]];
const PAIR_HELP = [["1 or ←", "the left one is better"], ["2 or →", "the right one is better"], ["0", "neither: a tie"],
  ["s", "skip"], ["u", "undo, without limit"], ["j / k", "next, previous"], ["/", "search"], ["g", "guideline"], ["?", "these keys"]];

function make(parent, tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = "arislab-" + name;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

const eventName = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
const count = (n, word) => n.toLocaleString("en-US") + " " + word;
const plain = (parts) => parts.map(([text, isMark]) => (isMark ? String.fromCodePoint(parseInt(text.slice(2), 16)) : text)).join("");

// ---- what is not acknowledged yet

function makeOutbox(prefix) {
  const waiting = new Map();
  let store = null, isFull = false, last = 0;
  try {
    window.localStorage.setItem(prefix + "try", "1");
    window.localStorage.removeItem(prefix + "try");
    store = window.localStorage;
  } catch { /* denied, or full: it is said beside what is unsaved */ }
  for (let i = 0; store && i < store.length; i++) {
    const key = store.key(i);
    if (!key.startsWith(prefix + "event:")) continue;
    try {
      const event = JSON.parse(store.getItem(key));
      waiting.set(event.event_id, { event, since: -Infinity, sent: -Infinity, tries: 0 });
    } catch { /* not written by this panel */ }
  }
  const inOrder = [...waiting].sort(([, a], [, b]) => a.event.client_seq - b.event.client_seq);
  waiting.clear();
  inOrder.forEach(([id, entry]) => waiting.set(id, entry));
  const keep = (key, text) => {
    if (!store) return false;
    try { store.setItem(prefix + key, text); return true; } catch { return false; }
  };
  const read = (key) => (store ? store.getItem(prefix + key) : null);
  const drop = (key) => { if (store) store.removeItem(prefix + key); };
  return {
    waiting, keep, read, drop,
    number() {
      last = Math.max(last, Number(read("seq")) || 0) + 1;
      keep("seq", String(last));
      return last;
    },
    add(event) {
      const now = performance.now();
      waiting.set(event.event_id, { event, since: now, sent: -Infinity, tries: 0 });
      if (!keep("event:" + event.event_id, JSON.stringify(event))) isFull = true;
    },
    done(id) {
      waiting.delete(id);
      drop("event:" + id);
      if (!waiting.size) isFull = false;
    },
    get where() {
      if (!store) return "this browser keeps nothing (storage is denied): leave this page open";
      return isFull ? "the browser's storage is full: leave this page open" : "kept in this browser";
    },
  };
}

// ---- what an edit changes, word by word

function changes(before, after) {
  const cut = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s]/gu) || [];
  const a = cut(before), b = cut(after), told = [];
  let start = 0, endA = a.length, endB = b.length;
  while (start < endA && start < endB && a[start] === b[start]) start++;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
  const say = (kind, text) => {
    if (!text) return;
    const end = told[told.length - 1];
    if (end && end[0] === kind) end[1] += text; else told.push([kind, text]);
  };
  say("", a.slice(0, start).join(""));
  const n = endA - start, m = endB - start;
  if (n * m > MOST_CELLS) {
    say("del", a.slice(start, endA).join(""));
    say("ins", b.slice(start, endB).join(""));
  } else {
    const wide = m + 1, common = new Uint16Array((n + 1) * wide);
    for (let i = n - 1; i >= 0; i--) {
      for (let j = m - 1; j >= 0; j--) {
        common[i * wide + j] = a[start + i] === b[start + j] ? common[(i + 1) * wide + j + 1] + 1
          : Math.max(common[(i + 1) * wide + j], common[i * wide + j + 1]);
      }
    }
    for (let i = 0, j = 0; i < n || j < m;) {
      if (i < n && j < m && a[start + i] === b[start + j]) { say("", a[start + i]); i++; j++; }
      else if (i < n && (j === m || common[(i + 1) * wide + j] >= common[i * wide + j + 1])) { say("del", a[start + i]); i++; }
      else { say("ins", b[start + j]); j++; }
    }
  }
  say("", a.slice(endA).join(""));
  return told;
}

// ---- texts on the screen

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
  more.addEventListener("click", () => {
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
    const node = make(parent, ELEMENTS.includes(tag) ? tag : "span");
    if (tag === "a" && /^(https?|mailto):/i.test(address || "")) {
      Object.assign(node, { href: address, title: address, target: "_blank", rel: "noopener noreferrer" });
    }
    grow(node, inside);
  }
}

// ---- the panel

function render({ model, el }) {
  const about = model.get("about"), unseen = new RegExp(`[${about.unseen}]`, "gu");
  const rows = new Map(), marks = new Map(), reasons = new Map();
  let order = [], decided = new Map(), trail = [], counts = { total: 0, decided: 0, skipped: 0, left: 0 };
  let reviewer = "", box = null, current = null, wanted = null, mode = "wait", extra = "", criterion = 0;
  let shownAt = 0, seen = 0, isAsked = false, isAll = false, isMarkdown = false, isDiff = false, failure = "";

  const root = make(el, "div", "core");
  root.tabIndex = 0;
  root.setAttribute("role", "application");
  root.setAttribute("aria-label", "Review panel: press ? for the keys");
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  const top = make(root, "div", "progress"), bar = make(make(top, "div", "bar"), "i"), said = make(top, "span", "counts");
  const saved = make(top, "span", "saved");
  saved.setAttribute("role", "status");
  saved.setAttribute("aria-live", "polite");
  const head = make(root, "header"), title = make(head, "b"), chips = make(head, "span", "chips");
  const texts = make(root, "div", "pair"), panes = {};
  for (const [name, label] of [["input", "Input"], ["left", "Left"], ["output", "Output"], ["right", "Right"]]) {
    const section = make(texts, "section", name), heading = make(section, "h4", "", label), small = make(heading, "small");
    const text = make(section, "pre");
    text.dir = "auto";
    text.tabIndex = 0;
    text.setAttribute("aria-label", label);
    panes[name] = { section, heading, small, text };
  }
  const output = panes.output;
  const viewer = make(output.heading, "button", "view", "Markdown");
  const formatted = make(output.section, "div", "markdown");
  formatted.dir = "auto";
  const field = make(output.section, "textarea");
  field.dir = "auto";
  field.setAttribute("aria-label", "Edited output");
  const diff = make(output.section, "pre", "diff");
  diff.dir = "auto";
  const labelRow = make(root, "div", "labels"), ratingRow = make(root, "div", "ratings"), actions = make(root, "div", "actions");
  const notice = make(root, "div", "notice");
  notice.setAttribute("aria-live", "assertive");
  const aside = make(root, "aside");

  const labelButtons = about.labels.map((label, i) => {
    const button = make(labelRow, "button", "label", label);
    if (i < 9) button.title = `r, then ${i + 1}: reject for this`;
    button.addEventListener("click", () => toggle(label));
    return [label, button];
  });
  const criteria = about.criteria.map(([name, meaning], i) => {
    const group = make(ratingRow, "span", "criterion");
    group.title = meaning;
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", meaning ? `${name}: ${meaning}` : name);
    make(group, "span", "", name);
    return { name, group, buttons: [1, 2, 3, 4, 5].map((value) => {
      const button = make(group, "button", "rate", String(value));
      button.setAttribute("role", "radio");
      button.addEventListener("click", () => { criterion = i; rate(value); });
      return button;
    }) };
  });
  const category = make(ratingRow, "button", "category", "category");
  category.addEventListener("click", () => open("category"));
  const note = make(ratingRow, "input", "note");
  note.placeholder = "note (n)";
  note.dir = "auto";
  note.setAttribute("aria-label", "Note");
  note.addEventListener("input", () => { if (current) markOf(current).note = note.value; });

  const buttons = {};
  for (const [name, label, tip, act] of [
    ["approve", "Approve", "a: good as it is", () => settle("approve")], ["reject", "Reject", "r: must not be trained on", reject],
    ["edit", "Edit…", "e: correct the output, then save", edit], ["left", "Left", "1: the left one is better", () => settle("left")],
    ["tie", "Tie", "0: neither is better", () => settle("tie")], ["right", "Right", "2: the right one is better", () => settle("right")],
    ["save", "Save edit", "Ctrl+Enter: store the correction", save], ["cancel", "Cancel", "Esc: back, without a change", leave],
    ["skip", "Skip", "s: leave it to somebody else", () => settle("skip")], ["flag", "Flag", "f: show it to the lead", flag],
    ["undo", "Undo", "u: take my last decision back", undo], ["guide", "Guideline", "g", () => open("guide")], ["help", "Keys", "?", () => open("help")],
  ]) {
    const button = buttons[name] = make(actions, "button", name, label);
    button.title = tip;
    button.addEventListener("click", act);
  }
  for (const button of root.querySelectorAll("button")) button.type = "button";

  // what stands where

  const now = () => performance.now();
  const row = () => rows.get(current);
  const isOpen = (id) => !decided.has(id);
  const nOpen = () => order.reduce((n, id) => n + isOpen(id), 0);
  const send = (message) => { try { model.send(message); } catch { /* no kernel: the outbox says so */ } };
  function markOf(id) {
    if (!marks.has(id)) marks.set(id, { labels: new Set(), ratings: {}, category: null, note: "" });
    return marks.get(id);
  }
  function say(text, isError) {
    notice.textContent = text;
    notice.classList.toggle("error", Boolean(isError));
    notice.setAttribute("role", isError ? "alert" : "status");
  }
  function take(items, isFirst) {
    for (const item of items) {
      rows.set(item.id, item);
      if (order.includes(item.id)) continue;
      if (isFirst) order.unshift(item.id); else order.push(item.id);
    }
  }
  function trim() {
    const behind = order.filter((id) => !isOpen(id) && id !== current);
    for (const id of behind.slice(0, Math.max(0, behind.length - BEHIND))) {
      order.splice(order.indexOf(id), 1);
      rows.delete(id);
      marks.delete(id);
    }
    if (!isAsked && !isAll && nOpen() <= AHEAD / 2) {
      isAsked = true;
      send({ kind: "more", n: AHEAD - nOpen() });
    }
  }
  function next() {
    const at = order.indexOf(current);
    const after = order.slice(at + 1).find(isOpen);
    return after !== undefined ? after : order.find(isOpen) ?? null;
  }
  function show(id) {
    current = id;
    mode = "look";
    isDiff = false;
    criterion = 0;
    shownAt = seen = 0;
    if (id !== null) {
      shownAt = now();
      const reason = reasons.get(id);
      say(reason ? `The edit was refused: ${reason} Press e: your text is kept.` : "", Boolean(reason));
    }
    paint();
  }

  // what a reviewer can do

  function ready() {
    if (!reviewer) say("Enter your name first: every decision is signed.", true);
    else if (current !== null && now() - shownAt < about.dwell_ms) say("That came as this output appeared and was not counted.");
    else return current !== null;
    return false;
  }
  function decide(decision, more) {
    const item = rows.get(more?.custom_id ?? current), mark = marks.get(item?.id) ?? markOf(current ?? "");
    const isMarked = decision !== "undo" && decision !== "flag";
    const event = {
      event_id: eventName(), client_seq: box.number(), custom_id: item?.id ?? more.custom_id, decision,
      shown_sha256: item?.shown ?? null, asked_sha256: item?.asked ?? null, queue: item?.queue ?? null,
      labels: isMarked ? [...mark.labels] : [], ratings: isMarked ? { ...mark.ratings } : {},
      category: isMarked ? mark.category : null, note: isMarked && mark.note ? mark.note : null,
      shown_at: new Date(Date.now() - (now() - shownAt)).toISOString(), decided_at: new Date().toISOString(),
      dwell_ms: Math.round(dwell()), edited_output: null, undoes: null, ...more,
    };
    failure = "";
    apply(event);
    box.add(event);
    flush();
    return event;
  }
  function apply(event) { // to what this page knows
    const id = event.custom_id, before = decided.get(id);
    if (event.decision === "undo") trail = trail.filter((one) => one.event_id !== event.undoes);
    else trail.push(event);
    const verdict = trail.findLast((one) => one.custom_id === id && VERDICTS.includes(one.decision));
    if (verdict) decided.set(id, verdict); else decided.delete(id);
    const shift = (one, by) => {
      if (!one) return;
      counts[one.decision === "skip" ? "skipped" : "decided"] += by;
      counts.left -= by;
    };
    shift(before, -1);
    shift(verdict, 1);
  }
  function settle(decision, more) {
    if (!ready()) return;
    decide(decision, more);
    reasons.delete(current);
    show(next());
    trim();
  }
  function reject() {
    if (!about.labels.length || markOf(current ?? "").labels.size) { settle("reject"); return; }
    if (!ready()) return;
    mode = "reason";
    say("Why? 1-9, or r for no reason; Esc goes back.");
    paintMarks();
  }
  function flag() {
    if (!ready()) return;
    decide("flag");
    say("Flagged for the lead. Now decide.");
    paintTop();
  }
  function undo() {
    if (!reviewer) { say("Enter your name first.", true); return; }
    const last = trail[trail.length - 1];
    if (!last) { say("There is nothing of yours to undo."); return; }
    decide("undo", { custom_id: last.custom_id, undoes: last.event_id });
    if (rows.has(last.custom_id)) {
      show(last.custom_id);
    } else {
      wanted = last.custom_id;
      send({ kind: "row", id: wanted });
      paintTop();
    }
    say(`Took back: ${last.decision}.`);
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
    if (!labels.delete(label)) labels.add(label);
    if (mode === "reason") { settle("reject"); return; }
    paintMarks();
  }
  function edit() {
    const item = row();
    if (!item || item.kind === "pair" || !ready()) return;
    const before = item.edit ?? plain(item.output);
    field.value = box.read("draft:" + current) ?? before;
    mode = "edit";
    const names = [...new Set(item.output.filter(([, isMark]) => isMark).map(([text]) => text))].join(", ");
    say(names && `The text field cannot show ${names}; they stay unless you delete them.`);
    paintMode();
    field.focus();
    paintDiff();
  }
  function draft() {
    if (mode === "edit") box.keep("draft:" + current, field.value);
  }
  function leave() {
    if (mode === "edit") draft();
    mode = "look";
    extra = "";
    say("");
    root.focus({ preventScroll: true });
    paintMode();
    paintMarks();
    paintExtra();
  }
  function save() {
    const item = row(), text = field.value, before = item.edit ?? plain(item.output);
    if (text === before.replace(/\r\n?/g, "\n")) { say("The edited text is the same as the output; approve it instead.", true); return; }
    if (!text.trim()) { say("The edited text is empty; reject the output instead.", true); return; }
    if (item.form === "JSON") {
      try { JSON.parse(text); } catch (error) { say(`The output was JSON and the edited text is not (${error.message}).`, true); return; }
    }
    draft();
    root.focus({ preventScroll: true });
    settle("edit", { edited_output: text });
  }
  function move(by) {
    const at = order.indexOf(current) + by;
    if (current === null ? by < 0 && order.length : order[at] !== undefined) show(current === null ? order[order.length - 1] : order[at]);
  }
  function open(what) {
    extra = extra === what ? "" : what;
    if (extra === "category" && !about.categories.length) { extra = ""; say("The task names no categories (REVIEW)."); return; }
    paintExtra();
  }
  function choose(i) {
    if (current === null || i >= about.categories.length) return;
    const mark = markOf(current), name = about.categories[i];
    mark.category = mark.category === name ? null : name;
    extra = "";
    paintExtra();
    paintMarks();
  }
  function find(text) {
    const small = text.toLowerCase(), list = aside.querySelector("ul");
    list.textContent = "";
    if (!small) return;
    const holds = (item) => ["title", "input", "output", "left", "right"].some((k) => item[k] && plain(item[k]).toLowerCase().includes(small));
    for (const id of order.filter((one) => holds(rows.get(one)))) offer(rows.get(id));
    send({ kind: "find", text });
  }
  function offer(item) {
    const list = aside.querySelector("ul");
    if (!list || [...list.children].some((one) => one.dataset.id === item.id)) return;
    const line = make(list, "li"), button = make(line, "button", "found");
    line.dataset.id = item.id;
    put(button, item.title);
    button.addEventListener("click", () => {
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
  const PAIR_KEYS = {
    1: () => settle("left"), 2: () => settle("right"), 0: () => settle("tie"), ArrowLeft: () => settle("left"), ArrowRight: () => settle("right"),
    ...Object.fromEntries(["s", "u", "f", "j", "k", "/", "g", "m", "?", "n", "Escape"].map((key) => [key, KEYS[key]])),
  };
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
        else if (target === note) root.focus({ preventScroll: true });
        else { const first = aside.querySelector("li button"); if (first) { root.focus({ preventScroll: true }); first.click(); } }
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
    const letter = key.length === 1 ? key.charCodeAt(0) - 97 : -1, digit = "123456789".indexOf(key) + 1;
    if (mode === "wait") return null;
    if (mode === "reason") {
      if (key === "Escape") return leave;
      if (key === "r" || key === "Enter") return () => settle("reject");
      return digit && digit <= about.labels.length ? () => toggle(about.labels[digit - 1]) : () => {};
    }
    if (extra === "category" && key !== "Escape") return letter >= 0 && letter < 26 ? () => choose(letter) : () => {};
    if (row()?.kind === "pair") return PAIR_KEYS[key];
    return digit && digit <= 5 ? () => rate(digit) : KEYS[key];
  }
  for (const type of ["keydown", "keyup", "keypress"]) root.addEventListener(type, onKey);
  const isTyped = (node) => node === field || node.tagName === "INPUT";
  root.addEventListener("mousedown", (event) => {
    event.stopPropagation(); // else the notebook takes the focus
    if (event.target.closest("button")) event.preventDefault();
  });
  root.addEventListener("click", (event) => {
    if (!isTyped(document.activeElement) || event.target.closest("button")) {
      if (mode !== "edit") root.focus({ preventScroll: true });
    }
  });
  let typing = 0;
  field.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { draft(); paintDiff(); }, isDiff ? 120 : 500);
  });
  field.addEventListener("blur", draft);

  // the screen

  function paint() {
    const item = row();
    paintTop();
    for (const name of ["input", "output", "left", "right"]) panes[name].section.hidden = !item || !item[name];
    texts.hidden = head.hidden = !item;
    if (item) {
      put(title, item.title);
      chips.textContent = "";
      item.chips.forEach((parts) => put(make(chips, "span"), parts));
      const own = decided.get(current);
      if (own) make(chips, "span", "own", `you: ${own.decision}`);
      for (const name of ["input", "left", "right"]) {
        if (item[name]) { put(panes[name].text, item[name]); panes[name].text.scrollTop = 0; }
      }
      if (item.output) {
        put(output.text, item.output, item.form === "JSON");
        output.small.textContent = item.form;
        output.text.scrollTop = 0;
      }
    } else if (mode !== "wait") {
      const isOver = isAll && !wanted;
      const done = counts.total ? "All done, thank you. What was decided counts at once; run 2_curate again to score what was edited."
        : "Nothing waits for review. Run 2_curate first (arislab run curate), then this notebook again.";
      say(isOver ? done : "Waiting for the kernel, for more to review.");
    }
    paintMode();
    paintMarks();
    if (extra === "search" || extra === "category") extra = "";
    paintExtra();
  }
  function paintTop() {
    const n = Math.max(counts.total, 1);
    bar.style.width = `${(100 * (counts.total - counts.left)) / n}%`;
    said.textContent = `${count(counts.decided, "decided")} · ${count(counts.skipped, "skipped")} · ${count(counts.left, "left")}`;
    paintSaved();
  }
  function paintSaved() {
    const n = box ? box.waiting.size : 0;
    const isLate = n && [...box.waiting.values()].some((entry) => now() - entry.since > PATIENCE);
    const text = failure ? `Not stored: ${failure} ${count(n, "unsaved")}, ${box.where}.`
      : isLate ? `${count(n, "unsaved")}, ${box.where}` : box && /keeps nothing|full/.test(box.where) ? box.where : n ? "saving…" : box ? "all saved" : "";
    if (saved.textContent !== text) saved.textContent = text;
    saved.className = "arislab-saved" + (failure ? " error" : isLate || /keeps nothing|full/.test(text) ? " late" : "");
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
    const groups = { save: isEdit, cancel: isEdit, left: isPair, tie: isPair, right: isPair };
    for (const name of ["approve", "reject", "edit"]) groups[name] = !isEdit && !isPair;
    for (const [name, on] of Object.entries(groups)) buttons[name].hidden = !on;
    for (const [name, button] of Object.entries(buttons)) button.disabled = !item && !["undo", "guide", "help"].includes(name);
    buttons.guide.hidden = !about.guideline.length;
    labelRow.hidden = isPair || !about.labels.length;
    for (const { group } of criteria) group.hidden = isPair;
    category.hidden = isPair || !about.categories.length;
    paintDiff();
  }
  function paintMarks() {
    const mark = current === null ? null : markOf(current);
    root.classList.toggle("arislab-reason", mode === "reason");
    labelButtons.forEach(([label, button], i) => {
      button.setAttribute("aria-pressed", String(Boolean(mark?.labels.has(label))));
      button.textContent = mode === "reason" && i < 9 ? `${i + 1} ${label}` : label;
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
  function paintDiff() {
    const item = row(), own = item && decided.get(current);
    const after = mode === "edit" ? field.value : own?.edited_output ?? item?.after ?? null;
    diff.hidden = !isDiff || !item?.output || after === null;
    if (diff.hidden) return;
    diff.textContent = "";
    for (const [kind, text] of changes(item.before ?? item.edit ?? plain(item.output), after)) {
      const node = kind ? make(diff, kind) : diff;
      let end = 0;
      for (const found of text.matchAll(unseen)) {
        node.append(text.slice(end, found.index));
        make(node, "mark", "", "U+" + found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0"));
        end = found.index + found[0].length;
      }
      node.append(text.slice(end));
    }
  }
  function markdown() {
    const item = row();
    if (!item?.output || item.form === "JSON") return;
    isMarkdown = !isMarkdown;
    if (isMarkdown && !item.tree) send({ kind: "markdown", id: item.id });
    paintMode();
  }
  viewer.addEventListener("click", markdown);
  function paintExtra() {
    aside.textContent = "";
    aside.hidden = !extra;
    const item = row();
    if (extra === "help") {
      const list = make(aside, "dl");
      for (const [key, what] of item?.kind === "pair" ? PAIR_HELP : HELP) { make(list, "dt", "", key); make(list, "dd", "", what); }
    } else if (extra === "guide") {
      if (about.guideline.length) grow(make(aside, "div", "markdown"), about.guideline); else make(aside, "p", "", "The task has no guideline (REVIEW).");
    } else if (extra === "meta" && item) {
      const list = make(aside, "dl"), known = item.revealed && decided.has(item.id) ? Object.entries(item.revealed) : [];
      for (const [name, parts] of item.meta) { make(list, "dt", "", name); put(make(list, "dd"), parts); }
      for (const [name, value] of known) {
        make(list, "dt", "", name);
        make(list, "dd", "", value === null ? "unknown" : typeof value === "object" ? JSON.stringify(value) : String(value));
      }
      if (!known.length) make(aside, "p", "", "Score and model are told once you have decided.");
    } else if (extra === "category") {
      about.categories.forEach((name, i) => {
        make(aside, "button", "found", `${String.fromCharCode(97 + i)}  ${name}`).addEventListener("click", () => choose(i));
      });
    } else if (extra === "search") {
      const input = make(aside, "input");
      input.type = "search";
      input.placeholder = "search what you were handed; Enter opens the first";
      input.setAttribute("aria-label", "Search");
      make(aside, "ul");
      input.addEventListener("input", () => find(input.value));
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
  document.addEventListener("visibilitychange", onHide);
  function flush() {
    const due = [...box.waiting.values()].filter((entry) => now() - entry.sent > Math.min(PATIENCE * 2 ** (entry.tries - 1), 24000) || !entry.tries);
    for (let i = 0; i < due.length; i += 100) {
      const some = due.slice(i, i + 100);
      some.forEach((entry) => { entry.sent = now(); entry.tries++; });
      send({ kind: "events", reviewer, events: some.map((entry) => entry.event) });
    }
    paintSaved();
  }
  function settleState(message) {
    if (!box || reviewer !== message.reviewer) {
      reviewer = message.reviewer;
      box = makeOutbox(["arislab", about.lake, about.session, reviewer].map(encodeURIComponent).join(":") + ":");
    }
    rows.clear();
    order = [];
    trail = message.trail;
    decided = new Map();
    counts = message.counts;
    for (const one of trail) if (VERDICTS.includes(one.decision)) decided.set(one.custom_id, one);
    take([...message.behind, ...message.items]);
    const known = new Set(trail.map((one) => one.event_id));
    for (const { event } of box.waiting.values()) if (!known.has(event.event_id)) apply(event);
    isAll = message.is_all;
    isAsked = false;
    show(isOpen(current) && rows.has(current) ? current : order.find(isOpen) ?? null);
    flush();
  }
  const HEARD = {
    state: settleState,
    items(message) {
      isAsked = false;
      take(message.items);
      isAll = message.is_all;
      if (current === null && mode !== "wait") show(next());
    },
    row(message) {
      if (message.id !== wanted) return;
      wanted = null;
      if (!message.item) { say("That output is not in this queue; it comes back with the next one."); return; }
      take([message.item], true);
      show(message.id);
      say("Took it back.");
    },
    found(message) { if (extra === "search") message.items.forEach(offer); },
    markdown(message) {
      const item = rows.get(message.id);
      if (item) { item.tree = message.tree; if (item.id === current) paintMode(); }
    },
    acks(message) {
      failure = "";
      for (const [id, told] of Object.entries(message.told)) {
        const event = box.waiting.get(id)?.event;
        box.done(id);
        const item = event && rows.get(event.custom_id);
        if (item && told.revealed) item.revealed = told.revealed;
        if (event?.decision === "edit") box.drop("draft:" + event.custom_id);
      }
      for (const [id, reason] of Object.entries(message.refused)) refuse(id, reason);
      if (!box.waiting.size) counts = message.counts;
      paintTop();
      if (extra === "meta") paintExtra();
    },
    failed(message) { failure = message.reason; paintSaved(); },
  };
  function refuse(id, reason) {
    const event = box.waiting.get(id)?.event;
    box.done(id);
    if (!event) return;
    apply({ ...event, decision: "undo", undoes: id });
    const name = event.custom_id;
    if (event.decision === "edit") { reasons.set(name, reason); box.keep("draft:" + name, event.edited_output); }
    if (!rows.has(name)) { if (wanted === null) { wanted = name; send({ kind: "row", id: name }); } return; }
    order = order.filter((one) => one !== name);
    order.splice(order.indexOf(current) + 1, 0, name); // not into the hands of somebody who is about to decide another
    if (current === null || current === name) show(name);
    else say(`Refused, and shown next: ${reason}`, true);
  }
  const onMessage = (message) => { if (Object.hasOwn(HEARD, message.kind) && (box || message.kind === "state")) HEARD[message.kind](message); };
  model.on("msg:custom", onMessage);
  const clock = setInterval(() => {
    if (box) flush(); else send({ kind: "hello" });
  }, 1000);
  const onLeave = (event) => {
    draft();
    if (box?.waiting.size) event.preventDefault();
  };
  window.addEventListener("beforeunload", onLeave);
  texts.hidden = head.hidden = aside.hidden = true;
  say("Waiting for the kernel.");
  paintMode();
  paintMarks();
  send({ kind: "hello" });
  if (document.activeElement === document.body) root.focus({ preventScroll: true });
  return () => {
    clearInterval(clock);
    model.off("msg:custom", onMessage);
    window.removeEventListener("beforeunload", onLeave);
    document.removeEventListener("visibilitychange", onHide);
  };
}

export default { render };
