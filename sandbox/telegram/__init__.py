"""A local Telegram for newcomers, tests and the demo, on loopback only.

It serves the part of the Bot API that we use over real HTTP, refuses what Telegram refuses, repeats what
Telegram repeats, fails on demand, and has a chat page for the browser. It does not import the bot, never
reaches the internet and never pretends to be Telegram: every page says what it is.
"""

from sandbox.telegram.base import SandboxError
from sandbox.telegram.bubbles import Bubble
from sandbox.telegram.faults import Fault
from sandbox.telegram.server import BotApiServer
from sandbox.telegram.user import Person

__all__ = ["BotApiServer", "Bubble", "Fault", "Person", "SandboxError"]
