"""Where the weights of a model are published: `Repository`, and the files of it that a model needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

HubName = Literal["huggingface", "modelscope"]
HUBS: tuple[HubName, ...] = get_args(HubName)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """A file of a repository, or several of one kind.

    Attributes:
        name: Its path there; `*` stands for any letters.
        bytes: How large it is, or all of them together; `None` where that is not known without asking.
        exact: Whether that is its size to the byte.
        needed: Whether the model does not load without it.
    """

    name: str
    bytes: int | None = None
    exact: bool = True
    needed: bool = True

    def matches(self, path: str) -> bool:
        """Whether a path of a listing is meant."""
        return fnmatchcase(path, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One repository, on all hubs that have it.

    Attributes:
        what: What it holds.
        names: OWNER/NAME by hub; where there are several, they are tried in this order.
        files: All but the weights.
        weights: The forms that the weights may have; the first that is there counts.
        pickle: Weights that have to be converted, where none of the forms is there.
        pickled: Whether the pickle is all that is published.
        index: The list of the files of the weights, where it says which of them are needed.
        tensors: What the names of needed tensors begin with; files without any are left out.
        folder: Where its files go, in the folder of the model.
        setting: The setting of the model's family that names another folder for it.
        also_at: Folders, relative to the model's, where it may lie as well.
    """

    what: str
    names: Mapping[HubName, tuple[str, ...]]
    files: tuple[PublishedFile, ...]
    weights: tuple[tuple[PublishedFile, ...], ...]
    pickle: PublishedFile | None = None
    pickled: bool = False
    index: str | None = None
    tensors: tuple[str, ...] = ()
    folder: str = ""
    setting: str | None = None
    also_at: tuple[str, ...] = ()

    @property
    def shown_weights(self) -> tuple[PublishedFile, ...]:
        """The weights as they are published."""
        return (self.pickle,) if self.pickle is not None and self.pickled else self.weights[0]
