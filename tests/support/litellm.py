"""A real LiteLLM proxy between the app and fake providers; `make gateway-test` installs it.

Each proxy has one configuration and one port for its life, also when it is killed and started again. The fake
providers behind it are made for each test, on ports that the configuration names.
"""

import asyncio
import base64
import os
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY

LITELLM = os.environ.get("ONETAKE_LITELLM", "")
"""Path of the command `litellm` in an environment of its own."""

ABSENT = "LiteLLM is absent: `make gateway-test` installs it and runs these"
_START_S = 120


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@dataclass
class LiteLLMProxy:
    """One proxy.

    Attributes:
        folder: Of its configuration and its log.
        changes: Sections that are added to what its users begin with.
        retries: `num_retries` of the first model.
        more_models: Further models, at the second provider.
    """

    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)
    deployment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port, self.first_port, self.second_port = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _config(self) -> dict[str, Any]:
        def model(name: str, port: int, **more: Any) -> dict[str, Any]:
            at = {"model": "openai/sora-2", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": FAKE_KEY}
            return {
                "model_name": name,
                "litellm_params": at | more,
                "model_info": {"mode": "video_generation"},
            }

        models = [model("sora-2", self.first_port, **self.deployment), model("other", self.second_port)]
        return {"model_list": models, "general_settings": {"master_key": FAKE_KEY}, **self.changes}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        config = self.folder / "litellm.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        self._log = (self.folder / "litellm.log").open("ab")
        words = (
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--telemetry",
            "False",
        )
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_PROXY": "*"}
        self._process = subprocess.Popen(
            [LITELLM, *words], cwd=self.folder, env=env, stdout=self._log, stderr=self._log
        )
        end = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, f"LiteLLM ended: {self.folder / 'litellm.log'}"
            assert time.monotonic() < end, "LiteLLM does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/readiness", timeout=2):
                return True
        except OSError:
            return False

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End exactly this process."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()

    async def restart(self) -> None:
        await asyncio.to_thread(self.start)


@dataclass
class BehindLiteLLM(FakeProvider):
    """A fake provider that the app reaches through a proxy: `base_url` is the proxy's."""

    proxy_url: str = ""

    def __post_init__(self) -> None:
        self.shape = "openai"  # that of the provider, whatever the adapter speaks

    @property
    def base_url(self) -> str:
        return f"{self.proxy_url}/v1"


def proxys_id(job: str, model: str = "sora-2") -> str:
    """Return LiteLLM's id of a provider's job, as docs/providers.md says that a person makes it."""
    text = f"litellm:custom_llm_provider:openai;model_id:{model};video_id:{job}"
    return f"video_{base64.b64encode(text.encode()).decode()}"
