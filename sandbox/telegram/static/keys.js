// Inline buttons of every kind, links to the bot, and payments.
import { at, bot, chat, fill, node, notify, post, topic, visit, words } from "./page.js";

const log = at("log");
const waiting = new Map(); // query id -> button
let writeDraft = () => {};
export const onDraft = (write) => (writeDraft = write);

const safeUrl = (url) => (/^(https?|tg|mailto):/i.test(url) ? url : "#");

export function keysOf(bubble) {
  const rows = bubble.buttons.length || !bubble.invoice ? bubble.buttons : [[{ text: fill(words.pay, bubble.invoice), pay: true }]];
  if (!rows.length) return null;
  const keys = node("div", "keys");
  for (const row of rows) {
    const line = keys.appendChild(node("div"));
    row.forEach((button) => line.append(keyOf(bubble, button)));
  }
  return keys;
}

function keyOf(bubble, button) {
  const key = node(button.url ? "a" : "button", button.style, button.text);
  if (button.url) {
    Object.assign(key, { href: safeUrl(button.url), target: "_blank", rel: "noopener noreferrer" });
    return key;
  }
  key.type = "button";
  key.disabled = button.disabled;
  key.addEventListener("click", () => press(bubble, button, key));
  return key;
}

async function press(bubble, button, key) {
  if (button.data !== null && button.data !== undefined) return tap(bubble.id, button.data, key);
  if (button.pay) return checkOut(bubble.invoice, { message_id: bubble.id });
  if (button.copy_text) {
    await navigator.clipboard.writeText(button.copy_text).catch(() => {});
    return notify(words.copied);
  }
  const draft = `@${bot} ${button.switch_inline ?? ""}`;
  if (button.switch_here) return writeDraft(draft);
  return chooseChat(draft);
}

async function tap(messageId, data, key) {
  if (key.getAttribute("aria-busy") === "true") return;
  key.setAttribute("aria-busy", "true");
  setTimeout(() => key.removeAttribute("aria-busy"), 15000);
  try {
    waiting.set((await post("tap", { message_id: messageId, data })).query_id, key);
  } catch {
    key.removeAttribute("aria-busy");
    notify(words.failed);
  }
}

export function answered(body, user) {
  waiting.get(body.query_id)?.removeAttribute("aria-busy");
  waiting.delete(body.query_id);
  if (!body.text || body.user_id !== user) return;
  if (!body.alert) return notify(body.text);
  const box = at("alert");
  box.firstElementChild.textContent = body.text;
  if (!box.open) box.showModal();
}

// --- payments: no real Stars ------------------------------------------------------------------------

function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

export async function checkOut(invoice, what) {
  const dialog = at("payment");
  dialog.querySelector("h2").textContent = invoice.title;
  dialog.querySelector(".about").textContent = invoice.description;
  dialog.querySelector("[value=pay]").textContent = invoice.stars ? fill(words.pay, invoice) : words.create;
  if ((await ask(dialog)) !== "pay") return;
  try {
    const ended = await post("pay", what);
    if (!ended.ok) notify(fill(words.pay_failed, { why: ended.error === "timeout" ? words.pay_timeout : ended.error }));
  } catch {
    notify(words.failed);
  }
}

// --- links -----------------------------------------------------------------------------------------

function startsBot(url) {
  try {
    const link = new URL(url);
    const name = link.protocol === "tg:" ? link.searchParams.get("domain") : link.pathname.slice(1);
    const ours = link.protocol === "tg:" || ["t.me", "telegram.me"].includes(link.host);
    return ours && (name ?? "").toLowerCase() === bot.toLowerCase() && (link.searchParams.has("start") || !link.search);
  } catch {
    return false;
  }
}

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a");
  if (!link || !log.contains(link)) return;
  const invoice = link.href.startsWith("https://t.me/$");
  if (!invoice && !startsBot(link.href)) return;
  event.preventDefault();
  if (invoice) return checkOut({ title: link.textContent, description: "", stars: null }, { url: link.href });
  try {
    await post("follow", { url: link.href });
    if (chat) visit(null);
  } catch {
    notify(words.failed);
  }
});
// --- choosing another chat --------------------------------------------------------------------------

export function chooseChat(draft) {
  const dialog = at("where");
  const choices = [...at("chat").options].filter((option) => !option.value.startsWith("+"));
  dialog.querySelector(".list").replaceChildren(...choices.map((option) => {
    const choice = node("button", "", option.textContent);
    choice.type = "button";
    const [chatId, topicId] = option.value.split("/");
    choice.addEventListener("click", () => {
      dialog.close();
      if ((Number(chatId) || null) === chat && Number(topicId || 0) === topic) writeDraft(draft);
      else visit(chatId, topicId, draft);
    });
    return choice;
  }));
  dialog.showModal();
}
