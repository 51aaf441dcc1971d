"use strict";
// All text from models and data is set as text, never as markup.
const at = (id) => document.getElementById(id);
const ARMS = ["teacher", "student", "baseline", "control"];
let comparison = null;
let chosen = { sample: 0 }; // or { picture: name }
let asking = 0;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function request(path, options) {
  const response = await fetch(path, options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || response.statusText);
  return found;
}

function say(text) { at("message").textContent = text; }

function show(number) {
  const count = comparison.samples.length;
  const place = ((number % count) + count) % count;
  const sample = comparison.samples[place];
  chosen = { sample: place };
  at("number").value = place + 1;
  at("sample").textContent = `${sample.id}, ${place + 1} of ${count}`;
  at("text").value = sample.question;
  at("file").value = "";
  at("reset").hidden = true;
  at("pictures").replaceChildren(...Array.from({ length: sample.pictures }, (_, index) =>
    element("img", undefined, { src: `pictures/${place}/${index}`, alt: `Picture ${index + 1} of sample ${sample.id}` })));
  const list = element("ul");
  for (const text of sample.references) list.append(element("li", text, { dir: "auto" }));
  at("references").replaceChildren(...(sample.references.length ? [element("h3", "What people answered"), list] : []));
  say("");
  clear();
}

async function upload(file) {
  if (!file) return;
  if (file.size > comparison.max_upload_bytes) {
    say(`The file has ${(file.size / 2 ** 20).toFixed(1)} MiB; at most ${comparison.max_upload_bytes / 2 ** 20} are taken.`);
    return;
  }
  if (!comparison.picture_types.includes(file.type)) {
    say(`${file.type || "This file"} is no picture that is opened here.`);
    return;
  }
  say("Uploading the picture…");
  try {
    const kept = await request("pictures", { method: "POST", headers: { "Content-Type": file.type }, body: file });
    chosen = { picture: kept.picture };
    at("pictures").replaceChildren(element("img", undefined, { src: URL.createObjectURL(file), alt: "Your picture" }));
    at("sample").textContent = `Your picture, ${kept.width} × ${kept.height} pixels`;
    at("references").replaceChildren();
    at("reset").hidden = true;
    say("");
    clear();
  } catch (error) {
    say(error.message);
  }
}

function clear() {
  asking += 1;
  for (const model of comparison.models) fill(model, "Not asked yet.", "", "waiting");
  at("ask").disabled = false;
}

function fill(model, text, cost, state) {
  const card = at(`model-${model.id}`);
  const answer = card.querySelector("p");
  card.className = `model arm-${model.arm} ${state}`;
  answer.textContent = text;
  answer.className = state === "failed" ? "failed" : "";
  card.querySelector("small").textContent = cost;
}

async function ask() {
  const question = at("text").value, subject = chosen;
  clear();
  const mine = asking;
  at("ask").disabled = true;
  for (const model of comparison.models) {
    if (mine !== asking) return;
    fill(model, "Answering…", "", "waiting");
    say(`Asking ${model.name}…`);
    try {
      const reply = await request("answers", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...subject, question, model: model.name }),
      });
      if (mine !== asking) return;
      fill(model, reply.failure || reply.text || "(an empty answer)", reply.cost, reply.failure ? "failed" : "answered");
    } catch (error) {
      if (mine !== asking) return;
      fill(model, error.message, "", "failed");
    }
  }
  say("");
  at("ask").disabled = false;
}

function connect() {
  at("previous").addEventListener("click", () => show(Number(at("number").value) - 2));
  at("next").addEventListener("click", () => show(Number(at("number").value)));
  at("random").addEventListener("click", () => show(Math.floor(Math.random() * comparison.samples.length)));
  at("number").addEventListener("change", () => show((Number(at("number").value) || 1) - 1));
  at("file").addEventListener("change", () => upload(at("file").files[0]));
  at("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  at("text").addEventListener("input", () => {
    at("reset").hidden = chosen.sample === undefined || at("text").value === comparison.samples[chosen.sample].question;
  });
  at("reset").addEventListener("click", () => {
    at("text").value = comparison.samples[chosen.sample].question;
    at("reset").hidden = true;
  });
  const drop = at("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") upload(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => upload(event.clipboardData.files[0]));
}

async function start() {
  try {
    comparison = await request("comparison.json");
  } catch (error) {
    say(error.message);
    return;
  }
  document.title = `${comparison.name}: compare`;
  at("name").textContent = comparison.name;
  at("number").max = comparison.samples.length;
  at("file").accept = comparison.picture_types.join(",");
  for (const [place, model] of comparison.models.entries()) {
    const arm = model.id.replace(/-seed\d+$/, "");
    model.arm = ARMS.includes(arm) ? arm : `extra${place % 4}`;
    const card = element("article", undefined, { id: `model-${model.id}`, "aria-live": "polite" });
    card.append(element("h3", model.id), element("p", "", { dir: "auto" }), element("small"));
    at("models").append(card);
  }
  connect();
  show(0);
}

start();
