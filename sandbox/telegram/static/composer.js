// The input field: replies, files, the command menu and inline results.
import { at, bot, fill, node, notify, post, upload, words } from "./page.js";
import { bubbleOf, focusRow, idOf, lastRow, summaryOf } from "./bubbles.js";
import { onDraft } from "./keys.js";

const [text, send, menu, slash, replying, files, picker] =
  ["text", "send", "menu", "slash", "replying", "files", "picker"].map(at);
const placeholder = text.placeholder;
let commands = [];
let chosen = -1;
let replyTo = null;
let forced = false; // the bot asked for this reply; any message of the person ends that
let attached = [];
let asked = 0; // number of the newest inline query

export const setCommands = (given) => (commands = given);

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
  send.disabled = !text.value.trim() && !attached.length;
}

export function write(value) {
  text.value = value;
  grow();
  text.focus();
  text.setSelectionRange(value.length, value.length);
  suggest();
}
onDraft(write);

// --- replies ---------------------------------------------------------------------------------------

export function reply(bubble, hint) {
  forced = hint !== undefined;
  replyTo = bubble ? bubble.id : null;
  replying.hidden = !bubble;
  text.placeholder = (bubble && hint) || placeholder;
  if (!bubble) return;
  const name = bubble.mine ? words.you : bubble.sender;
  replying.firstElementChild.replaceChildren(node("b", "", fill(words.reply_to, { name })), node("span", "", summaryOf(bubble)));
}

replying.querySelector("button").addEventListener("click", () => { reply(null); text.focus(); });

export function follow(bubble, before) {
  if (bubble.forced_reply && !before) reply(bubble, bubble.forced_reply.placeholder);
  else if (bubble.mine && !before && forced) reply(null);
}

// --- files -----------------------------------------------------------------------------------------

export function attach(list) {
  attached.push(...list);
  files.replaceChildren(...attached.map((file, place) => {
    const item = node("li", "", file.name);
    const remove = item.appendChild(node("button", "icon", "✕"));
    remove.type = "button";
    remove.setAttribute("aria-label", fill(words.remove, { name: file.name }));
    remove.addEventListener("click", () => { attached.splice(place, 1); attach([]); text.focus(); });
    return item;
  }));
  files.hidden = !attached.length;
  grow();
}

const isPhoto = (file) => /^image\/(png|jpeg)$/.test(file.type);

async function sendFiles(caption) {
  const album = attached.length > 1 && attached.every(isPhoto) ? String(Date.now()) : "";
  for (const [place, file] of attached.entries()) {
    const kind = isPhoto(file) ? "photo" : "file";
    await upload(file, { kind, album, caption: place ? "" : caption, reply_to: replyTo ?? "" });
  }
}

at("attach").addEventListener("click", () => picker.click());
picker.addEventListener("change", () => { attach([...picker.files]); picker.value = ""; text.focus(); });
text.addEventListener("paste", (event) => {
  const pasted = [...event.clipboardData.files];
  if (pasted.length) event.preventDefault(), attach(pasted);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").hidden = kind !== "dragover";
    if (kind === "drop") attach([...event.dataTransfer.files]), text.focus();
  });
}

// --- sending ---------------------------------------------------------------------------------------

export async function say(said) {
  try {
    if (attached.length) await sendFiles(said.trim());
    else await post("send", { text: said, reply_to: replyTo });
    attached = [];
    attach([]);
    reply(null);
    return true;
  } catch {
    notify(words.failed);
    return false;
  }
}

at("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = text.value;
  if (!said.trim() && !attached.length) return;
  closeMenu();
  text.value = "";
  grow();
  text.focus();
  if (!(await say(said)) && !text.value) write(said);
});

// --- the menu: commands, or results of an inline query ------------------------------------------------

function openMenu(label, choices) {
  menu.setAttribute("aria-label", label);
  menu.replaceChildren(...choices);
  [...menu.children].forEach((choice, index) => {
    choice.id = `choice-${index}`;
    choice.setAttribute("role", "option");
  });
  menu.hidden = !choices.length;
  select(choices.length ? 0 : -1);
  expanded();
}

