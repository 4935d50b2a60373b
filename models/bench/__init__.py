"""How fast a model is on a card: the model as a worker runs it, under a load that is stated, told as figures.

A run is described by a `Plan` and told by a JSON document (`results.py`). There are four kinds:

- `rows`: so many rows at once of a fixed number of frames through slot model, codec and engine, behind prompts
  of made-up ids. Needs no tokenizer, so that weights can be random.
- `jobs`: whole jobs by the handler, from text and files to files. Needs a checkpoint, and ends when the model does.
- `generate`: rows of the engine beside transformers' own `generate`, in turns.
- `components`: the parts of a model one by one, on the processor and on the card.

A family is known by its `Subject` only. Nothing here knows of jobs' rows, databases or brokers.
"""

from .plan import Plan
from .session import measure

__all__ = ["Plan", "measure"]
