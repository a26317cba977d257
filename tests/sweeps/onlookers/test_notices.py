"""Notices: what people are told, once over all starts, by a webhook and a command, which can harm nothing."""

from __future__ import annotations

import json
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sweeps.ledger import FAILED, End
from sweeps.obstacles import HaltedError
from sweeps.onlookers import around, notify
from sweeps.onlookers.notices import MOST_FAILURES, TOLD_FILE, Notices
from sweeps.onlookers.notify import Notice, Notify, check_notify, send
from sweeps.space import SearchSpace, SpaceError
from tests.sweeps.lab import OBJECTIVE, STEPS, Lab
from tests.sweeps.space_files import message_of, put, space_of

SECRET = "T00-B00-s3cr3t"
ENV = "TEAM_WEBHOOK"


@dataclass
class Hook:
    """A webhook on loopback. answers: status codes to come, then 200. texts: what it was told."""

    answers: list[int] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    tries: int = 0
    address: str = ""

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]


@contextmanager
def serving() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.tries += 1
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = hook.answers.pop(0) if hook.answers else 200
            if code == 200:
                assert self.headers["Content-Type"] == "application/json"
                hook.bodies.append(body)
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hook.address = f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hook(monkeypatch) -> Iterator[Hook]:
    monkeypatch.setattr(notify, "PAUSES_S", (0.01, 0.01))
    with serving() as hook:
        monkeypatch.setenv(ENV, hook.address)
        yield hook


@pytest.fixture
def lab(tmp_path) -> Lab:
    lab = Lab(tmp_path / "results", candidates=3)
    lab.baselines(1.0, 1.02)
    return lab


def told_by(lab: Lab, settings: Notify | None = None) -> tuple[Notices, list[str]]:
    said: list[str] = []
    return Notices(with_notify(lab, settings or Notify(webhook_env=ENV)), lab.paths, said.append), said


def with_notify(lab: Lab, settings: Notify) -> SearchSpace:
    from dataclasses import replace

    return replace(lab.space, notify=settings)


# -- settings


def test_a_file_names_the_variable_and_the_command():
    settings = space_of(put("notify", value={"webhook_env": ENV, "command": ["mail", "me"], "on": ["end"]}))
    assert settings.notify == Notify(webhook_env=ENV, command=("mail", "me"), on=("end",))
    assert settings.fingerprint == space_of().fingerprint
    assert not space_of().notify
    assert not space_of(put("notify", value={"on": ["end"]})).notify


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"webhook": f"https://hooks.slack.com/{SECRET}"}, "notify.webhook: no such setting: a file is no place for a"),
        ({"webhook_env": f"https://hooks.slack.com/{SECRET}"}, "notify.webhook_env: got what is no name of an"),
        (f"https://hooks.slack.com/{SECRET}", "notify: got no section"),
        ({"on": ["ends"]}, "notify.on: got 'ends', allowed is end, failure, best"),
        ({"command": "mail me"}, "notify.command: got 'mail me', allowed is a list"),
        ({"timeout_s": 0}, "notify.timeout_s: got 0, allowed is a number above 0"),
        ({"webhok_env": "X"}, "notify.webhok_env: no such setting; allowed is"),
    ],
)
def test_what_cannot_be_is_one_line_without_the_secret(value, told):
    message = message_of(put("notify", value=value))
    assert message.startswith(told)
    assert SECRET not in message


@pytest.mark.parametrize(("address", "told"), [(None, "is not set"), (f"ftp://x/{SECRET}", "is no http(s) address")])
def test_an_address_that_is_missing_is_told_before_anything_starts(lab, monkeypatch, address, told):
    monkeypatch.delenv(ENV, raising=False)
    if address:
        monkeypatch.setenv(ENV, address)
    with pytest.raises(ValueError, match=f"^notify.webhook_env: .*{ENV}") as caught:
        check_notify(Notify(webhook_env=ENV))
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)
    with (
        pytest.raises(SpaceError),
        around.onlookers(with_notify(lab, Notify(webhook_env=ENV)), lab.paths, print),
    ):
        pytest.fail("the body must not run")


# -- hooks


def test_a_webhook_gets_what_slack_takes(hook):
    assert send(Notice(event="best", text="a < b & c", more={"x": 1}), Notify(webhook_env=ENV)) == []
    assert hook.bodies == [{"text": "a &lt; b &amp; c"}]


