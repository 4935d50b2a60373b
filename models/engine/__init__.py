"""The engine: one thread per card that steps many requests of several models together.

| file | what |
|---|---|
| `ports.py` | what a model is to the engine: `SlotModel`, `BatchModel` |
| `engine.py` | what the engine is to handlers: models are added, requests asked for |
| `loop.py` | its thread: requests come in, models take turns |
| `slot_lane.py` | a slot model's turn: admit → prefill → step → finish |
| `batch_lane.py` | a batch model's turn |
| `schedule.py` | who sits in which slot, what is packed together, whose turn it is; no tensors |
| `opening.py`, `division.py` | how the memory is divided before the first request |
| `request.py` | a request, from both sides |
| `faults.py`, `watch.py`, `meter.py` | what an error means; what the watchdog is told; what is counted |
| `cache.py`, `sampling.py`, `draws.py`, `resident.py` | what slot models are made of |
"""
