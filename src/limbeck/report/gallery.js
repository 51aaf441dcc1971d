// The gallery: filter, sort, pages, word differences, keys. All texts are set as text, never as
// markup; the state lives in the address after '#', so that a view can be linked to.
"use strict";
(() => {
  const PER_PAGE = 20;
  const COLLAPSE = 600;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("gallery-data").textContent);
  const form = byId("filters");
  const fields = form.elements;
  const list = byId("cards");
  if (!data.samples.length || !data.models.length) return;

  const arms = [...new Set(data.models.map((m) => m.arm))];
  const seeds = [...new Set(data.models.map((m) => m.seed).filter((s) => s !== null))];
  const firstOf = (names) => names.find((n) => arms.includes(n));
  const model0 = firstOf(["student"]) ?? arms[0];
  const defaults = {
    q: "",
    seed: String(seeds[0] ?? ""),
    metric: String(Math.max(0, data.metrics.findIndex((m) => m.kind === data.headline))),
    model: model0,
    against: firstOf(["teacher", "control", "baseline"].filter((n) => n !== model0)) ?? model0,
    sort: "order", min: "", max: "", category: "", differ: "", view: "all", page: "1",
  };
  // Metadata fields that the form has a filter of their own for.
  const keyed = [...form.querySelectorAll("select[data-key]")];
  for (const select of keyed) defaults[select.name] = "";
  const state = { ...defaults };

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function options(select, pairs) {
    for (const [value, text] of pairs) {
      const option = element("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  options(fields.seed, seeds.map((s) => [String(s), String(s)]));
  fields.seed.closest("label").hidden = seeds.length < 2;
  options(fields.metric, data.metrics.map((m, i) => [String(i), m.name]));
  options(fields.model, arms.map((a) => [a, a]));
  options(fields.against, arms.map((a) => [a, a]));
  options(fields.category, [["", "all"]]);
  const categories = new Map();  // "key: value", as the address has it -> the pair
  for (const [key, values] of Object.entries(data.categories)) {
    if (keyed.some((select) => select.dataset.key === key)) continue;
    const group = element("optgroup");
    group.label = key.replaceAll("_", " ");
    options(group, values.map((value) => [`${key}: ${value}`, value]));
    for (const value of values) categories.set(`${key}: ${value}`, [key, value]);
    fields.category.append(group);
  }
  for (const select of keyed) {
    const values = data.categories[select.dataset.key] ?? [];
    options(select, [["", "all"], ...values.map((value) => [value, value])]);
    select.closest("label").hidden = !values.length;
  }
  fields.category.closest("label").hidden = !categories.size;

  // What is searched, put together for a sample when it is first searched.
  const haystacks = new Map();
  function haystack(s) {
    if (!haystacks.has(s)) {
      const answers = s.answers.map((a) => a.text);
      haystacks.set(s, [s.id, s.prompt, ...s.references, ...answers, ...Object.values(s.metadata)]
        .join("\n").toLowerCase());
    }
    return haystacks.get(s);
  }

  const indexOf = (arm) => data.models.findIndex((m) =>
    m.arm === arm && (m.seed === null || String(m.seed) === state.seed));

  // How far the model is ahead of the other one on a sample; null where one has no score.
  function gapOf(sample, metric) {
    const [x, y] = [state.model, state.against].map((arm) => sample.scores[indexOf(arm)]?.[metric] ?? null);
    return x === null || y === null ? null : (x - y) * (data.metrics[metric].higher === false ? -1 : 1);
  }

  function chosen() {
    const metric = Number(state.metric) || 0;
    const sign = data.metrics[metric]?.higher === false ? -1 : 1;
    const [a, b] = [indexOf(state.model), indexOf(state.against)];
    const score = (sample, model) => sample.scores[model]?.[metric] ?? null;
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const low = state.min === "" ? null : Number(state.min);
    const high = state.max === "" ? null : Number(state.max);
    const category = categories.get(state.category);
    const gap = (s) => gapOf(s, metric);
    const differs = {
      answers: (s) => s.answers[a]?.text !== s.answers[b]?.text,
      same: (s) => s.answers[a]?.text === s.answers[b]?.text,
      behind: (s) => gap(s) !== null && gap(s) < 0,
      even: (s) => gap(s) === 0,
      ahead: (s) => gap(s) !== null && gap(s) > 0,
    }[state.differ];
    const found = data.samples.filter((sample) => {
      const own = score(sample, a);
      if (low !== null && !(own !== null && own >= low)) return false;
      if (high !== null && !(own !== null && own <= high)) return false;
      if (category && sample.metadata[category[0]] !== category[1]) return false;
      if (keyed.some((f) => state[f.name] && sample.metadata[f.dataset.key] !== state[f.name])) return false;
      if (differs && !differs(sample)) return false;
      return !words.length || words.every((word) => haystack(sample).includes(word));
    });
    const own = (s) => (score(s, a) === null ? null : score(s, a) * sign);
    const rank = {
      gap: (s) => (gap(s) === null ? null : -Math.abs(gap(s))),
      behind: gap,
      ahead: (s) => (gap(s) === null ? null : -gap(s)),
      worst: own,
      best: (s) => (own(s) === null ? null : -own(s)),
    }[state.sort];
    if (rank) {
      const keyed = found.map((s) => [rank(s), s]);
      keyed.sort((x, y) => (x[0] ?? Infinity) - (y[0] ?? Infinity) || x[1].index - y[1].index);
      return keyed.map((pair) => pair[1]);
    }
    return found;
  }

  // Words of `text` that are not in a longest common subsequence with `other`.
  function unshared(text, other) {
    const [x, y] = [text.split(/(\s+)/), other.split(/\s+/)];
    const words = x.map((w, i) => [w, i]).filter(([w]) => w.trim());
    if (words.length * y.length > 250000) return null;
    const table = Array.from({ length: words.length + 1 }, () => new Uint16Array(y.length + 1));
    for (let i = words.length - 1; i >= 0; i--) {
      for (let j = y.length - 1; j >= 0; j--) {
        table[i][j] = words[i][0] === y[j]
          ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
      }
    }
    const marked = new Set(words.map((w) => w[1]));
    for (let i = 0, j = 0; i < words.length && j < y.length;) {
      if (words[i][0] === y[j]) { marked.delete(words[i][1]); i++; j++; }
      else if (table[i + 1][j] >= table[i][j + 1]) i++;
      else j++;
    }
    return x.map((word, i) => [word, marked.has(i)]);
  }

  // The text; with another one, the words that the other lacks are in elements of `tag`.
  function textOf(text, other, tag) {
    const box = element("div", "text");
    box.dir = "auto";
    if (!text.trim()) {
      box.append(element("span", "empty", "(empty)"));
      return box;
    }
    const pieces = other === undefined ? null : unshared(text, other);
    if (pieces) {
      for (const [word, isMarked] of pieces) box.append(isMarked ? element(tag, "", word) : word);
      return box;
    }
    if (text.length <= COLLAPSE) {
      box.textContent = text;
      return box;
    }
    const button = element("button", "expand", "show more");
    button.type = "button";
    button.addEventListener("click", () => { box.textContent = text; });
    box.append(`${text.slice(0, COLLAPSE)}… `, button);
    return box;
  }

  const decimals = (value) => (value === null ? "n/a" : String(Math.round(value * 1000) / 1000));

  function answerOf(sample, index, metric) {
    const [model, answer, scores] = [data.models[index], sample.answers[index], sample.scores[index]];
    const row = element("div", `answer ${data.colours[model.arm] ?? ""}`);
    row.dataset.model = model.id;
    const own = model.arm === state.model;
    const other = indexOf(own ? state.against : state.model);
    const compared = state.view === "diff" && other !== index ? sample.answers[other]?.text : undefined;
    row.append(element("b", "", model.arm), textOf(answer.text, compared, own ? "ins" : "del"));
    const main = element("span", "score");
    main.append(`${data.metrics[metric].name} `, element("b", "", decimals(scores[metric])));
    row.append(main);
    const more = element("div", "more");
    data.metrics.forEach((m, i) => {
      if (i !== metric && scores[i] !== null) more.append(element("span", "", `${m.name} ${decimals(scores[i])}`));
    });
    if (answer.tokens !== null && answer.tokens !== undefined) more.append(element("span", "", `${answer.tokens} tokens`));
    if (answer.finished === false) more.append(element("span", "", "cut by the limit"));
    row.append(more);
    return row;
  }

  function pictureOf(sample, key, number) {
    const source = data.images[key];
    const image = element("img");
    const scale = source.width <= 136 ? 2 : 1;
    const fit = Math.min(1, 320 / Math.max(source.width, source.height));
    image.width = Math.round(source.width * fit * scale);
    image.height = Math.round(source.height * fit * scale);
    if (scale > 1) image.className = "crisp";
    image.alt = `Image ${number + 1} of sample ${sample.id}`;
    image.title = `${source.width} × ${source.height} pixels`;
    image.decoding = "async";
    image.loading = "lazy";
    image.src = source.uri;
    return image;
  }

  function cardOf(sample, metric) {
    const card = element("article", "sample");
    card.dataset.sample = sample.id;
    card.tabIndex = -1;
    card.setAttribute("aria-label", `Sample ${sample.id}`);
    const left = element("div");
    const head = element("h3");
    head.append(element("bdi", "", sample.id));
    left.append(head);
    sample.images.forEach((key, i) => left.append(pictureOf(sample, key, i)));
    const facts = element("div", "facts");
    if (sample.hidden_images) facts.append(element("span", "", `${sample.hidden_images} more images`));
    const gap = state.model === state.against ? null : gapOf(sample, metric);
    if (gap !== null) {
      const text = `${state.model} against ${state.against}: ${gap > 0 ? "+" : ""}${decimals(gap)}`;
      facts.append(element("span", gap < 0 ? "gap worse" : gap > 0 ? "gap better" : "gap", text));
    }
    for (const [key, value] of Object.entries(sample.metadata)) {
      const fact = element("span");
      fact.append(`${key}: `, element("bdi", "", value));
      facts.append(fact);
    }
    left.append(facts);
    const right = element("div", "answers");
    const prompt = textOf(sample.prompt);
    prompt.classList.add("prompt");
    right.append(prompt);
    sample.references.forEach((text, i) => {
      const row = element("div", "answer");
      row.append(element("b", "", sample.references.length > 1 ? `reference ${i + 1}` : "reference"), textOf(text));
      right.append(row);
    });
    if (sample.hidden_references) right.append(element("div", "facts", `${sample.hidden_references} more references`));
    if (state.view === "all") {
      data.models.forEach((model, index) => {
        if (model.seed === null || String(model.seed) === state.seed) right.append(answerOf(sample, index, metric));
      });
    } else {
      const pair = element("div", state.view === "diff" ? "side-by-side" : "");
      const shown = new Set([indexOf(state.against), indexOf(state.model)]);
      pair.append(...[...shown].filter((i) => i >= 0).map((i) => answerOf(sample, i, metric)));
      right.append(pair);
    }
    card.append(left, right);
    return card;
  }

  function show() {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    const page = Math.min(Math.max(1, Number(state.page) || 1), pages);
    state.page = String(page);
    const start = (page - 1) * PER_PAGE;
    const metric = Number(state.metric) || 0;
    list.replaceChildren(...found.slice(start, start + PER_PAGE).map((s) => cardOf(s, metric)));
    if (list.firstElementChild) list.firstElementChild.tabIndex = 0;
    const range = found.length ? `${start + 1}-${Math.min(start + PER_PAGE, found.length)} of ` : "";
    byId("found").textContent = found.length
      ? `Showing ${range}${found.length} samples` + (found.length < data.samples.length ? ` (${data.samples.length} without the filter).` : ".")
      : "No sample fits. Widen the filter or press Reset.";
    const nav = byId("pages");
    nav.hidden = pages < 2;
    nav.querySelector("span").textContent = `Page ${page} of ${pages}`;
    nav.querySelector('[data-turn="-1"]').disabled = page === 1;
    nav.querySelector('[data-turn="1"]').disabled = page === pages;
  }

  const choices = { seed: seeds.map(String), model: arms, against: arms };
  function fromAddress() {
    const given = location.hash.includes("=") ? new URLSearchParams(location.hash.slice(1)) : null;
    for (const key of Object.keys(defaults)) {
      const value = given?.get(key) ?? defaults[key];
      state[key] = choices[key] && !choices[key].includes(value) ? defaults[key] : value;
    }
    if (!data.metrics[Number(state.metric)]) state.metric = defaults.metric;
    if (!categories.has(state.category)) state.category = "";
    for (const select of keyed) {
      if (![...select.options].some((o) => o.value === state[select.name])) state[select.name] = "";
    }
    for (const key of ["sort", "differ", "view"]) {
      const known = fields[key]?.options;
      if (known && ![...known].some((o) => o.value === state[key])) state[key] = defaults[key];
    }
    for (const [key, value] of Object.entries(state)) {
      if (fields[key]) fields[key].value = value;
    }
    show();
    return given !== null;
  }

  function toAddress() {
    const changed = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
    const query = new URLSearchParams(changed).toString();
    history.replaceState(null, "", query ? `#${query}` : "#gallery");
  }

  let waiting = 0;
  function changed() {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const before = JSON.stringify({ ...state, view: "" });
      for (const key of Object.keys(defaults)) {
        if (fields[key]) state[key] = fields[key].value;
      }
      if (JSON.stringify({ ...state, view: "" }) !== before) state.page = "1";
      toAddress();
      show();
    }, 120);
  }
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(state, defaults);
    toAddress();
    fromAddress();
  });
  function turnBy(turn) {
    const before = state.page;
    state.page = String(Number(state.page) + turn);
    show();  // which keeps the page inside what there is
    toAddress();
    return state.page !== before;
  }
  byId("pages").addEventListener("click", (event) => {
    const turn = Number(event.target.dataset.turn);
    if (turn && turnBy(turn)) byId("found").scrollIntoView({ block: "start" });
  });

  // Inside the list: j and k go to the next and the previous sample, arrows turn the page.
  function focusOn(card) {
    for (const other of list.children) other.tabIndex = other === card ? 0 : -1;
    card.focus();
  }
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { j: 1, k: -1 }[event.key];
    const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step && !turn) return;
    event.preventDefault();
    const card = event.target.closest("article");
    const next = step === 1 ? card.nextElementSibling : step === -1 ? card.previousElementSibling : null;
    if (next) focusOn(next);
    else if (turnBy(step ?? turn)) focusOn(step === -1 ? list.lastElementChild : list.firstElementChild);
  });
  function followAddress() {
    if (fromAddress()) byId("gallery").scrollIntoView({ behavior: "instant" });
  }
  window.addEventListener("hashchange", followAddress);
  form.hidden = false;
  followAddress();
})();
