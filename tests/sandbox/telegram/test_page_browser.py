"""The chat page in a real browser, by the keyboard alone: replies, payments, what a screen reader hears.

Needs Debian's chromium and chromium-driver; without them the tests are skipped.
"""

import asyncio
import shutil

import pytest
from aiogram.types import ForceReply, InlineKeyboardButton, InlineKeyboardMarkup, LabeledPrice
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from sandbox.telegram import BotApiServer
from tests.support.bot_api import bot_of, jpeg

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 30
WIDTHS = ((1200, 900), (390, 844))
ANA = 1001
GO = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Make it", callback_data="go")]])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="chromium or chromium-driver was absent; the page was tested over HTTP only",
    ),
]


class Browser:
    """A page of one person, driven by keys."""

    def __init__(self, folder):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={folder}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open(self, url):
        self.driver.get(url)
        self.until("return document.querySelector('.row') !== null")
        # The page focuses its field where there is a mouse, which a browser without a screen has not.
        self.driver.execute_script("document.getElementById('text').focus()")

    def until(self, script):
        WebDriverWait(self.driver, WAIT_S).until(lambda driver: driver.execute_script(script))

    def keys(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def text(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css).get_property("textContent")

    def heard(self):
        """Return what a screen reader was given to say, in order."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('#news p')].map(p => p.textContent)"
        )

    def fits(self):
        """Assert that nothing is wider than the window, on a desktop and on a phone."""
        for size in WIDTHS:
            self.driver.set_window_size(*size)
            wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert self.driver.execute_script(wider) <= 0, size


@pytest.fixture
async def env(tmp_path):
    """Yield a server, its bot and a browser at Ana's page."""
    async with BotApiServer() as api, bot_of(api) as bot:
        browser = await asyncio.to_thread(Browser, tmp_path / "browser")
        try:
            await api.user(ANA, "Ana").send("/start")
            await asyncio.to_thread(browser.open, f"{api.chat_url}?user={ANA}&lang=en")
            yield api, bot, browser
            messages = [one["message"] for one in browser.driver.get_log("browser")]
            assert messages == []
        finally:
            await asyncio.to_thread(browser.driver.quit)


async def newest(bot):
    (update,) = await bot.get_updates(offset=-1, timeout=5)
    return update


async def on(browser, method, *given):
    return await asyncio.to_thread(getattr(browser, method), *given)


async def test_a_question_is_answered_by_keys_alone(env):
    """A forced reply fills the reply bar; Enter sends it; Up and R choose another message; Escape leaves."""
    api, bot, browser = env
    asked = await bot.send_message(
        ANA, "Your idea?", reply_markup=ForceReply(input_field_placeholder="A cat that cooks")
    )
    await on(browser, "until", "return document.getElementById('text').placeholder === 'A cat that cooks'")
    assert "Your idea?" in browser.text("#replying")
    await on(browser, "keys", "a lighthouse", Keys.ENTER)
    said = await api.user(ANA).wait_for(lambda bubble: bubble.text == "a lighthouse")
    assert said.reply_to == asked.message_id
    await on(browser, "until", "return document.getElementById('replying').hidden")
    await on(browser, "until", "return document.querySelectorAll('.row').length === 3")
    await on(browser, "keys", Keys.ARROW_UP)
    await on(browser, "keys", Keys.ARROW_UP)
    await on(browser, "keys", "r")
    assert "Your idea?" in browser.text("#replying")
    await on(browser, "keys", Keys.ESCAPE)
    await on(browser, "until", "return document.getElementById('replying').hidden")
    await on(browser, "fits")


async def test_a_screen_reader_hears_messages_and_not_each_edit(env):
    """Each message is heard once, an edit only where it asks something; focus stays on an edited message."""
    _, bot, browser = env
    sent = await bot.send_message(ANA, "Working …", reply_markup=GO)
    await on(browser, "until", "return document.querySelectorAll('#news p').length === 1")
    await on(browser, "keys", Keys.ARROW_UP)
    await on(browser, "keys", Keys.TAB)
    for percent in (10, 50, 90):
        await bot.edit_message_text(
            f"Working … {percent} %", chat_id=ANA, message_id=sent.message_id, reply_markup=GO
        )
    await on(browser, "until", "return document.body.textContent.includes('90 %')")
    focused = "return document.activeElement.closest('.row')?.dataset.id"
    assert browser.driver.execute_script(focused) == str(sent.message_id)
    await bot.send_message(ANA, "Done")
    await on(browser, "until", "return document.querySelectorAll('#news p').length === 2")
    assert browser.heard() == ["OneTake: Working …", "OneTake: Done"]
    assert browser.driver.find_element(By.ID, "log").get_attribute("aria-live") == "off"
    assert browser.driver.find_element(By.ID, "news").get_attribute("aria-live") == "polite"


async def test_a_test_payment_by_keys(env):
    """The dialog says that it is a test; Enter pays; the chat shows the payment."""
    _, bot, browser = env
    await bot.send_invoice(
        ANA, "One video", "8 s", "order:1", "XTR", [LabeledPrice(label="Video", amount=150)]
    )
    await on(browser, "until", "return document.querySelector('.invoice') !== null")
    browser.driver.execute_script("document.querySelector('.keys button').focus()")
    await on(browser, "keys", Keys.ENTER)
    await on(browser, "until", "return document.getElementById('payment').open")
    assert "Test payment" in browser.text("#payment .test")
    await on(browser, "keys", Keys.ENTER)
    update = await newest(bot)
    while not update.pre_checkout_query:
        update = await newest(bot)
    await bot.answer_pre_checkout_query(update.pre_checkout_query.id, ok=True)
    await on(browser, "until", "return document.body.textContent.includes('You paid ⭐ 150. Test payment.')")


async def test_photos_are_attached_and_sent(env, tmp_path):
    """A chosen file shows above the field, with a button to remove it; the words are its caption."""
    _, bot, browser = env
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    picker = browser.driver.find_element(By.ID, "picker")
    await asyncio.to_thread(picker.send_keys, str(tmp_path / "cat.jpg"))
    await on(browser, "until", "return document.querySelector('#files li') !== null")
    assert browser.driver.find_element(By.CSS_SELECTOR, "#files button").get_attribute("aria-label") == (
        "Remove cat.jpg"
    )
    await on(browser, "keys", "like this", Keys.ENTER)
    update = await newest(bot)
    while not (update.message and update.message.photo):
        update = await newest(bot)
    assert (update.message.photo[-1].width, update.message.caption) == (180, "like this")
