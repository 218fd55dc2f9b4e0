"""The demo: one `/create` makes one video, then the incident is replayed: a model that orders 13 times."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.application import App, open_sandboxed_app
from app.processes import run_polling, run_worker, running
from app.settings import Settings
from app.trace_command import build_tree, local_spans, render_tree
from chat.keyboards import APPROVE
from guardrails.money import ZERO, Money
from ledger import history, reports, requests
from ledger.models import FINAL_STATES, Request, RequestState, Video, VideoState, provider_key
from providers.video_file import probe
from sandbox.model import SandboxModel, SandboxModelProvider
from sandbox.preview.provider import LocalProvider
from sandbox.telegram.user import Person
from telemetry.logs import setup_logs
from telemetry.semconv import CREATE_VIDEO
from tools.generate_video import NAME

IDEA: Final = (
    "Traditional Mexican mercado at dawn, vendors setting up colourful stalls, steam rising from tamales"
)
_ANA, _BETO = 1001, 1002
_VIDEO_TIMEOUT_S: Final = 120
_TRACE_TIMEOUT_S: Final = 5
_REPEATED_CALLS: Final = 13


class DemoError(Exception):
    """The demo did not end as expected; the message says how it ended."""


@dataclass(frozen=True)
class DemoResult:
    """The result of one command: its rows, the net amount charged, its duration in seconds."""

    request: Request
    video: Video
    charged: Money
    seconds: float


async def demo(settings: Settings, console: Console) -> None:
    """Run one command and the incident through the local Bot API, and print both.

    Raises:
        DemoError: A command did not end as expected.
    """
    folder = settings.var_dir / "demo" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    model = SandboxModel(latency_s=0.05)
    folder.mkdir(parents=True, exist_ok=True)
    setup_logs("INFO", "json", folder / "log.jsonl")
    console.print(_intro())
    async with (
        open_sandboxed_app(unconfigured(settings), folder, models=SandboxModelProvider(model)) as (
            app,
            api,
        ),
        running(run_worker(app), run_polling(app)),
    ):
        console.print(f"[dim]local Bot API {api.base_url} · Valkey and SQLite in {folder}[/]\n")
        first = await _run_command(app, api.user(_ANA, "Ana"), console, f"/create {IDEA}")
        _show_video(console, first)
        await _show_trace(console, first, settings.otlp.url)
        console.rule("[bold]The incident: the same command, and a model that insists thirteen times")
        model.behavior = "thirteen"
        before = model.asked[NAME]
        second = await _run_command(app, api.user(_BETO, "Beto"), console, f"/create {IDEA}")
        await _show_bill(console, app, second, model.asked[NAME] - before)


def unconfigured(settings: Settings) -> Settings:
    """Return default settings with only the folder and the collector of `settings`.

    The user's keys, provider and agents are not used.
    """
    return Settings.model_construct(
        var_dir=settings.var_dir,
        otel_exporter_otlp_endpoint=settings.otel_exporter_otlp_endpoint,
        otel_exporter_otlp_traces_endpoint=settings.otel_exporter_otlp_traces_endpoint,
        otel_exporter_otlp_headers=settings.otel_exporter_otlp_headers,
        deployment_environment="demo",
    )


def _intro() -> Panel:
    text = Text.from_markup(
        "One [bold]/create[/] makes [bold]one[/] video: never two, never zero in silence.\n"
        "[dim]A sandbox: no key, no token, no real money. The model is scripted and Telegram is local;\n"
        "the agent's run loop, the guards, the queue, the ledger and the MP4 are the real ones.[/]"
    )
    return Panel(text, title="OneTake", border_style="cyan")


async def _run_command(app: App, person: Person, console: Console, command: str) -> DemoResult:
    """Send one command as a user would, and show its progress until it ends."""
    began = time.monotonic()
    console.print(f"[bold cyan]{person.user.first_name}[/] › {command}")
    sent = await person.send(command)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            found = await _find_request(app, person.id, sent.id)
            if found is not None:
                live.update(_progress(*found, time.monotonic() - began))
                request, video = found
                if video is not None and video.state in FINAL_STATES and request.told == video.state:
                    break
                if video is not None and video.state is VideoState.AWAITING_APPROVAL:
                    await _tap_offer(person, console, request)
                if request.state in (RequestState.REFUSED, RequestState.NO_ORDER):
                    raise DemoError(f"the request ended as {request.state}: {request.reason}")
            if time.monotonic() - began > _VIDEO_TIMEOUT_S:
                raise DemoError(f"no video after {_VIDEO_TIMEOUT_S} s; last seen: {found}")
            await asyncio.sleep(0.1)
    if video.state is not VideoState.DELIVERED:
        raise DemoError(f"the video ended as {video.state}: {video.failure_detail}")
    charged = await reports.net_charged(app.ledger, request.request_id)
    return DemoResult(request, video, charged, time.monotonic() - began)


async def _tap_offer(person: Person, console: Console, request: Request) -> None:
    """Tap [Make it] once the offer is shown; nothing is charged before that."""
    offer = next((one for one in person.history() if one.id == request.status_message_id), None)
    buttons = [one for row in offer.buttons for one in row] if offer is not None else []
    make_it = next((one for one in buttons if (one.data or "").startswith(APPROVE)), None)
    if offer is None or make_it is None:
        return  # it is being shown
    console.print(f"[bold cyan]{person.user.first_name}[/] › {escape(f'[{make_it.text}]')}")
    query = await person.tap(offer.id, make_it.data or "")
    await person.wait_for_answer(query)


async def _find_request(app: App, user_id: int, message_id: int) -> tuple[Request, Video | None] | None:
    found = await requests.list_for_user(app.ledger, user_id, 1)
    return found[0] if found and found[0][0].message_id == message_id else None


def _progress(request: Request, video: Video | None, seconds: float) -> Group:
    state = str(request.state if video is None else video.state)
    done = 0 if video is None else video.progress
    line = Text.assemble(("  bot   ", "bold magenta"), (f"{state:<18}", "bold"), f"{seconds:5.1f} s  ")
    return Group(line, Text("  "), ProgressBar(total=100, completed=done, width=48))


def _show_video(console: Console, outcome: DemoResult) -> None:
    path = Path(outcome.video.asset_path or "")
    asset = probe(path)
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("delivered", f"#{outcome.request.short_id} in {outcome.seconds:.1f} s"),
        ("caption", outcome.request.caption or ""),
        ("video", f"{asset.width}x{asset.height}, {asset.seconds:.1f} s, {asset.bytes // 1000} kB, PREVIEW"),
        ("charged", f"{outcome.charged} (test credits)"),
    ):
        table.add_row(f"[dim]{name}[/]", value)
    console.print(table)
    console.print(f"[dim]file[/]       {path}", soft_wrap=True)
    console.print()


async def _show_trace(console: Console, outcome: DemoResult, collector: str | None) -> None:
    """Print the request's spans. The last one is written just after the last message to the user."""
    for _ in range(_TRACE_TIMEOUT_S * 10):
        nodes = local_spans(outcome.request.traceparent)
        if any(node.name == CREATE_VIDEO for node in nodes):
            break
        await asyncio.sleep(0.1)
    where = f"sent to {collector}" if collector else "set OTEL_EXPORTER_OTLP_ENDPOINT to see it in Jaeger"
    console.print(f"[bold]its trace[/] [dim]({where})[/]")
    for root in build_tree(nodes):
        console.print(render_tree(root))
    console.print()


