// What all parts of the page share: who and where, words, elements, calls to the server, notices.
export const at = (id) => document.getElementById(id);
export const words = JSON.parse(document.body.dataset.words);
export const user = Number(document.body.dataset.user);
export const chat = document.body.dataset.chat ? Number(document.body.dataset.chat) : null;
export const topic = Number(document.body.dataset.topic);
export const bot = document.body.dataset.bot;
export const query = `user=${user}${chat ? `&chat=${chat}` : ""}`;

export const fill = (words_, values) => words_.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

export function node(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

export function unseen(text) {
  return node("span", "unseen", `${text} `);
}

async function answerOf(sent) {
  if (!sent.ok) throw new Error((await sent.text()).trim());
  return sent.json();
}

export async function post(path, body) {
  return answerOf(await fetch(`/chat/api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user, chat, topic, ...body }),
  }));
}

export async function upload(file, more) {
  const about = new URLSearchParams({ user, chat: chat ?? "", topic, name: file.name, ...more });
  return answerOf(await fetch(`/chat/api/attach?${about}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: file,
  }));
}

let hiding;
export function notify(said) {
  clearTimeout(hiding);
  const toast = at("toast");
  toast.textContent = said;
  toast.hidden = false;
  hiding = setTimeout(() => (toast.hidden = true), 4500);
}

// A screen reader hears each new message once. The log itself is not live: the bot edits one message many
// times while a video is made, and no one wants to hear each of them.
const news = at("news");
export function announce(said) {
  news.append(node("p", "", said));
  while (news.children.length > 5) news.firstElementChild.remove();
}

export const visit = (chatId, topicId, draft) => {
  const there = new URLSearchParams({ user });
  if (chatId) there.set("chat", chatId);
  if (Number(topicId)) there.set("topic", topicId);
  if (draft) there.set("draft", draft);
  location.assign(`/chat?${there}`);
};
