"""Sampling on the card: each row by its own rules, from one uniform number, without a host read.

The rules apply in the order of transformers' generate: repetition penalty, temperature, top-k, top-p.
What remains is drawn by inverting the cumulative distribution in the order of the ids, in float32.

Ties are decided by values, never by the order in which a card happens to sort: top-k keeps every id
that is as likely as the k-th, top-p every id as likely as the last that it needs, and greedy takes the
lowest id among the likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .resident import resident, resized

_LEAST_TEMPERATURE = 1e-5

_TEMPERATURE, _TOP_K, _TOP_P, _PENALTY, _CHANCE = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one row chooses.

    Attributes:
        temperature: What logits are divided by; 0 is greedy, whatever the rest says.
        top_k: So many of the likeliest ids stay; `None` for all.
        top_p: The likeliest ids that reach this probability together stay, (0, 1].
        repetition_penalty: What positive logits of ids that were seen are divided by, and negative ones
            multiplied with (Keskar et al., "CTRL", 2019); 1 is none.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest id is taken always. Logits would overflow at lesser temperatures."""
        return self.temperature < _LEAST_TEMPERATURE


GREEDY = Sampling(temperature=0.0)


class Sampler:
    """The rules of each slot for one vocabulary.

    A model has one for each kind of choice that has rules of its own, such as text and audio.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        device: torch.device | str,
        ranks: int | None = None,
        nucleus: bool = True,
    ) -> None:
        """Describe the sampler; `reserve` takes the memory.

        What it computes is fixed here, not by the rows of the moment: a row's draw would otherwise
        depend on its neighbours.

        Args:
            vocabulary: Number of ids V.
            device: Where logits are.
            ranks: The largest `top_k` that any row may ask for: finding so few is much cheaper than
                sorting all, and then top-p only goes together with top-k. `None` sorts all.
            nucleus: Whether any row may ask for `top_p`.
        """
        self.vocabulary = vocabulary
        self.ranks = min(ranks or vocabulary, vocabulary)
        self._nucleus = nucleus
        self._rules = resident(0, 5, dtype=torch.float32, device=device)
        self._ids = torch.arange(vocabulary, dtype=torch.float32, device=device)  # exact up to 2^24
        self._order = torch.arange(self.ranks, dtype=torch.float32, device=device)

    def check(self, sampling: Sampling) -> None:
        """Say whether this sampler can follow the rules.

        Raises:
            ValueError: With a sentence that names the argument; to be asked before a row is made.
        """
        if not 0 <= sampling.temperature < torch.inf:
            raise ValueError("temperature: it is 0 (greedy) or more")
        if not 0 < sampling.repetition_penalty < torch.inf:
            raise ValueError("repetition_penalty: more than 0")
        if sampling.greedy:
            return
        limited = sampling.top_k is not None and sampling.top_k < self.vocabulary
        if sampling.top_k is not None and sampling.top_k < 1:
            raise ValueError("top_k: at least 1, or none at all")
        if limited and sampling.top_k > self.ranks:  # type: ignore[operator]
            raise ValueError(f"top_k: at most {self.ranks} here, or none at all")
        if not 0 < sampling.top_p <= 1:
            raise ValueError("top_p: more than 0 and at most 1")
        if sampling.top_p < 1 and not self._nucleus:
            raise ValueError("top_p: it is not offered here")
        if sampling.top_p < 1 and not limited and self.ranks < self.vocabulary:
            raise ValueError(f"top_p: only together with a top_k of at most {self.ranks}")

    def reserve(self, slots: int) -> None:
        """Have room for `slots` slots; those below that number keep their rules."""
        before = len(self._rules)
        self._rules = resized(self._rules, slots)
        for slot in range(before, slots):
            self.clear(slot)

    def set(self, slot: int, sampling: Sampling) -> None:
        """Let the slot's row follow these rules, which `check` allows."""
        self.check(sampling)
        greedy = sampling.greedy
        rules = torch.tensor(
            [
                1.0 if greedy else sampling.temperature,
                1 if greedy else min(sampling.top_k or self.vocabulary, self.vocabulary),
                torch.inf if greedy or sampling.top_p == 1 else sampling.top_p,  # rounding shall drop nothing
                sampling.repetition_penalty,
                0.0 if greedy else 1.0,  # the first of the likeliest ids
            ]
        )
        self._rules[slot].copy_(rules, non_blocking=True)

    def move(self, source: int, target: int) -> None:
        """A row goes to another slot."""
        self._rules[target].copy_(self._rules[source])

    def clear(self, slot: int) -> None:
        """Leave nothing of the slot's row behind."""
        self.set(slot, GREEDY)

    def draw(self, logits: Tensor, uniform: Tensor, *, seen: Tensor | None = None) -> Tensor:
        """Choose an id for each of the first B slots.

        Args:
            logits: `[B, V]`; minus infinity for an id that must not come, finite for one at least.
            uniform: In [0, 1), `[B]`, from `draws.uniforms`.
            seen: Which ids the penalty applies to, bool `[B, V]`.

        Returns:
            Ids, int64 `[B]`. A row whose logits are no numbers gets the id 0.
        """
        rules = self._rules[: len(logits)]
        logits = logits.float()
        if seen is not None:
            logits = penalize(logits, seen, rules[:, _PENALTY])
        logits = logits / rules[:, _TEMPERATURE, None]
        ranked = self._ranked(logits)  # [B, R]
        threshold = self._threshold(ranked, rules)
        weights = torch.exp(logits - ranked[:, :1]).masked_fill(logits < threshold, 0.0)  # [B, V]
        reached = weights.cumsum(-1)
        target = (uniform * rules[:, _CHANCE])[:, None] * reached[:, -1:]
        # Sums in parallel may fall a little from one id to the next: an id must also have a weight.
        allowed = (reached > target) & (weights > 0)
        first = torch.where(allowed, self._ids, float(self.vocabulary)).amin(-1)
        return first.remainder(self.vocabulary).long()

    def _ranked(self, logits: Tensor) -> Tensor:
        if self.ranks == self.vocabulary:
            return logits.sort(dim=-1, descending=True).values
        return logits.topk(self.ranks, dim=-1).values

    def _threshold(self, ranked: Tensor, rules: Tensor) -> Tensor:
        """The least logit that stays, `[B, 1]`."""
        top_k = rules[:, _TOP_K, None]
        last = top_k.clamp(max=self.ranks) - 1
        if self._nucleus:
            weights = torch.exp(ranked - ranked[:, :1]).masked_fill(self._order > last, 0.0)
            reached = weights.cumsum(-1)
            needed = (reached - weights < rules[:, _TOP_P, None] * reached[:, -1:]) & (self._order <= last)
            last = torch.minimum(last, needed.float().sum(-1, keepdim=True) - 1).clamp(min=0)
        threshold = ranked.gather(1, last.long())
        return threshold.masked_fill(top_k > self.ranks, -torch.inf)


def penalize(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Make ids that were seen less likely.

    Args:
        logits: `[B, V]`.
        seen: bool `[B, V]`.
        penalty: `[B]`.
    """
    penalty = penalty[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