async def _show_bill(console: Console, app: App, outcome: DemoResult, asked: int) -> None:
    """Print the calls that the model made, the charges in the provider's log, and the recorded refusals."""
    request_id = outcome.request.request_id
    refused = await history.refused_calls(app.ledger, request_id)
    paid = _provider_charges(app, outcome.video)
    prevented = asked - len(paid)  # not len(refused): a refusal counts even if it could not be recorded
    table = Table(title=f"{prevented} calls prevented", title_justify="left")
    for name in ("#", "tool", "reason", "layer", "arguments named"):
        table.add_column(name)
    for number, call in enumerate(refused, start=1):
        table.add_row(str(number), call.tool, call.word, call.layer, call.arguments)
    console.print(table)
    charged = sum(paid, ZERO)
    bill = Text.from_markup(
        f"[bold]{asked}[/] asked · [bold green]{len(paid)}[/] paid · [bold]{prevented}[/] prevented\n"
        f"[bold green]{charged}[/] in place of [red]{outcome.video.quote * asked}[/]   "
        "[dim](test credits; paid is counted in the provider's own charge log)[/]"
    )
    console.print(Panel(bill, title="The bill", border_style="green"))
    if len(paid) != 1 or asked != _REPEATED_CALLS or charged != outcome.charged:
        raise DemoError(
            f"asked {asked}, paid {len(paid)}, booked {outcome.charged}: not one of {_REPEATED_CALLS}"
        )
    console.print("Next: [bold]make chat[/] opens a page where you can talk to the bot.")


def _provider_charges(app: App, video: Video) -> list[Money]:
    """Return the provider's own charges for this request's key: an independent oracle."""
    provider = app.worker.provider_of(video)
    if not isinstance(provider, LocalProvider):
        raise DemoError("the demo runs on the local provider")
    key = provider_key(video.request_id)
    return [Money(line.micros) for line in provider.charges.lines() if line.key == key]
