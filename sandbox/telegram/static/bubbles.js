// The list of messages. The server renders all texts to safe HTML; nothing else is ever inserted as HTML.
import { announce, at, chat, fill, node, topic, unseen, words } from "./page.js";
import { keysOf } from "./keys.js";

const [log, scroll, empty] = ["log", "scroll", "empty"].map(at);
const rows = new Map(); // message number -> {node, bubble}
const gone = new Set();
const listeners = [];
let caughtUp = false;

export const onMessage = (listener) => listeners.push(listener);
export const bubbleOf = (id) => rows.get(id)?.bubble;
export const isEmpty = () => !rows.size;

export function show(bubble) {
  const known = rows.get(bubble.id);
  if (gone.has(bubble.id) || (known && known.bubble.revision >= bubble.revision)) return;
  if (topic && bubble.topic !== topic) return;
  const follow = bubble.mine || nearEnd(120);
  // A playing video stays when only the text around it changes.
  const sameMedia = known?.bubble.media && bubble.media && known.bubble.media.file_id === bubble.media.file_id;
  const media = sameMedia ? known.node.querySelector(".media, .file") : bubble.media && mediaOf(bubble.media);
  const held = known && holdFocus(known.node);
  const fresh = rowOf(bubble, media);
  if (known) known.node.replaceChildren(...fresh.childNodes), (known.node.className = fresh.className);
  else log.append(fresh);
  const row = known ? known.node : fresh;
  if (held !== undefined) giveFocus(row, held);
  rows.set(bubble.id, { node: row, bubble });
  empty.hidden = true;
  if (caughtUp) speak(bubble, known?.bubble);
  listeners.forEach((listener) => listener(bubble, known?.bubble));
  if (follow) toEnd();
}

export function showAll(bubbles) {
  const there = new Set(bubbles.map((bubble) => bubble.id));
  for (const id of [...rows.keys()]) if (!there.has(id)) remove(id);
  bubbles.forEach(show);
  caughtUp = true;
  empty.hidden = rows.size > 0;
}

export function remove(id) {
  gone.add(id);
  rows.get(id)?.node.remove();
  rows.delete(id);
  empty.hidden = rows.size > 0;
}

// New messages are announced, and edits only where they bring something to act on: a result or a question.
function speak(bubble, before) {
  if (bubble.mine) return;
  const asks = (one) => one.buttons.flat().some((button) => button.data);
  if (before && !(bubble.media && !before.media) && !(asks(bubble) && !asks(before))) return;
  announce(`${bubble.sender}: ${summaryOf(bubble)}`.slice(0, 400));
}

export function summaryOf(bubble) {
  const kinds = { photo: words.photo, video: words.video, animation: words.video, voice: words.voice, document: words.file, sticker: words.sticker };
  const parts = [bubble.media && kinds[bubble.media.kind], bubble.invoice?.title, serviceOf(bubble), bubble.text];
  return parts.filter(Boolean).join(". ");
}

const holdFocus = (row) => (row.contains(document.activeElement) ? focusable(row).indexOf(document.activeElement) : undefined);
const focusable = (row) => [...row.querySelectorAll("button, a, video, .covered")];
const giveFocus = (row, place) => (place < 0 ? row : focusable(row)[place] ?? row).focus({ preventScroll: true });

function rowOf(bubble, media) {
  const row = node("li", `row${bubble.mine ? " mine" : ""}${shape(bubble.media)}${bubble.service ? " service" : ""}`);
  row.dataset.id = bubble.id;
  row.tabIndex = -1;
  const box = row.appendChild(node("div", "bubble"));
  if (bubble.service) {
    box.append(node("p", "words", serviceOf(bubble)));
    return row;
  }
  headOf(bubble, box);
  const said = node("p", "words");
  said.innerHTML = bubble.html; // made by to_html in html.py, which escapes every character
  said.hidden = !bubble.text;
  said.querySelectorAll(".expandable").forEach(expandable);
  if (media) box.append(...(bubble.caption_above ? [said, media] : [media, said]));
  else box.append(said);
  if (bubble.invoice) box.append(invoiceOf(bubble.invoice));
  box.append(metaOf(bubble));
  if (bubble.reactions.length) row.append(reactionsOf(bubble));
  const keys = keysOf(bubble);
  if (keys) row.append(keys);
  return row;
}

function headOf(bubble, box) {
  if (chat && !bubble.mine) box.append(node("p", "sender", bubble.sender));
  if (bubble.via) box.append(node("p", "quiet", fill(words.via, { name: bubble.via })));
  if (bubble.ephemeral) box.append(node("p", "quiet", words.only_you));
  if (!bubble.reply_to) return;
  const quoted = box.appendChild(node("button", "quote"));
  quoted.type = "button";
  quoted.append(node("b", "", bubble.reply_sender), node("span", "", bubble.quote || bubble.reply_text));
  quoted.addEventListener("click", () => focusRow(rows.get(bubble.reply_to)?.node));
}

