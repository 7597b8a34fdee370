"""Datasets of the Hugging Face hub, or saved by `datasets` in a folder, as that library loads them."""

from __future__ import annotations

import logging
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ms_bert.errors import UserError, listed, shown

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*(/[\w.-]+)?(:[\w.-]+)?(@[\w.-]+)?")
_ANSWERS = 5  # seconds in which the hub must, or it counts as not to be reached


def is_saved(path: str) -> bool:
    """Whether this is a folder that `save_to_disk` of a dataset wrote, also with @SPLIT behind it."""
    folder = os.path.expanduser(without_split(path)[0])
    several, *of_one = (os.path.join(folder, name) for name in ("dataset_dict.json", "dataset_info.json", "state.json"))
    return os.path.isfile(several) or all(map(os.path.isfile, of_one))


def without_split(name: str) -> tuple[str, str]:
    """The name of a dataset or its folder, and the split that stands behind it; "": none does."""
    if os.path.lexists(os.path.expanduser(name)) or "@" not in name:
        return name, ""
    dataset, _, named = name.rpartition("@")
    return dataset, named


def is_name(name: str) -> bool:
    """Whether this may be the name of a dataset: NAME or NAME:CONFIG, also with @SPLIT behind it."""
    return bool(_NAME.fullmatch(name))


def split(name: str, usual: str) -> tuple[str, Any]:
    """The name of a split of a dataset, and its rows, memory-mapped.

    Args:
        usual: the split that is meant where the name says none; "": train, or the first where there is no such split.

    Raises:
        UserError: there is no such dataset or split, or it cannot be loaded.
    """
    dataset, named = without_split(name)
    splits = load(dataset)
    if not named and list(splits) == ["train"] and is_saved(dataset):
        usual = "train"  # a folder may hold the development data alone
    chosen = named or usual or ("train" if "train" in splits else next(iter(splits)))
    if chosen not in splits:
        raise UserError(
            f"the dataset {dataset} has no split {shown(chosen)}, only {listed(splits)}; name one of these, such as "
            f"{dataset}@{next(iter(splits))}."
        )
    return chosen, splits[chosen]


def load(name: str) -> Mapping:
    """The splits of a dataset, memory-mapped; of a folder with a single one, that is "train".

    Raises:
        UserError: there is none of this name, or it cannot be loaded.
    """
    import datasets

    datasets.disable_progress_bars()
    if is_saved(name):
        try:
            saved = datasets.load_from_disk(os.path.expanduser(name))
        except (OSError, ValueError, KeyError, RuntimeError, pa.ArrowException) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{name} cannot be loaded as a dataset ({reason[:200]}); save it again.") from error
        return saved if isinstance(saved, Mapping) else {"train": saved}
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it would log is in the exception
    path, _, config = name.partition(":")
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        # Without the hub a dataset that was loaded before is still there.
        datasets.config.HF_HUB_OFFLINE = offline or not answers()
        return datasets.load_dataset(path, name=config or None)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        reason = "the hub cannot be reached" if datasets.config.HF_HUB_OFFLINE else lines[0][:300]
        raise UserError(
            f"there is no file {name!r}, and no Hugging Face dataset of this name can be loaded ({reason})."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def answers() -> bool:
    """Whether the hub can be reached: `datasets` takes half a minute to find that it cannot."""
    import datasets

    try:
        urllib.request.urlopen(datasets.config.HF_ENDPOINT, timeout=_ANSWERS).close()
    except urllib.error.URLError as error:
        return not isinstance(error.reason, socket.gaierror | ConnectionError | TimeoutError)
    except OSError:
        return False
    return True
