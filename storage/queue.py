"""The queue as Redis holds it: names, the Celery settings, and messages out.

A message is a wake-up: the id of one job, on the queue named like its model. The bodies of the
tasks live with the worker; producers and the dispatcher only need the names.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from celery import Celery
from kombu import Connection, Producer, Queue
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from .errors import BrokerUnavailable
from .priorities import STEPS, step_of
from .window import Wake

logger = logging.getLogger(__name__)

TASK_PREFIX = "soundmill."
SEPARATOR = "\x06\x16"  # kombu's own, between a queue's name and its priority step

RESPONSIVE = {
    "socket_timeout": 0.2,
    "socket_connect_timeout": 0.2,
    "max_retries": 0,  # without it kombu opens a dead connection again and again, for ever
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}
"""Transport options of a producer: a frozen Redis must not hold up a submit."""

PATIENT = {
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    # How long a wait for messages lasts. A queue that is joined again, once its model has a free slot,
    # is first heard in the next one: kombu's own second would leave the card idle.
    "polling_interval": 0.05,
}
"""Transport options of workers and the dispatcher, who have nothing better to do than to wait."""

BREAKER_S = 5.0
BATCH_MESSAGES = 1000

MISFORTUNES = (KombuError, RedisError, OSError)


def task_name(kind: str) -> str:
    """The name of the task that performs jobs of a kind: what Flower shows."""
    return f"{TASK_PREFIX}{kind}"


def make_app(broker_url: str | None, transport: dict[str, Any], models: Iterable[str] = ()) -> Celery:
    """The one way to make a Celery application here.

    Args:
        broker_url: Where Redis is; `None` leaves it to be set later.
        transport: `RESPONSIVE` or `PATIENT`.
        models: The models whose queues the application knows.
    """
    app = Celery("soundmill", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_queues=[queue_of(model) for model in models],
        task_create_missing_queues=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_track_started=False,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        task_send_sent_event=False,  # it halves the speed of publishing
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # Kombu's imitation of acknowledgements copies every message to a second place in Redis and
            # back, loses some all the same, and repeats long tasks. Recovery is the job table's.
            "ack_emulation": False,
            "priority_steps": list(STEPS),
            # Round-robin between queues within a step: 'priority' lets one model starve another.
            "queue_order_strategy": "round_robin",
            "client_name": "soundmill",
            **transport,
        },
    )
    return app


def queue_of(model: str) -> Queue:
    """The queue of a model, bound to nothing: messages go through the default exchange.

    After a FLUSHALL a publish to a named exchange succeeds and vanishes, as its bindings are gone.
    """
    return Queue(model, exchange=None, routing_key=model)


def redis_key(model: str, step: int) -> str:
    """The Redis list of a lane."""
    return f"{model}{SEPARATOR}{step}" if step else model


class Publisher:
    """Sends messages over one connection of its own; safe between threads.

    After a failure it refuses for a few seconds without trying (the circuit breaker), so that many
    submits in a row do not each wait for the same dead Redis.
    """

    def __init__(self, app: Celery, *, breaker_s: float = BREAKER_S) -> None:
        self._app = app
        self._breaker_s = breaker_s
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._closed_until = 0.0

    def publish(self, wakes: Sequence[Wake]) -> None:
        """Put one message for each job on its queue.

        Raises:
            BrokerUnavailable: Redis did not take them; some may have arrived all the same.
        """
        with self._lock:
            self._guarded(lambda: self._send(wakes))

    def lengths(self, models: Iterable[str]) -> dict[tuple[str, int], int]:
        """How many messages wait in each lane of the models.

        Raises:
            BrokerUnavailable: Redis did not answer.
        """
        lanes = [(model, step) for model in models for step in STEPS]
        with self._lock:
            counts: list[int] = []
            self._guarded(lambda: counts.extend(self._measure(lanes)))
            return dict(zip(lanes, counts, strict=True))

    def stop_running(self, ids: Iterable[str]) -> None:
        """Tell all workers that running jobs are cancelled; they look into the job table.

        Raises:
            BrokerUnavailable: Redis did not take it; the next heartbeat will notice instead.
        """
        arguments = {"task_id": list(ids), "terminate": True, "signal": "SIGTERM"}
        with self._lock:
            self._guarded(
                lambda: self._app.control.broadcast("revoke", arguments=arguments, connection=self._open())
            )

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def _guarded(self, action: Any) -> None:
        if time.monotonic() < self._closed_until:
            raise BrokerUnavailable("the broker did not answer a moment ago; jobs wait in the job table")
        try:
            action()
        except MISFORTUNES as error:
            self._closed_until = time.monotonic() + self._breaker_s
            self._drop()
            raise BrokerUnavailable(f"the broker did not answer: {error}") from error
        except BaseException:
            self._drop()
            raise

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
            self._producer = None
        return self._connection

    def _drop(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            try:
                connection.collapse_transport()
            except Exception:  # a dead socket may fail in any way while it is thrown away
                logger.debug("closing a dead broker connection failed", exc_info=True)

    def _send(self, wakes: Sequence[Wake]) -> None:
        connection = self._open()
        if self._producer is None:
            self._producer = Producer(connection.default_channel, serializer="json", auto_declare=False)
        with self._producer.batch(BATCH_MESSAGES):
            for wake in wakes:
                self._send_one(self._producer, wake)

    def _send_one(self, producer: Producer, wake: Wake) -> None:
        message = self._app.amqp.as_task_v2(
            wake.id, task_name(wake.kind), args=(wake.id,), ignore_result=True
        )
        producer.publish(
            message.body,
            exchange="",
            routing_key=wake.model,
            priority=step_of(wake.priority),
            serializer="json",
            delivery_mode=2,
            headers=message.headers,
            **message.properties,
        )

    def _measure(self, lanes: Sequence[tuple[str, int]]) -> list[int]:
        with self._open().default_channel.conn_or_acquire() as client:
            pipeline = client.pipeline(transaction=False)
            for model, step in lanes:
                pipeline.llen(redis_key(model, step))
            return [int(count) for count in pipeline.execute()]
