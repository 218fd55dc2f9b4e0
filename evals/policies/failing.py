"""`failing`: an endpoint that fails before or after a decent director's call."""

import asyncio
from typing import Final, Literal

import httpx2
from agents.items import TResponseOutputItem
from openai import APIConnectionError, InternalServerError
from pydantic import Field

from evals.base import Said
from evals.case import Policy as Asked
from evals.policies.policy import Moment
from evals.policies.rehearsed import Rehearsed

_ASKED: Final = httpx2.Request("POST", "http://model.invalid/v1/responses")


class Failure(Said):
    """The options of `failing`."""

    turn: int = Field(default=0, ge=0)
    """In which turn it fails: 0 is before the tool was called, 1 after."""
    how: Literal["503", "cut", "hang"] = "503"
    once: bool = False
    """Only the first time; else every attempt meets it."""


class Failing(Rehearsed):
    """A decent director behind an endpoint that answers 503, breaks off, or does not answer."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.model_copy(update={"name": "benign"}))
        self._failure = Failure.model_validate(asked.options)
        self._failed = False
        self.unmet = f"no turn {self._failure.turn} of the model was left to fail"

    async def answer(self, moment: Moment) -> list[TResponseOutputItem]:
        due = moment.agent == "director" and moment.scene.turn == self._failure.turn
        if due and not (self._failed and self._failure.once):
            self._failed, self.unmet = True, ""
            await self._fail()
        return await super().answer(moment)

    async def _fail(self) -> None:
        if self._failure.how == "hang":
            await asyncio.Event().wait()
        if self._failure.how == "cut":
            raise APIConnectionError(message="the answer broke off", request=_ASKED)
        raise InternalServerError("503", response=httpx2.Response(503, request=_ASKED), body=None)
