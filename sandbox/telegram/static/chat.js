// The chat page. The server renders all texts to safe HTML; nothing else is ever inserted as HTML.
const user = Number(document.body.dataset.user);
const words = JSON.parse(document.body.dataset.words);
const at = (id) => document.getElementById(id);
const [log, scroll, empty, text, send, menu, slash, status, toast, alertBox] =
  ["log", "scroll", "empty", "text", "send", "menu", "slash", "status", "toast", "alert"].map(at);
const idle = status.textContent;
const rows = new Map(); // message id -> {node, bubble}
const gone = new Set();
const waitingTaps = new Map(); // query id -> button
let commands = [];
let chosen = -1;

// --- messages ---------------------------------------------------------------------------------

function node(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function show(bubble) {
  const known = rows.get(bubble.id);
  if (gone.has(bubble.id) || (known && known.bubble.revision >= bubble.revision)) return;
  const follow = bubble.mine || scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
  // A playing video stays when only the text around it changes.
  const sameMedia = known && known.bubble.media && bubble.media && known.bubble.media.file_id === bubble.media.file_id;
  const media = sameMedia ? known.node.querySelector(".media, .file") : bubble.media && mediaOf(bubble.media);
  const fresh = rowOf(bubble, media);
  if (known) known.node.replaceChildren(...fresh.childNodes), (known.node.className = fresh.className);
  else insert(fresh, bubble.id);
  rows.set(bubble.id, { node: known ? known.node : fresh, bubble });
  empty.hidden = true;
  if (!bubble.mine) act(null);
  if (follow) toEnd();
}

function insert(row, id) {
  row.dataset.id = id;
  const after = [...log.children].find((other) => Number(other.dataset.id) > id);
  log.insertBefore(row, after ?? null);
}

function rowOf(bubble, media) {
  const row = node("li", `row${bubble.mine ? " mine" : ""}${shape(bubble.media)}`);
  row.dataset.id = bubble.id;
  const box = row.appendChild(node("div", "bubble"));
  const quoted = bubble.reply_to && rows.get(bubble.reply_to);
  if (quoted) box.append(node("p", "quote", quoted.bubble.text));
  if (media) box.append(media);
  const said = box.appendChild(node("p", "words"));
  said.innerHTML = bubble.html; // made by to_html in html.py, which escapes every character
  said.hidden = !bubble.text;
  box.append(metaOf(bubble));
  if (bubble.buttons.length) row.append(keysOf(bubble));
  return row;
}

function shape(media) {
  if (!media || media.kind === "document") return "";
  return media.height > media.width ? " tall" : " wide";
}

function metaOf(bubble) {
  const time = new Date(bubble.date * 1000);
  const clock = time.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" });
  const meta = node("small", "meta", bubble.edited ? `${words.edited} ${clock}` : clock);
  meta.prepend(hiddenWord(bubble.mine ? words.you : bubble.sender));
  return meta;
}

function hiddenWord(word) {
  const made = node("span", "", `${word} `);
  made.style.cssText = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
  return made;
}

function mediaOf(media) {
  const source = `/chat/media/${media.file_id}`;
  if (media.kind === "document") {
    const link = node("a", "file", `${words.download} ${media.name}`);
    link.href = source;
    return link;
  }
  const box = node("div", "media");
  const seen = box.appendChild(node(media.kind === "photo" ? "img" : "video"));
  if (media.width && media.height) seen.style.aspectRatio = `${media.width} / ${media.height}`;
  if (media.kind === "photo") seen.alt = "";
  else {
    seen.controls = true;
    seen.playsInline = true;
    seen.preload = "metadata";
    seen.setAttribute("aria-label", media.name || "video");
    if (media.poster) seen.poster = `/chat/media/${media.poster}`;
    if (media.kind === "animation") seen.loop = seen.muted = seen.autoplay = true;
  }
  seen.addEventListener("loadedmetadata", () => nearEnd() && toEnd());
  seen.src = source;
  return box;
}

function keysOf(bubble) {
  const keys = node("div", "keys");
  for (const row of bubble.buttons) {
    const line = keys.appendChild(node("div"));
    for (const button of row) {
      const key = line.appendChild(node(button.url ? "a" : "button", "", button.text));
      if (button.url) Object.assign(key, { href: safeUrl(button.url), target: "_blank", rel: "noopener noreferrer" });
      else Object.assign(key, { type: "button", onclick: () => tap(bubble.id, button.data, key) });
    }
  }
  return keys;
}

const safeUrl = (url) => (/^(https?|tg|mailto):/i.test(url) ? url : "#");
const nearEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 420;
const toEnd = () => requestAnimationFrame(() => scroll.scrollTo({ top: scroll.scrollHeight }));

function remove(id) {
  gone.add(id);
  rows.get(id)?.node.remove();
  rows.delete(id);
  empty.hidden = rows.size > 0;
}

// --- talking to the server --------------------------------------------------------------------

async function post(path, body) {
  const answer = await fetch(`/chat/api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user, ...body }),
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function say(words_) {
  try {
    await post("send", { text: words_ });
    return true;
  } catch {
    notify(words.failed);
    return false;
  }
}

async function tap(messageId, data, key) {
  if (key.getAttribute("aria-busy") === "true") return;
  key.setAttribute("aria-busy", "true");
  setTimeout(() => key.removeAttribute("aria-busy"), 15000);
  try {
    waitingTaps.set((await post("tap", { message_id: messageId, data })).query_id, key);
  } catch {
    key.removeAttribute("aria-busy");
    notify(words.failed);
  }
}

async function catchUp() {
  const answer = await fetch(`/chat/api/history?user=${user}`);
  if (!answer.ok) return;
  const read = await answer.json();
  commands = read.commands;
  const there = new Set(read.bubbles.map((bubble) => bubble.id));
  const newest = Math.max(0, ...there);
  for (const id of [...rows.keys()]) if (!there.has(id) && id <= newest) remove(id);
  read.bubbles.forEach(show);
  empty.hidden = rows.size > 0;
}

function listen() {
  const stream = new EventSource(`/chat/api/events?user=${user}`);
  const on = (kind, act_) => stream.addEventListener(kind, (event) => act_(JSON.parse(event.data)));
  on("ready", () => { setStatus(idle); catchUp(); });
  on("message", show);
  on("gone", (body) => remove(body.message_id));
  on("action", (body) => act(body.action));
  on("answer", answered);
  stream.onerror = () => setStatus(words.offline, true);
}

function answered(body) {
  waitingTaps.get(body.query_id)?.removeAttribute("aria-busy");
  waitingTaps.delete(body.query_id);
  if (!body.text || body.user_id !== user) return;
  if (!body.alert) return notify(body.text);
  alertBox.firstElementChild.textContent = body.text;
  if (!alertBox.open) alertBox.showModal();
}

// --- status and notices ---------------------------------------------------------------------------

function setStatus(said, busy = false) {
  status.textContent = said;
  status.classList.toggle("busy", busy);
}

let acting;
function act(action) {
  clearTimeout(acting);
  if (!action) return setStatus(idle);
  const kind = action.startsWith("upload") ? "uploading" : action.startsWith("record") ? "recording" : "typing";
  setStatus(words[kind], true);
  acting = setTimeout(act, 5500, null);
}

let hiding;
function notify(said) {
  clearTimeout(hiding);
  toast.textContent = said;
  toast.hidden = false;
  hiding = setTimeout(() => (toast.hidden = true), 4500);
}

// --- composer and command menu ----------------------------------------------------------------

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
  send.disabled = !text.value.trim();
}

function write(value) {
  text.value = value;
  grow();
  text.focus();
}

function openMenu() {
  const typed = text.value.startsWith("/") && !/\s/.test(text.value) ? text.value.slice(1).toLowerCase() : "";
  const fitting = commands.filter((command) => command.command.startsWith(typed));
  menu.replaceChildren(...fitting.map(choiceOf));
  choose(fitting.length ? 0 : -1);
  menu.hidden = !fitting.length;
  slash.setAttribute("aria-expanded", String(!menu.hidden));
}

function choiceOf(command, index) {
  const choice = node("div");
  choice.id = `choice-${index}`;
  choice.setAttribute("role", "option");
  choice.append(node("b", "", `/${command.command}`), node("span", "", command.description));
  choice.addEventListener("click", () => { closeMenu(); write(`/${command.command} `); });
  return choice;
}

function choose(index) {
  chosen = index;
  [...menu.children].forEach((choice, place) => choice.setAttribute("aria-selected", String(place === index)));
  menu.children[index]?.scrollIntoView({ block: "nearest" });
  if (index < 0) text.removeAttribute("aria-activedescendant");
  else text.setAttribute("aria-activedescendant", `choice-${index}`);
}

function closeMenu() {
  menu.hidden = true;
  slash.setAttribute("aria-expanded", "false");
  choose(-1);
}

function menuKey(event) {
  const count = menu.children.length;
  const whole = menu.children[chosen]?.firstElementChild.textContent === text.value.trim();
  if (event.key === "ArrowDown") choose((chosen + 1) % count);
  else if (event.key === "ArrowUp") choose((chosen + count - 1) % count);
  else if (event.key === "Escape") closeMenu();
  else if ((event.key === "Enter" && !whole) || event.key === "Tab") menu.children[chosen].click();
  else return false;
  event.preventDefault();
  return true;
}

text.addEventListener("input", () => {
  grow();
  if (/^\/\S*$/.test(text.value)) openMenu();
  else closeMenu();
});
text.addEventListener("keydown", (event) => {
  if (event.isComposing || (!menu.hidden && menuKey(event))) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    at("composer").requestSubmit();
  }
});
slash.addEventListener("click", () => {
  if (!menu.hidden) return closeMenu();
  openMenu();
  text.focus();
});
at("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = text.value;
  if (!said.trim()) return;
  closeMenu();
  write("");
  if (!(await say(said)) && !text.value) write(said);
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#composer")) closeMenu();
  const command = event.target.closest(".command");
  if (command) write(`${command.textContent} `);
});
at("start").addEventListener("click", () => say("/start"));
at("person").addEventListener("change", (event) => location.assign(`/chat?user=${event.target.value}`));
at("language").addEventListener("change", async (event) => {
  await post("person", { language_code: event.target.value });
  location.reload();
});

grow();
listen();
if (matchMedia("(pointer: fine)").matches) text.focus();
