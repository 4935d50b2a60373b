"""Metrics in Prometheus' text format.

Two places serve them, both off until asked for and on loopback until told otherwise:

    soundmill worker, with the setting `metrics_port`   what the cards of one host do: `card.py` counts in the
        process of each card and leaves its numbers in shared memory (`shared.py`), the supervisor adds its own
        (`host.py`) and serves all of them on one port
    soundmill metrics serve                              what the job table and Redis hold (`exporter.py`);
        once for a deployment, wherever both can be reached

Names begin with `soundmill_`, units are base units, and what vLLM has too is called as it is called there. No
label names a job, a batch or a tenant: their number has no bound. `operations/` has alert rules and a dashboard.
"""
