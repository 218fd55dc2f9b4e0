"""The admin page in a real browser: log in, resolve a HOLD, close a breaker, log out.

Needs Debian's chromium and chromium-driver; without them the test is skipped.
"""

import asyncio
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from guardrails.money import Money
from ledger import breaker, transitions
from ledger.models import VideoState
from tests.support.admin_page import NAME, TOKEN, open_admin_page
from tests.support.factories import accepted, begun, new_job, put, video_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 30
WIDTHS = ((1280, 900), (390, 844))


def open_browser(folder):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={folder}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


class Page:
    """The page object: find elements, fill in fields, press buttons and wait."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def find(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def fill(self, **fields):
        for name, value in fields.items():
            self.find(f"main [name={name}]:not([type=hidden])").send_keys(value)

    def send(self, css, then):
        """Press a button and wait for an element that only the next page has."""
        self.find(css).click()
        WebDriverWait(self.driver, WAIT_S).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, then))

    def fits(self):
        """Assert that nothing is wider than the window, on a desktop and on a phone."""
        for size in WIDTHS:
            self.driver.set_window_size(*size)
            overflow = self.driver.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0, size
            cut = self.driver.execute_script(
                "return [...document.querySelectorAll('.tile, .wide, .rankings section, figure')]"
                ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText)"
            )
            assert not cut, size


def visit(folder, url):
    """Use the page as an operator does; return the browser's console messages."""
    driver = open_browser(folder)
    try:
        page = Page(driver, url)
        driver.get(f"{url}/admin")
        assert driver.current_url == f"{url}/admin/login"
        page.fits()
        page.fill(who=NAME, token="wrong")
        page.send("main button", ".error")
        page.fill(who=NAME, token=TOKEN)
        page.send("main button", ".tiles")
        page.fits()
        assert driver.execute_script("return getComputedStyle(document.querySelector('.bar')).fill") != ""
        assert driver.execute_script("return getComputedStyle(document.body).margin") == "0px"
        page.send(".alarm button", "[name=sure]")
        page.fits()
        page.send("main button", ".notice")
        page.find(".hold summary").click()
        page.find(".hold input[value=unpaid]").click()
        page.fill(why="their invoice")
        page.send(".hold button", "[name=sure]")
        page.send("main button", "main:not(:has(.hold))")
        for path in ("requests", "users", "audit"):
            driver.get(f"{url}/admin/{path}")
            page.fits()
        driver.get(f"{url}/admin")
        assert not driver.find_elements(By.CSS_SELECTOR, ".hold, .alarm")
        assert driver.execute_script("return document.cookie") == ""
        page.send("header button", "[name=token]")
        driver.get(f"{url}/admin")
        assert driver.current_url == f"{url}/admin/login"
        return [one["message"] for one in driver.get_log("browser")]
    finally:
        driver.quit()


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium or chromium-driver was absent; the page was tested over HTTP only",
)
async def test_an_operator_in_a_real_browser(ledger, opened, tmp_path):
    """A browser that enforces the security headers logs in, acts and logs out; the ledger has the changes."""
    paid = await accepted(ledger, opened, new_job(), Money(1_234_567_891))
    assert await transitions.transition(
        ledger, paid, VideoState.ACCEPTED, VideoState.SUCCEEDED, "test", "done"
    )
    request = await begun(ledger, opened)
    await put(ledger, request, VideoState.HOLD, failure="in_doubt")
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "test", "a job too many", 5)
    async with open_admin_page(ledger) as env:
        complaints = await asyncio.to_thread(visit, tmp_path / "browser", env.url)
    assert (await video_of(ledger, request)).state is VideoState.FAILED_UNPAID
    assert await breaker.open_breakers(ledger) == []
    assert [one for one in complaints if "401" not in one] == []