function expanded() {
  for (const one of [slash, text]) one.setAttribute("aria-expanded", String(!menu.hidden));
}

function choiceOf(title, about, act) {
  const choice = node("div");
  choice.append(node("b", "", title), node("span", "", about));
  choice.addEventListener("click", () => { closeMenu(); act(); });
  return choice;
}

function openCommands() {
  const typed = text.value.startsWith("/") && !/\s/.test(text.value) ? text.value.slice(1).toLowerCase() : "";
  const fitting = commands.filter((command) => command.command.startsWith(typed));
  openMenu(words.commands, fitting.map((one) => choiceOf(`/${one.command}`, one.description, () => write(`/${one.command} `))));
}

async function openInline(typed) {
  const number = ++asked;
  const { query_id, results, button } = await post("inline", { query: typed }).catch(() => ({ results: [] }));
  if (number !== asked) return;
  const choices = results.map((one) => choiceOf(one.title || one.type, one.description, async () => {
    text.value = "";
    grow();
    await post("choose", { query_id, result_id: one.id }).catch(() => notify(words.failed));
  }));
  const start = () => post("follow", { url: `https://t.me/${bot}?start=${button.start_parameter}` }).then(() => write(""));
  if (button) choices.unshift(choiceOf(button.text, "", start));
  if (!choices.length) choices.push(choiceOf(words.no_results, "", () => text.focus()));
  openMenu(fill(words.inline, { name: bot }), choices);
  if (button && results.length) select(1);
}

let typing;
function suggest() {
  clearTimeout(typing);
  asked++;
  const inline = text.value.toLowerCase().startsWith(`@${bot.toLowerCase()} `);
  if (inline) typing = setTimeout(openInline, 300, text.value.slice(bot.length + 2));
  else if (/^\/\S*$/.test(text.value)) openCommands();
  else closeMenu();
}

function select(index) {
  chosen = index;
  [...menu.children].forEach((choice, place) => choice.setAttribute("aria-selected", String(place === index)));
  menu.children[index]?.scrollIntoView({ block: "nearest" });
  if (index < 0) text.removeAttribute("aria-activedescendant");
  else text.setAttribute("aria-activedescendant", `choice-${index}`);
}

export function closeMenu() {
  menu.hidden = true;
  select(-1);
  expanded();
}

function menuKey(event) {
  const count = menu.children.length;
  const whole = menu.children[chosen]?.firstElementChild.textContent === text.value.trim();
  if (event.key === "ArrowDown") select((chosen + 1) % count);
  else if (event.key === "ArrowUp") select((chosen + count - 1) % count);
  else if (event.key === "Escape") closeMenu();
  else if ((event.key === "Enter" && !whole) || event.key === "Tab") menu.children[chosen].click();
  else return false;
  event.preventDefault();
  return true;
}

text.addEventListener("input", () => { grow(); suggest(); });
text.addEventListener("keydown", (event) => {
  if (event.isComposing || (!menu.hidden && menuKey(event))) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    at("composer").requestSubmit();
  } else if (event.key === "Escape" && replyTo !== null) reply(null);
  else if (event.key === "ArrowUp" && !text.value) event.preventDefault(), focusRow(lastRow());
});
slash.addEventListener("click", () => {
  if (!menu.hidden) return closeMenu();
  openCommands();
  text.focus();
});

// --- keys on a message: up, down, R to reply, Escape back to the field --------------------------------

at("log").addEventListener("keydown", (event) => {
  const row = event.target.closest(".row");
  if (!row) return;
  const own = event.target === row;
  if (event.key === "Escape") text.focus();
  else if (event.key === "ArrowUp") focusRow(row.previousElementSibling);
  else if (event.key === "ArrowDown") row.nextElementSibling ? focusRow(row.nextElementSibling) : text.focus();
  else if (own && event.key.toLowerCase() === "r" && !event.ctrlKey && !event.metaKey) answer(row);
  else return;
  event.preventDefault();
});

export function answer(row) {
  reply(bubbleOf(idOf(row)));
  text.focus();
}

grow();
