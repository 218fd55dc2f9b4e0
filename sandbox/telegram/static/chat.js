// The chat page: the event stream, status, choices of chat and person. Other parts: bubbles, keys, composer.
import { at, chat, notify, post, query, topic, user, visit, words } from "./page.js";
import { onMessage, remove, show, showAll, toEnd } from "./bubbles.js";
import { answered } from "./keys.js";
import { answer, closeMenu, follow, say, setCommands, write } from "./composer.js";

const status = at("status");
const idle = status.textContent;

onMessage((bubble, before) => {
  if (!bubble.mine) act(null);
  follow(bubble, before);
});

async function catchUp() {
  const sent = await fetch(`/chat/api/history?${query}`);
  if (!sent.ok) return;
  const read = await sent.json();
  setCommands(read.commands);
  showAll(read.bubbles);
  toEnd();
}

function listen() {
  const stream = new EventSource(`/chat/api/events?${query}`);
  const on = (kind, act_) => stream.addEventListener(kind, (event) => act_(JSON.parse(event.data)));
  on("ready", () => { setStatus(idle); catchUp(); });
  on("message", show);
  on("gone", (body) => remove(body.message_id));
  on("action", (body) => (!topic || body.topic === topic) && act(body.action));
  on("answer", (body) => answered(body, user));
  stream.onerror = () => setStatus(words.offline, true);
}

// --- status ----------------------------------------------------------------------------------------

function setStatus(said, busy = false) {
  if (status.textContent === said) return; // an action that is repeated is not read out again
  status.textContent = said;
  status.classList.toggle("busy", busy);
}

let acting;
function act(action) {
  clearTimeout(acting);
  if (!action || action === "cancel") return setStatus(idle);
  const kind = action.startsWith("upload") ? "uploading" : action.startsWith("record") ? "recording" : "typing";
  setStatus(words[kind], true);
  acting = setTimeout(act, 5500, null);
}

// --- choices ---------------------------------------------------------------------------------------

function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

async function create(kind) {
  at("name").value = "";
  const named = (await ask(at("naming"))) === "create" ? at("name").value.trim() : "";
  if (!named) return (at("chat").value = chat ? `${chat}${topic ? `/${topic}` : ""}` : "");
  const path = kind === "topic" ? "topic" : "group";
  const made = await post(path, { name: named, forum: kind === "forum", chat: path === "topic" ? chat : null, topic: 0 });
  return visit(made.chat, made.topic);
}

at("chat").addEventListener("change", (event) => {
  const value = event.target.value;
  if (value.startsWith("+")) return create(value.slice(1)).catch(() => notify(words.failed));
  return visit(...value.split("/"));
});
at("person").addEventListener("change", (event) => {
  location.assign(`/chat?user=${event.target.value}${chat ? `&chat=${chat}` : ""}${topic ? `&topic=${topic}` : ""}`);
});
at("language").addEventListener("change", async (event) => {
  await post("person", { language_code: event.target.value });
  location.reload();
});
at("fast").addEventListener("change", async (event) => {
  const fast = event.target.checked;
  await post("pacing", { pacing: fast ? "fast" : "production" }).catch(() => notify(words.failed));
  at("pace").textContent = fast ? words.quick : words.paced;
});
at("settings").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  at("settings").open = false;
  at("settings").firstElementChild.focus();
});

document.addEventListener("click", (event) => {
  if (!event.target.closest("#composer")) closeMenu();
  if (!event.target.closest("#settings")) at("settings").open = false;
  const command = event.target.closest(".command");
  if (command) write(`${command.textContent} `);
  const back = event.target.closest(".answer");
  if (back) answer(back.closest(".row"));
});
at("start").addEventListener("click", () => say("/start"));

listen();
const draft = new URLSearchParams(location.search).get("draft");
if (draft) write(draft);
else if (matchMedia("(pointer: fine)").matches) at("text").focus();
