"""Progress on a terminal: lines scroll, and below them stands what is going on, how fast, and for how long yet.

Whatever computes says lines, ``stage: what``; one that holds ``done/wanted`` moves the bar and does not scroll.
Elsewhere than on a terminal every line is printed as it is, and this module is not loaded.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

_COUNT = re.compile(r"(?P<before>.*?)\b(?P<done>\d[\d,]*)/(?P<wanted>\d[\d,]*)\b,? ?(?P<after>.*)")
_FAULT = re.compile(r"\b(?:[1-9]\d* failed|exploded|stopped early|that nothing explains)\b")


class _Bar(BarColumn):
    """A bar where there is something to count."""

    def render(self, task: Task) -> Text:  # type: ignore[override]
        return Text("") if task.total is None else super().render(task)  # type: ignore[return-value]


class _Pace(TextColumn):
    """How many of how many, how many a second, and how long yet."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        told = f"{task.completed:,.0f}/{task.total:,.0f}"
        if task.speed:
            told += f"  {task.speed:,.3g}/s" if task.speed >= 1 else f"  {60 * task.speed:,.3g}/min"
        if task.time_remaining is not None:
            minutes, seconds = divmod(int(task.time_remaining), 60)
            told += (
                f"  {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
                if minutes > 59
                else f"  {minutes}:{seconds:02d} left"
            )
        return Text(told)


class Terminal:
    """The lower end of the terminal that standard error leads to."""

    def __init__(self) -> None:
        self._fault, self._what = "", ""
        self._progress = Progress(
            SpinnerColumn(), TextColumn("[bold]{task.description}"), _Bar(bar_width=24), _Pace(), TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True, highlight=False), transient=True, redirect_stderr=False,
            redirect_stdout=sys.stdout.isatty(),  # results go above the bar, but never from a pipe to the terminal
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task("", total=None, detail="")

    def tell(self, line: str) -> None:
        """Show a line of progress; one that counts moves the bar."""
        stage, colon, rest = line.partition(": ")
        if _FAULT.search(line):
            self._fault = line
        counted = _COUNT.fullmatch(rest) if colon else None
        if counted is None:
            clock = datetime.now().astimezone().strftime("%H:%M:%S")
            self._progress.console.print(
                f"[dim]{clock}[/] [bold]{escape(stage)}[/]{colon}{escape(rest)}", soft_wrap=True
            )
            self._begin(stage, None)
            return
        done, wanted = (int(counted[k].replace(",", "")) for k in ("done", "wanted"))
        what, now = f"{stage}: {counted['before']}".rstrip(" :"), self._progress.tasks[0]
        if what != self._what or wanted != now.total or done < now.completed:
            self._begin(what, wanted)
        self._progress.update(self._task, completed=done, detail=self._detail(counted["after"]))

    def _begin(self, what: str, wanted: int | None) -> None:
        self._what = what
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(escape(what), total=wanted, detail=self._detail(""))

    def _detail(self, text: str) -> str:
        fault = f"[red]{escape(self._fault)}[/]" if self._fault else ""
        return "  ".join(filter(None, (escape(text), fault)))

    def close(self) -> None:
        """Give the line back."""
        self._progress.stop()