@pytest.mark.parametrize(
    ("answers", "tries", "told"),
    [
        ([503, 429], 3, None),
        ([503, 503, 503], 3, "it answered 503, in 3 tries"),
        ([404], 1, "it answered 404, in 1 try"),
    ],
)
def test_a_webhook_is_tried_again_where_that_may_help(hook, answers, tries, told):
    hook.answers = answers
    problems = send(Notice(event="end", text="x", more={}), Notify(webhook_env=ENV))
    assert hook.tries == tries
    assert problems == ([f"notify: webhook: {told}; the sweep goes on"] if told else [])


def test_a_webhook_that_cannot_be_reached_tells_no_secret(hook, monkeypatch):
    monkeypatch.setenv(ENV, f"http://127.0.0.1:9/{SECRET}")
    (problem,) = send(Notice(event="end", text="x", more={}), Notify(webhook_env=ENV))
    assert problem == "notify: webhook: it cannot be reached (Connection refused), in 3 tries; the sweep goes on"
    monkeypatch.setenv(ENV, f"http://127.0.0.1:no/{SECRET}")
    (problem,) = send(Notice(event="end", text="x", more={}), Notify(webhook_env=ENV))
    assert problem == "notify: webhook: InvalidURL; the sweep goes on"


def script(folder: Path, text: str) -> str:
    file = folder / "hook"
    file.write_text(f"#!{sys.executable}\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_a_command_gets_json_and_no_shell(tmp_path):
    to = tmp_path / "got.json"
    code = "import json, sys; json.dump([sys.argv[1:], json.load(sys.stdin)], open(sys.argv[1], 'w'))"
    command = (script(tmp_path, code), str(to), "$HOME; exit 3")
    assert send(Notice(event="best", text="t", more={"trial": "candidate-001"}), Notify(command=command)) == []
    arguments, told = json.loads(to.read_text())
    assert arguments == [str(to), "$HOME; exit 3"]
    assert told == {"event": "best", "text": "t", "trial": "candidate-001"}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; print('no such room', file=sys.stderr); sys.exit(4)", "exit code 4: no such room"),
        ("import time; time.sleep(60)", "it took more than 0.5 s and was ended"),
    ],
)
def test_a_command_that_fails_is_told_of_in_one_line(tmp_path, code, told):
    settings = Notify(command=(script(tmp_path, code),), timeout_s=0.5)
    (problem,) = send(Notice(event="end", text="x", more={}), settings)
    assert problem == f"notify: command {tmp_path / 'hook'}: {told}; the sweep goes on"


def test_a_command_that_is_not_there(tmp_path):
    (problem,) = send(Notice(event="end", text="x", more={}), Notify(command=("no-such-program",)))
    assert problem.startswith("notify: command no-such-program: it cannot be started (No such file")


# -- what is told


def test_failures_and_new_bests_are_told_once_over_all_starts(lab, hook):
    notices, said = told_by(lab)
    notices.look(lab.ledger.records())
    assert hook.texts == []
    lab.trial("candidate-000", 0.9)
    notices.look(lab.ledger.records())
    lab.trial("candidate-001", 0.95)
    notices.look(lab.ledger.records())
    lab.trial("candidate-002", 0.8, outcome=FAILED, until=40, reason="diverged: loss is nan", end_step=57)
    told_by(lab)[0].look(lab.ledger.records())
    told_by(lab)[0].look(lab.ledger.records())
    best, failure = hook.texts
    sweep = lab.paths.root.name
    assert best.startswith(f"{sweep}: new best: candidate-000 (dinov2s_saliency, depth 1/2, weight 0.422), {OBJECTIVE}")
    assert "on one seed, it beats the baseline by 10.9 %" in best
    assert failure == f"{sweep}: candidate-002 failed at step 57: diverged: loss is nan"
    assert said == []
    assert SECRET not in (lab.paths.root / TOLD_FILE).read_text()


def test_what_was_before_notices_were_asked_for_is_not_told(lab, hook):
    lab.trial("candidate-000", 0.9)
    lab.trial("candidate-001", 1.0, outcome=FAILED, until=40, reason="no")
    told_by(lab)[0].look(lab.ledger.records())
    assert hook.texts == []


def test_many_failures_are_one_message(lab, hook):
    notices, _ = told_by(lab)
    for number in range(MOST_FAILURES + 2):
        lab.trial(f"candidate-{number:03d}", 1.0, outcome=FAILED, until=40, reason="out of memory")
    notices.look(lab.ledger.records())
    (text,) = hook.texts
    assert text.count("out of memory") == MOST_FAILURES
    assert text.endswith("and 2 trials more")