function serviceOf(bubble) {
  const about = { stars: bubble.service_stars, name: bubble.service_name || bubble.sender };
  const said = {
    successful_payment: words.paid, refunded_payment: words.refunded, new_chat_members: words.joined,
    left_chat_member: words.left, forum_topic_created: words.topic_created, forum_topic_closed: words.topic_closed,
    forum_topic_reopened: words.topic_reopened, migrate_to_chat_id: words.migrated, migrate_from_chat_id: words.migrated,
  }[bubble.service];
  return said ? fill(said, about) : "";
}

function shape(media) {
  if (!media || !media.width || media.kind === "sticker") return "";
  return media.height > media.width ? " tall" : " wide";
}

function metaOf(bubble) {
  const time = new Date(bubble.date * 1000);
  const clock = time.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" });
  const meta = node("small", "meta", bubble.edited ? `${words.edited} ${clock}` : clock);
  meta.prepend(unseen(bubble.mine ? words.you : bubble.sender));
  const reply = node("button", "answer", "↩");
  reply.type = "button";
  reply.tabIndex = -1; // with the keyboard: R on the message
  reply.setAttribute("aria-label", fill(words.reply_to, { name: bubble.mine ? words.you : bubble.sender }));
  reply.title = words.reply;
  meta.prepend(reply);
  return meta;
}

function reactionsOf(bubble) {
  const shown = node("p", "reactions");
  shown.append(unseen(`${words.reactions}:`), ...bubble.reactions.map((emoji) => node("span", "", emoji)));
  return shown;
}

function invoiceOf(invoice) {
  const card = node("div", "invoice");
  card.append(node("b", "", invoice.title), node("p", "", invoice.description), node("p", "test", words.test_payment));
  return card;
}

function expandable(quote) {
  const more = node("button", "more", words.more);
  more.type = "button";
  more.setAttribute("aria-expanded", "false");
  more.addEventListener("click", () => {
    const open = quote.classList.toggle("open");
    more.setAttribute("aria-expanded", String(open));
    more.textContent = open ? words.less : words.more;
  });
  quote.after(more);
}

// --- media ------------------------------------------------------------------------------------

function mediaOf(media) {
  const source = `/chat/media/${media.file_id}`;
  if (media.kind === "sticker") return node("p", "media sticker", media.emoji || "🖼");
  if (media.kind === "document" || media.kind === "voice") {
    const name = media.kind === "voice" ? `🎤 ${words.voice}, ${media.duration} s` : `${words.download} ${media.name}`;
    const link = node("a", "file", name);
    link.href = source;
    return link;
  }
  const box = node("div", `media${media.spoiler ? " covered" : ""}`);
  if (media.spoiler) uncoverable(box);
  box.append(media.kind === "photo" ? pictureOf(media) : playerOf(media, source));
  return box;
}

function uncoverable(box) {
  Object.assign(box, { tabIndex: 0, role: "button", ariaLabel: words.more });
  const uncover = (event) => {
    if (event.type === "keydown" && event.key !== "Enter") return;
    box.classList.remove("covered");
    for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
  };
  box.addEventListener("click", uncover);
  box.addEventListener("keydown", uncover);
}

function pictureOf(media) {
  const seen = sized(node("img"), media);
  seen.alt = words.photo;
  seen.src = `/chat/media/${media.preview || media.file_id}`;
  return seen;
}

function playerOf(media, source) {
  const seen = sized(node("video"), media);
  Object.assign(seen, { controls: true, playsInline: true, preload: "metadata" });
  seen.setAttribute("aria-label", media.name || words.video);
  if (media.poster) seen.poster = `/chat/media/${media.poster}`;
  if (media.kind === "animation") seen.loop = seen.muted = seen.autoplay = true;
  seen.addEventListener("loadedmetadata", () => nearEnd(420) && toEnd());
  seen.src = media.start ? `${source}#t=${media.start}` : source;
  return seen;
}

function sized(seen, media) {
  if (media.width && media.height) seen.style.aspectRatio = `${media.width} / ${media.height}`;
  return seen;
}

// --- moving through the messages ----------------------------------------------------------------

const nearEnd = (within) => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < within;
export const toEnd = () => requestAnimationFrame(() => scroll.scrollTo({ top: scroll.scrollHeight }));

export function focusRow(row) {
  row?.focus({ preventScroll: true });
  row?.scrollIntoView({ block: "nearest" });
}

export const lastRow = () => log.lastElementChild;
export const idOf = (row) => Number(row.dataset.id);
