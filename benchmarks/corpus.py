"""The whole way under fire: 2,000 sentences, two workers, an interrupted submit and a killed worker.

    python benchmarks/corpus.py                      # SQLite, about two minutes on two cores
    python benchmarks/corpus.py --lines 500 --database-url postgresql+psycopg://…

`soundmill submit` gets tests/data/corpus/sentences.jsonl, and Ctrl-C once a part of it is done; then a
worker that holds jobs is killed with SIGKILL; then the same command is run again to the end. What is
printed: jobs and hours of audio, jobs in flight at the kill, executions beyond one per job, jobs and
seconds of audio per second (from the first start to the last end, the interruptions included).

Every job has to be completed exactly once, and every text to have audio: else the script ends with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from soundmill.storage.database import Database
from soundmill.storage.lifecycle import State
from soundmill.storage.rows import Artifact, Attempt, Job, Worker
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings

CORPUS = Path(__file__).parent.parent / "tests/data/corpus/sentences.jsonl"
LIMIT_S = 1800.0


def main() -> int:
    """Run it, print the figures, keep them if asked to."""
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-corpus-")))
        run = Run(folder, options)
        with run.workers():
            figures = run.all()
        run.close()
    for name, value in figures.items():
        print(f"{name:<32}{value}")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")
    return (
        0 if figures["completed"] == figures["jobs"] == figures["completions"] == figures["with audio"] else 1
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=2000, help="how many lines of the corpus")
    parser.add_argument("--cards", default="cpu:0,cpu:1", help="the workers")
    parser.add_argument("--model", default="espeak-ng", help="any model for text to speech")
    parser.add_argument("--database-url", help="an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    return parser.parse_args()


class Run:
    """One pass over the corpus on a host of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.cards = options.cards
        self.model = options.model
        self.log = folder / "workers.log"
        self.manifest = folder / "sentences.jsonl"
        lines = CORPUS.read_text(encoding="utf-8").splitlines(keepends=True)[: options.lines]
        self.manifest.write_text("".join(lines), encoding="utf-8")
        self.lines = len(lines)
        given = {"database_url": options.database_url} if options.database_url else {}
        # A lease is short here, so that the dead worker's jobs come back within seconds.
        self.settings = Settings(
            state_dir=folder / "state",
            lease_s=6.0,
            heartbeat_s=2.0,
            reaper_s=1.0,
            leader_lease_s=3.0,
            **given,
        )
        self.database = Database(self.settings.database_url)
        migrate(self.database)
        self.environment = os.environ | self.settings.environment()
        self.supervisor: psutil.Process | None = None

    @contextmanager
    def workers(self) -> Iterator[None]:
        """The broker and the workers, as long as the context lasts."""
        command = [sys.executable, "-m", "soundmill.worker", "up", "--no-flower", "--ephemeral"]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--card", self.cards], stdin=subprocess.PIPE, env=self.environment, stderr=log
            )
        self.supervisor = psutil.Process(process.pid)
        try:
            wanted = len(self.cards.split(","))
            _until(
                lambda: self._count(select(Worker.name).where(Worker.heartbeat_at > 0)) == wanted, self.words
            )
            yield
        finally:
            process.communicate(timeout=120)

    def words(self) -> str:
        """The last of what the workers said."""
        return self.log.read_text(errors="replace")[-3000:]

    def all(self) -> dict[str, Any]:
        """Submit, interrupt, kill, submit again; return the figures."""
        first = self._submit()
        _until(lambda: self._completed() >= self.lines // 5 or first.poll() is not None, self.words)
        interrupted_at = self._completed()
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=120)
        in_flight = self._kill_a_card_at_work()
        again = self._submit()
        answer, words = again.communicate(timeout=LIMIT_S)
        if again.returncode:
            sys.exit(f"the second submit ended with {again.returncode}: {words.decode()}{self.words()}")
        return {
            "lines": self.lines,
            "first submit ended with": first.returncode,
            "completed when interrupted": interrupted_at,
            "in flight at the kill": in_flight,
            "submitted again as known": json.loads(answer)["known"],
            **self._outcome(),
        }

    def _submit(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "soundmill.producer", "submit", str(self.manifest)]
        return subprocess.Popen(
            [*command, "--model", self.model, "--json"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _kill_a_card_at_work(self) -> int:
        """Kill -9 a worker while it holds jobs; return how many it held."""
        assert self.supervisor is not None
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at and self._completed() < self.lines:
            for card in self.supervisor.children():
                words = card.cmdline()
                if "soundmill.worker.card" not in words:
                    continue
                card.suspend()  # what it holds must not change between the look and the kill
                name = words[words.index("--incarnation") + 1]
                held = self._count(select(Job.seq).where(Job.state == State.EXECUTING, Job.worker == name))
                if held:
                    card.kill()
                    return held
                card.resume()
            time.sleep(0.01)
        sys.exit(f"no worker was caught at work: {self.words()}")

    def _outcome(self) -> dict[str, Any]:
        with self.database.read() as connection:
            jobs = connection.execute(
                select(Job.state, Job.attempt, Job.metrics, Job.started_at, Job.finished_at)
            ).all()
        completed = [job for job in jobs if job.state == State.COMPLETED]
        audio_s = sum((job.metrics or {}).get("audio_s", 0.0) for job in completed)
        first_at = min(job.finished_at for job in completed)
        span_s = max(job.finished_at for job in completed) - first_at
        audio = select(Artifact.job_id).where(Artifact.role == "audio", Artifact.size > 1000)
        return {
            "jobs": len(jobs),
            "completed": len(completed),
            "completions": self._count(select(Attempt.job_id).where(Attempt.outcome == "completed")),
            "with audio": self._count(audio),
            "states": dict(Counter(str(job.state) for job in jobs)),
            "re-executions": sum(job.attempt - 1 for job in jobs),
            "hours of audio": round(audio_s / 3600, 3),
            "wall s": round(span_s, 1),
            "jobs/s": round(len(completed) / span_s, 2),
            "audio-s/s": round(audio_s / span_s, 1),
            "characters/s of speech": round(self._characters() / audio_s, 1),
            "cpus": os.cpu_count(),
        }

    def _characters(self) -> int:
        lines = self.manifest.read_text(encoding="utf-8").splitlines()
        return sum(len(json.loads(line)["text"]) for line in lines)

    def _completed(self) -> int:
        return self._count(select(Job.seq).where(Job.state == State.COMPLETED))

    def _count(self, query: Any) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())

    def close(self) -> None:
        """Close the job table."""
        self.database.close()


def _until(condition: Callable[[], bool], words: Callable[[], str]) -> None:
    give_up_at = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > give_up_at:
            sys.exit(f"nothing happened for {LIMIT_S:.0f} s: {words()}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
