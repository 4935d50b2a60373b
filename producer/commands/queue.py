"""`soundmill queue`: how the queues of the models stand; pause and resume them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundmill.producer import console
from soundmill.producer.invocation import AsJson, open_producer

if TYPE_CHECKING:
    from soundmill.producer.producer import Producer
    from soundmill.storage.listing import WorkerView

COUNTED = 1000
"""Available jobs are counted up to here: a backlog of millions is not read for a glance."""

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The id of a model.")]


def commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="See how the queues stand; pause and resume them.", no_args_is_help=True)
    for command in (show, pause, resume):
        group.command()(command)
    app.add_typer(group, name="queue")


def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Show for each model what waits, what runs and who serves it."""
    from soundmill.storage.listing import workers

    with open_producer(context) as producer:
        with producer.database.read() as connection:
            seen = workers(connection, producer.database)
        lengths = _window_lengths(producer)
        queues = [_queue(producer, model, lengths, seen) for model in producer.catalog.ids()]
    if as_json:
        console.answer_json({"queues": queues, "workers": [_worker(worker) for worker in seen]})
        return
    console.table(
        ("model", ">available", ">executing", ">in the window", "paused", ">live workers"),
        [
            (
                queue["model"],
                f"{COUNTED}+" if queue["available"] >= COUNTED else queue["available"],
                queue["executing"],
                "broker down" if queue["window"] is None else queue["window"],
                "paused" if queue["paused"] else "",
                queue["live_workers"],
            )
            for queue in queues
        ],
    )
    if seen:
        rows = [
            (worker.name, "live" if worker.live else "gone", "draining" if worker.draining else "", worker.slots,
             console.clock(worker.heartbeat_at or None), ", ".join(worker.models))
            for worker in seen
        ]  # fmt: skip
        console.table(("worker", "", "", ">slots", "last heard of", "models"), rows)


def pause(context: typer.Context, model: Model, as_json: AsJson = False) -> None:
    """Let no job of a model start, on any worker, until it is resumed."""
    with open_producer(context) as producer:
        producer.pause(model)
    _answer(model, paused=True, as_json=as_json)


def resume(context: typer.Context, model: Model, as_json: AsJson = False) -> None:
    """Let the jobs of a model start again."""
    with open_producer(context) as producer:
        producer.resume(model)
    _answer(model, paused=False, as_json=as_json)


def _answer(model: str, *, paused: bool, as_json: bool) -> None:
    if as_json:
        console.answer_json({"model": model, "paused": paused})
    else:
        console.answer(f"{model} is {'paused' if paused else 'running'}")


def _queue(
    producer: Producer, model: str, lengths: dict[tuple[str, int], int] | None, seen: list[WorkerView]
) -> dict[str, Any]:
    from soundmill.producer.lookup import waiting_and_executing
    from soundmill.storage.listing import paused_models

    with producer.database.read() as connection:
        available, executing = waiting_and_executing(connection, model, COUNTED)
        paused = model in paused_models(connection)
    window = None if lengths is None else sum(count for (name, _), count in lengths.items() if name == model)
    live = sum(worker.live and not worker.draining and model in worker.models for worker in seen)
    return {
        "model": model,
        "available": available,
        "executing": executing,
        "window": window,
        "paused": paused,
        "live_workers": live,
    }


def _window_lengths(producer: Producer) -> dict[tuple[str, int], int] | None:
    """How many messages wait in each lane; `None` if the broker does not answer."""
    from soundmill.storage.broker import running_broker_url
    from soundmill.storage.errors import StorageError
    from soundmill.storage.queue import RESPONSIVE, Publisher, make_app

    url = running_broker_url(producer.settings)
    if url is None:
        return None
    publisher = Publisher(make_app(url, RESPONSIVE))
    try:
        return publisher.lengths(producer.catalog.ids())
    except StorageError:
        return None
    finally:
        publisher.close()


def _worker(worker: WorkerView) -> dict[str, Any]:
    return {name: getattr(worker, name) for name in type(worker).__dataclass_fields__}
