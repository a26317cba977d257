"""Who is told what, and how: `notify:` of a search-space file. It changes no result, and no fingerprint.

The address of a webhook is a secret as a rule. So it stands in an environment variable of the driver, and nowhere else:
no file, message or error here holds it.
"""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from sweeps.config import ConfigError, build, listing

END, FAILURE, BEST = EVENTS = ("end", "failure", "best")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PAUSES_S = (1.0, 4.0)  # between tries of a webhook
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers after which another try may do better
LONGEST_PROBLEM = 160  # characters


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Who is told when a trial fails, a candidate is the new best, or the sweep ends or halts.

    webhook_env: name of the environment variable that holds the address of a webhook, as Slack, Mattermost and others
    take it: it gets {"text": ...}. command: a program and its arguments, run without a shell; it gets JSON on its
    standard input. on: what is told of: 'end', 'failure', 'best'. timeout_s: that either may take.
    """

    webhook_env: str | None = None
    command: tuple[str, ...] = ()
    on: tuple[str, ...] = EVENTS
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.webhook_env is not None and not NAME.fullmatch(self.webhook_env):
            raise ValueError(
                "webhook_env: got what is no name of an environment variable (not shown: it may be a secret), allowed "
                "is a name such as SLACK_WEBHOOK, under which the address stands in the driver's environment"
            )
        if unknown := [event for event in self.on if event not in EVENTS]:
            raise ValueError(f"on: got {unknown[0]!r}, allowed is {listing(EVENTS)}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: got {self.timeout_s:g}, allowed is a number above 0")

    def __bool__(self) -> bool:
        return bool((self.webhook_env or self.command) and self.on)


def notify_of(value: Any) -> Notify:
    """Of what stands in a file. Raises ConfigError, which shows no value that may be a secret."""
    if value is None:
        return Notify()
    if not isinstance(value, Mapping):
        raise ConfigError("notify", "got no section, allowed is one such as {webhook_env: SLACK_WEBHOOK}")
    if "webhook" in value:
        raise ConfigError(
            "notify.webhook",
            "no such setting: a file is no place for a secret; allowed is webhook_env, the name of an environment "
            "variable that holds the address",
        )
    return build(Notify, {**value}, "notify")


def check_notify(notify: Notify) -> None:
    """Raise ValueError, in one line, where nobody could be told."""
    name = notify.webhook_env
    if name is None:
        return
    if not os.environ.get(name):
        raise ValueError(f"notify.webhook_env: {name} is not set in the environment; allowed is an http(s) address")
    if urlsplit(os.environ[name]).scheme not in ("http", "https"):
        raise ValueError(f"notify.webhook_env: what {name} holds is no http(s) address (not shown)")


@dataclass(frozen=True, kw_only=True)
class Notice:
    """event: one of EVENTS. text: a line or a few, for people. more: for programs."""

    event: str
    text: str
    more: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        return {"event": self.event, "text": self.text, **self.more}


def send(notice: Notice, notify: Notify) -> list[str]:
    """Tell it everybody, once each. Returns what went wrong, a line for each; raises nothing."""
    problems = []
    if notify.webhook_env is not None:
        problems += _tried("webhook", lambda: _post(notice, os.environ.get(notify.webhook_env or "", ""), notify))
    if notify.command:
        problems += _tried(f"command {notify.command[0]}", lambda: _run(notice, notify))
    return problems


def _tried(name: str, attempt: Callable[[], None]) -> Sequence[str]:
    try:
        attempt()
    except _UntoldError as error:
        told = str(error)
    except Exception as error:  # its words may hold the address
        told = type(error).__name__
    else:
        return []
    return [f"notify: {name}: {told[:LONGEST_PROBLEM]}; the sweep goes on"]


class _UntoldError(Exception):
    """Why nobody was told, in words that hold no secret."""


def _post(notice: Notice, address: str, notify: Notify) -> None:
    # Slack reads these three as markup.
    body = json.dumps({"text": html.escape(notice.text, quote=False)}).encode()
    request = Request(address, data=body, headers={"Content-Type": "application/json"}, method="POST")
    for i, pause_s in enumerate((*PAUSES_S, None)):
        try:
            with urlopen(request, timeout=notify.timeout_s):
                return
        except HTTPError as error:
            problem, passing = f"it answered {error.code}", error.code in PASSING
            error.close()
        except OSError as error:  # URLError is one, and tells the cause
            reason = getattr(error, "reason", error)
            words = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
            problem, passing = f"it cannot be reached ({words})", True
        if not passing or pause_s is None:
            raise _UntoldError(f"{problem}, in {i + 1} {'try' if i == 0 else 'tries'}")
        time.sleep(pause_s)


def _run(notice: Notice, notify: Notify) -> None:
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                notify.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # what it has started ends with it
            )
        except OSError as error:
            raise _UntoldError(f"it cannot be started ({error.strerror})") from error
        try:
            process.communicate(json.dumps(notice.plain()).encode(), timeout=notify.timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise _UntoldError(f"it took more than {notify.timeout_s:g} s and was ended") from error
        if process.returncode:
            said.seek(0)
            last = (said.read().decode(errors="replace").split("\n\n")[-1].strip().splitlines() or [""])[-1]
            raise _UntoldError(f"exit code {process.returncode}" + (f": {last}" if last else ""))
