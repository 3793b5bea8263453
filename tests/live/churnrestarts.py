"""The recorder under churn: started, stopped or killed at random moments, and started again."""

import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

from apiserver import ApiServer
from churnpods import WINDOW_S
from playednode import NODE_NAME, PlayedNode, listeners, until
from recording import CTK
from truth import Session, Truth


class Script(Protocol):
    """What of the script concerns the recorder."""

    play: PlayedNode
    api: ApiServer
    truth: Truth
    db: Path


class Restarts(threading.Thread):
    """
    Starts the recorder, stops or kills it at random moments, and starts it again.

    `failures` are what went wrong with it: an exit code or a traceback.
    """

    def __init__(self, churn: Script, folder: Path, seed: int, options: tuple[str, ...]) -> None:
        super().__init__(name="restarts")
        self._churn, self._folder, self._chance = churn, folder, random.Random(seed + 1)
        self._options = options
        self.over = threading.Event()
        self.failures: list[str] = []
        self.signals = {"TERM": 0, "KILL": 0}
        self.last = False  # the last recorder runs, or is about to
        self.down_s: float | None = None  # set when it goes down, for how long

    def run(self) -> None:
        try:
            while not self.over.is_set() and len(self.failures) < 3:
                self._session(last=False)
                down_s = self._chance.choice((0.0, self._chance.uniform(0, 4)))
                self.down_s = down_s
                self.over.wait(down_s)
            if self.over.is_set():
                self._session(last=True)
                self.last = True
                self._session(last=True)
        except Exception as error:
            self.failures.append(repr(error))
            raise

    def _session(self, *, last: bool) -> None:
        play, chance, n = self._churn.play, self._chance, len(self._churn.truth.sessions)
        config = self._churn.api.kubeconfig(self._folder / "kubeconfig")
        command = (*CTK, "record", str(self._churn.db), "--kubeconfig", str(config))
        command += ("--node-name", NODE_NAME, "--window", f"{WINDOW_S}s", *self._options)
        how = "TERM" if last or chance.random() < 0.5 else "KILL"
        up_s = 6.0 if last else chance.choice((chance.uniform(0, 3), chance.uniform(3, 14)))
        log, listening_ns = self._folder / f"{n}.log", 0
        with log.open("w", encoding="utf-8") as said:
            spawned_ns = time.time_ns()
            process = subprocess.Popen(play.command(*command), stderr=said)
            try:
                if chance.random() < 0.9 or last:
                    until(lambda: listeners(play) > 0 or process.poll() is not None, "it", 30)
                    listening_ns = time.time_ns()
                    self.over.wait(up_s) if not last else time.sleep(up_s)
                else:
                    time.sleep(chance.uniform(0, 1))
                    how = "KILL"  # a Python that has not yet got so far ends on SIGTERM anyhow
            finally:
                asked_ns = time.time_ns()
                process.send_signal(getattr(signal, f"SIG{how}"))
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    self.failures.append(f"{n}: did not stop in 60 s")
        ended_ns = time.time_ns()
        self._churn.truth.sessions.append(
            Session(spawned_ns, listening_ns, asked_ns, ended_ns, how)
        )
        self.signals[how] += 1
        text = log.read_text(encoding="utf-8")
        if "Traceback" in text or (how == "TERM" and process.returncode):
            self.failures.append(f"{n}: exit {process.returncode}: {text[-2000:]}")