def test_only_what_is_asked_for_is_told(lab, hook):
    notices, _ = told_by(lab, Notify(webhook_env=ENV, on=("end",)))
    lab.trial("candidate-000", 0.9)
    notices.look(lab.ledger.records())
    assert hook.texts == []
    notices.ended(lab.ledger.records())
    assert len(hook.texts) == 1


def test_a_hook_that_fails_is_given_up_and_told_of(lab, hook):
    hook.answers = [500] * 3
    notices, said = told_by(lab)
    lab.trial("candidate-000", 0.9)
    for _ in range(2):
        notices.look(lab.ledger.records())
    assert said == ["notify: webhook: it answered 500, in 3 tries; the sweep goes on"]
    assert hook.tries == 3


def test_a_confirmed_winner_is_told_with_its_interval(tmp_path, hook):
    lab = Lab(tmp_path / "results", candidates=1, seeds=3, confirm=1)
    lab.baselines(1.0, 1.02, 0.99)
    notices, _ = told_by(lab)
    lab.trial("candidate-000", 0.8)
    notices.look(lab.ledger.records())
    lab.confirmations("candidate-000", 0.82, 0.81)
    notices.look(lab.ledger.records())
    first, confirmed = hook.texts
    assert "new best: candidate-000" in first
    assert "confirmed best: Yes: candidate-000" in confirmed
    assert "95 % interval" in confirmed


# -- beside a sweep


def test_a_sweep_is_followed_to_its_end(lab, hook, monkeypatch, capsys):
    monkeypatch.setattr(around, "POLL_S", 0.02)
    space = with_notify(lab, Notify(webhook_env=ENV))
    for _ in range(2):  # the same command again tells nothing twice
        with around.onlookers(space, lab.paths, print):
            if lab.ledger.record("candidate-000") is None:
                lab.trial("candidate-000", 0.9)
                lab.trial("candidate-001", 1.0, outcome=FAILED, until=40, reason="no")
                lab.trial("candidate-002", 1.3)
    kinds = [text.split(": ")[1].split(" ")[0] for text in hook.texts]
    assert sorted(kinds[:-1]) == ["candidate-001", "new"]
    end = hook.texts[-1]
    assert lab.summary().answer in end
    assert "5 trials: 4 finished, 1 failed" in end
    assert f"page: {lab.paths.page}" in end
    assert capsys.readouterr().out == ""


def test_a_halt_is_told_and_an_interruption_is_not(lab, hook):
    space = with_notify(lab, Notify(webhook_env=ENV))
    with pytest.raises(HaltedError), around.onlookers(space, lab.paths, print):
        raise HaltedError("the disk is full; free some; the same command goes on")
    assert hook.texts == [f"{lab.paths.root.name}: halted: the disk is full; free some; the same command goes on"]
    with pytest.raises(KeyboardInterrupt), around.onlookers(space, lab.paths, print):
        raise KeyboardInterrupt
    assert len(hook.texts) == 1


def test_a_ledger_that_cannot_be_read_harms_nothing(lab, hook, monkeypatch, capsys):
    monkeypatch.setattr(around, "POLL_S", 0.02)
    lab.trial("candidate-000", 0.9)
    with around.onlookers(with_notify(lab, Notify(webhook_env=ENV)), lab.paths, print):
        (lab.paths.ledger / "candidate-001.jsonl").write_text('{"kind": "end", "foreign": 1}\n')
        lab.ledger.append(End(trial="candidate-002", outcome=FAILED, step=STEPS[0], reason="", log=""))
    assert "not a row of this version's ledger" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"notify: {{webhook_env: {ENV}}}", f"notify.webhook_env: {ENV} is not set in the environment"),
        ("trackers: [wandb]", "trackers: wandb needs `pip install wandb`, or take it out of the file"),
    ],
)
def test_the_command_says_what_is_missing_before_anything_starts(tmp_path, monkeypatch, capsys, line, told):
    from sweeps import run
    from tests.sweeps.trials import SMOKE

    monkeypatch.delenv(ENV, raising=False)
    monkeypatch.setattr("sweeps.onlookers.trackers.find_spec", lambda name: None)
    file = tmp_path / "space.yaml"
    file.write_text(f"{SMOKE.read_text()}\n{line}\n")
    folders = ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    assert run.main([str(file), "--profile", "laptop", "--address", "local", *folders]) == run.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}: {told}")
    assert error.count("\n") == 1
    assert not (tmp_path / "cache").exists(), "no data was made"
