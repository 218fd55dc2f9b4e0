"""A worker that dies at a named point: the next task that reaches it ends there, telling nobody."""

from telemetry.points import Point, listen


class Killed(BaseException):
    """Not an Exception: no handler of ours may look at it, as none looks at a SIGKILL."""


class Doomed:
    """At which point somebody dies next in this process. One case is played in it at a time."""

    def __init__(self) -> None:
        self._at: Point | None = None
        self._listens = False

    def set_at(self, point: Point | None) -> None:
        """Let the next task that reaches `point` die; None spares it."""
        self._at = point
        if not self._listens:
            listen(self._reached)
            self._listens = True

    async def _reached(self, point: Point) -> None:
        if point == self._at:
            self._at = None
            raise Killed(point)


doomed = Doomed()
