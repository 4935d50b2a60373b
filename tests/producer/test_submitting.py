"""Submitting one job or a graph of them, on both databases."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from soundmill.producer import Job, Producer, Request
from soundmill.storage.errors import IdempotencyConflict, InputRefused, NotFound, SubmitRefused
from soundmill.storage.lifecycle import State
from soundmill.storage.settings import Settings

from .playing import finish, finish_with_file, rows_of, serve


def speech(text: str = "Good morning.", **more: object) -> Request:
    return Request(model="espeak-ng", args={"text": text}, **more)  # type: ignore[arg-type]


def test_a_job_is_a_row_with_every_argument_given(producer: Producer) -> None:
    job = producer.submit(speech(custom_id="a", batch="b", priority=7, timeout_s=60))

    view = job.get()
    assert job.fresh
    assert view.state == State.AVAILABLE
    assert (view.kind, view.model, view.custom_id, view.batch, view.priority) == (
        "tts",
        "espeak-ng",
        "a",
        "b",
        7,
    )
    assert view.args == {
        "text": "Good morning.", "language": "en-us", "voice": None, "speed": 1.0, "pitch": 50,
        "sample_rate": 22050, "format": "wav", "word_times": True,
    }  # fmt: skip
    assert view.deadline_at == pytest.approx(view.submitted_at + 60)


def test_the_fields_of_a_request_may_be_given_by_name(producer: Producer) -> None:
    assert producer.submit(model="espeak-ng", args={"text": "a"}).get().args["text"] == "a"


def test_a_job_with_a_delay_or_a_time_waits_for_it(producer: Producer) -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    jobs = [producer.submit(speech(delay_s=60)), producer.submit(speech(at=later))]

    views = [job.get() for job in jobs]
    assert [view.state for view in views] == [State.SCHEDULED, State.SCHEDULED]
    assert [round((view.scheduled_at or 0) - view.submitted_at, -1) for view in views] == [60, 90]


def test_the_same_key_with_the_same_arguments_is_the_same_job_in_any_state(producer: Producer) -> None:
    first = producer.submit(speech(idempotency_key="k"))
    finish(producer, first.id)
    # Speed 1 is the default: whether it is written down makes no other request.
    again = producer.submit(
        model="espeak-ng", args={"text": "Good morning.", "speed": 1}, idempotency_key="k"
    )

    assert (again.id, again.fresh, again.state) == (first.id, False, State.COMPLETED)
    assert len(rows_of(producer.database)) == 1


def test_the_same_key_with_other_arguments_is_refused(producer: Producer) -> None:
    producer.submit(speech(idempotency_key="k"))

    with pytest.raises(IdempotencyConflict) as refusal:
        producer.submit(speech("Good night.", idempotency_key="k"))

    assert refusal.value.field == "idempotency_key"
    assert len(rows_of(producer.database)) == 1


def test_keys_of_different_tenants_do_not_meet(settings: Settings, producer: Producer) -> None:
    first = producer.submit(speech(idempotency_key="k"))
    with Producer(settings.model_copy(update={"tenant": "other"})) as other:
        second = other.submit(speech("Good night.", idempotency_key="k"))

        assert second.fresh
        with pytest.raises(NotFound):
            other.get(first.id)
        with pytest.raises(NotFound):
            other.cancel(first.id)
        with pytest.raises(NotFound):
            other.wait(first.id, timeout_s=5)
        with pytest.raises(NotFound):
            other.artifacts(first.id)


def test_a_graph_is_accepted_in_any_order_and_waits_for_its_parents(producer: Producer) -> None:
    align, speak, describe = producer.submit_graph(
        [
            Request(model="espeak-dtw", args={"text": "a", "audio": {"job": "@speech"}}),
            speech("a", alias="speech"),
            Request(model="acoustic", args={"audio": {"job": "@speech"}}),
        ]
    )

    assert align.get().args["audio"] == describe.get().args["audio"] == {"job": speak.id}
    assert [job.get().state for job in (align, speak, describe)] == ["scheduled", "available", "scheduled"]
    finish(producer, speak.id)
    assert [job.get().state for job in (align, describe)] == ["available", "available"]


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([("a", "@b"), ("b", "@a")], "in a circle: @a"),
        ([("a", "@a")], "in a circle: @a"),
        ([("a", "@nobody")], "no job of this submit has the alias 'nobody'"),
        ([("a", None), ("a", None)], "'a' is given to two jobs"),
    ],
)
def test_a_graph_that_cannot_run_is_refused_whole(
    small_producer: Producer, requests: list[tuple[str, str | None]], words: str
) -> None:
    graph = [speech()] + [
        speech(alias=alias)
        if parent is None
        else Request(model="acoustic", alias=alias, args={"audio": {"job": parent}})
        for alias, parent in requests
    ]

    with pytest.raises(SubmitRefused, match=words):
        small_producer.submit_graph(graph)

    assert rows_of(small_producer.database) == []


def test_one_bad_request_refuses_the_whole_graph(producer: Producer) -> None:
    producer.submit(speech(idempotency_key="k"))

    with pytest.raises(IdempotencyConflict):
        producer.submit_graph([speech(batch="new"), speech("other", idempotency_key="k")])

    assert len(rows_of(producer.database)) == 1


def test_a_new_child_of_a_known_parent_reads_from_the_job_that_is_there(producer: Producer) -> None:
    parent = producer.submit(speech(idempotency_key="p"))
    child = Request(model="acoustic", args={"audio": {"job": "@s"}}, idempotency_key="c")
    known, fresh = producer.submit_graph([speech(idempotency_key="p", alias="s"), child])

    assert known.id == parent.id
    assert fresh.get().args["audio"] == {"job": parent.id}
    assert fresh.get().state == State.SCHEDULED
    # And again: the alias in the request binds the key, not the id that it stood for.
    assert [job.id for job in producer.submit_graph([speech(idempotency_key="p", alias="s"), child])] == [
        parent.id,
        fresh.id,
    ]


def test_a_handle_an_id_and_a_file_of_a_job_can_be_the_audio_of_another(
    producer: Producer, tmp_path: Path, tone: Path
) -> None:
    parent = producer.submit(speech())
    assert producer.submit(model="acoustic", args={"audio": parent}).get().args["audio"] == {"job": parent.id}
    finish_with_file(producer, parent.id, "audio.wav", tone.read_bytes(), tmp_path)
    by_id = producer.submit(model="acoustic", args={"audio": {"job": parent.id}})
    sha256 = producer.artifacts(parent.id)[0].sha256
    by_hash = producer.submit(model="acoustic", args={"audio": {"artifact": sha256}})

    assert by_id.get().state == State.AVAILABLE
    [held] = producer.artifacts(by_hash.id)
    assert (held.role, held.sha256, held.media_type) == ("input", sha256, "audio/wav")


def test_a_path_and_the_same_bytes_are_the_same_audio(producer: Producer, tone: Path) -> None:
    forms = [str(tone), tone, tone.read_bytes(), {"path": tone}, {"bytes": tone.read_bytes()}]
    jobs = [producer.submit(model="acoustic", args={"audio": form}, idempotency_key="k") for form in forms]

    assert len({job.id for job in jobs}) == 1
    [stored] = jobs[0].artifacts()
    assert stored.role == "input"
    with jobs[0].open_artifact(stored.name) as stream:
        assert stream.read() == tone.read_bytes()


def test_audio_of_another_tenant_cannot_be_named_by_its_hash_or_job(
    settings: Settings, producer: Producer, tone: Path
) -> None:
    job = producer.submit(model="acoustic", args={"audio": tone})
    sha256 = job.artifacts()[0].sha256
    speaking = producer.submit(speech())
    with Producer(settings.model_copy(update={"tenant": "other"})) as other:
        with pytest.raises(InputRefused, match="none of the jobs has a file"):
            other.submit(model="acoustic", args={"audio": {"artifact": sha256}})
        with pytest.raises(SubmitRefused, match="there is no job"):
            other.submit(model="acoustic", args={"audio": {"job": speaking.id}})


def test_a_job_that_makes_no_audio_cannot_be_read_from(small_producer: Producer, tone: Path) -> None:
    description = small_producer.submit(model="acoustic", args={"audio": tone})

    with pytest.raises(SubmitRefused, match="does a caption job, which makes no audio"):
        small_producer.submit(model="acoustic", args={"audio": description})


def test_a_job_of_a_failed_parent_is_cancelled_at_once(producer: Producer) -> None:
    parent = producer.submit(speech())
    finish(producer, parent.id, state=State.DISCARDED, error_code="x", error="no")
    child = producer.submit(model="acoustic", args={"audio": parent})

    assert child.state == State.CANCELLED
    assert child.get().error_code == "parent_failed"


def test_a_job_that_nobody_serves_comes_with_a_warning(small_producer: Producer) -> None:
    waiting = small_producer.submit(speech())
    serve(small_producer.database, "espeak-ng")
    served = small_producer.submit(speech())

    assert "no live worker serves espeak-ng" in (waiting.warning or "")
    assert served.warning is None


def test_cancelling_and_retrying_reach_the_children(producer: Producer) -> None:
    parent = producer.submit(speech())
    child = producer.submit(model="acoustic", args={"audio": parent})
    parent.cancel()
    assert [view.state for view in producer.wait([child.id, parent.id], 5)] == ["cancelled", "cancelled"]
    parent.retry()
    assert [job.get().state for job in (parent, child)] == ["available", "scheduled"]


def test_a_paused_model_must_be_in_the_catalogue(small_producer: Producer) -> None:
    with pytest.raises(SubmitRefused, match="did you mean 'espeak-ng'"):
        small_producer.pause("espeak-mg")


@pytest.mark.postgres
def test_a_job_joins_the_transaction_of_its_caller(postgres_url: str, tmp_path: Path) -> None:
    engine = create_engine(postgres_url)
    with Producer(Settings(state_dir=tmp_path, database_url=postgres_url)) as producer:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE orders (name TEXT)"))
        with engine.connect() as connection:
            lost = producer.submit(speech(), connection=connection)
            connection.rollback()
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO orders VALUES ('one')"))
            with pytest.raises(SubmitRefused):
                producer.submit(speech(""), connection=connection)
            kept = producer.submit(speech(idempotency_key="k"), connection=connection)
            with pytest.raises(IdempotencyConflict):
                producer.submit(speech("x", idempotency_key="k"), connection=connection)
            assert isinstance(kept, Job)
            with pytest.raises(NotFound):
                producer.get(kept.id)

        assert kept.get().state == State.AVAILABLE
        with pytest.raises(NotFound):
            producer.get(lost.id)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM orders")).scalar() == 1
    engine.dispose()


def test_only_a_transaction_on_postgresql_can_be_joined(small_producer: Producer) -> None:
    with small_producer.database.write() as connection:
        with pytest.raises(SubmitRefused) as refusal:
            small_producer.submit(speech(), connection=connection)
    assert refusal.value.field == "connection"


def test_results_stream_a_whole_batch(producer: Producer) -> None:
    jobs = producer.submit_graph([speech(str(number), batch="b") for number in range(7)])
    producer.submit(speech("elsewhere"))
    finish(producer, *(job.id for job in jobs))

    assert {view.id for view in producer.results(batch="b", timeout_s=5)} == {job.id for job in jobs}
    began = time.monotonic()
    assert [view.id for view in producer.results(jobs[:2], timeout_s=5)]
    assert time.monotonic() - began < 2
