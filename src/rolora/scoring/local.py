"""A task's data from a directory, in place of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rolora.core.errors import BadInput

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def load_local(
    load: Callable[..., Any], directory: Path, path: str, name: str | None, **options: Any
) -> Any:
    """What ``datasets.load_dataset(path, name)`` would get from the hub.

    ``DIRECTORY/PATH`` is a download of the dataset's repository as it is (``hf download --repo-type
    dataset PATH --local-dir DIRECTORY/PATH``), a ``DatasetDict`` as ``save_to_disk`` leaves it, or
    a file a split: ``DIRECTORY/PATH/NAME/SPLIT.jsonl``, ``.json``, ``.csv`` or ``.parquet``,
    without ``NAME`` where the task names none.

    Args:
        load: ``datasets.load_dataset``.
        directory: the user's.
        path: the dataset's name on the hub, or a kind of file that the task itself names.
        name: the configuration.
        options: the task's further ones.

    Raises:
        BadInput: the directory lacks it.
    """
    if path in READERS.values():
        return load(path, name, **options)
    place = directory / path
    if (place / "README.md").is_file():
        return load(str(place), name, **options)
    part = place / name if name and (place / name).is_dir() else place
    if (part / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        return load_from_disk(str(part))
    found = sorted(file for file in part.glob("*") if file.suffix in READERS)
    if not found:
        wanted = f"{place}/{f'{name}/' if name else ''}SPLIT.jsonl"
        raise BadInput(
            f"--data {directory}: a task needs {path}{f' ({name})' if name else ''}, which it does "
            f"not hold; as files of lines, {wanted}; or a download of the dataset's repository in "
            f"{place}"
        )
    kinds = {READERS[file.suffix] for file in found}
    if len(kinds) > 1:
        raise BadInput(f"--data {directory}: {part} holds files of several kinds, take one")
    return load(kinds.pop(), data_files={file.stem: str(file) for file in found})
