"""Which models a host serves, and what the settings choose for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundmill.models.place import ModelOptions
from soundmill.storage.catalog import Catalog, Model
from soundmill.storage.errors import SettingsError
from soundmill.storage.model_settings import ModelSettings, split_model
from soundmill.storage.settings import Settings


def needs_weights(model: Model) -> bool:
    """Whether the model has a checkpoint."""
    return model.has_weights


def options_of(settings: Settings, model: Model) -> ModelOptions:
    """What the settings choose for a model."""
    chosen = settings.model_options.get(model.id, ModelSettings())
    return ModelOptions(
        checkpoint=settings.checkpoint_of(model.id) if needs_weights(model) else chosen.checkpoint,
        dtype=chosen.dtype,
        graphs=chosen.graphs,
        slots=chosen.slots or settings.slots.get(model.id),
        share=chosen.share,
        reproducible=chosen.reproducible,
        extra=dict(chosen.extra),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The models of a host.

    Attributes:
        models: Their ids, in the order of the catalogue or of the operator.
        without_weights: Those that nobody asked for and that have no checkpoint here.
    """

    models: tuple[str, ...]
    without_weights: tuple[str, ...] = ()


def served_models(settings: Settings, catalog: Catalog, named: Sequence[str]) -> Served:
    """The models that were named, or all that can run here.

    Raises:
        UnknownModel: The catalogue has no such model.
    """
    if named:
        return Served(models=tuple(dict.fromkeys(catalog.get(name).id for name in named)))
    missing = tuple(
        model.id
        for model in catalog
        if needs_weights(model) and not settings.checkpoint_of(model.id).is_dir()
    )
    return Served(
        models=tuple(name for name in catalog.ids() if name not in missing), without_weights=missing
    )


def read_models(
    texts: Iterable[str], folders: Iterable[str]
) -> tuple[list[str], dict[str, ModelSettings], dict[str, Path]]:
    """Read `--model` and `--checkpoint-dir`.

    Args:
        texts: Such as `csm-1b` or `csm-1b:slots=8,dtype=bf16`.
        folders: Such as `csm-1b=/srv/csm`, or a folder alone where one model is named.

    Returns:
        The ids that were named, what was chosen for them, and where their checkpoints are.

    Raises:
        SettingsError: One of them cannot be read.
    """
    try:
        named = [split_model(text) for text in texts]
        chosen = {name: ModelSettings.model_validate(choices) for name, choices in named if choices}
    except ValueError as error:
        raise SettingsError(f"--model: {_first_line(error)}") from error
    ids = list(dict.fromkeys(name for name, _ in named))
    return ids, chosen, dict(_folder(text, ids) for text in folders)


def _folder(text: str, ids: Sequence[str]) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or "/" in name:  # a path may hold an equals sign
        if len(ids) != 1:
            raise SettingsError(
                f"--checkpoint-dir {text}: write MODEL=FOLDER, or serve one model with --model"
            )
        name, folder = ids[0], text
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise SettingsError(f"--checkpoint-dir: there is no folder {path}")
    return name, path


def _first_line(error: ValueError) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
