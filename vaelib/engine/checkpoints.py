"""Checkpoints: one safetensors file each, with all that is needed to rebuild its networks; no code is executed."""

import errno
import hashlib
import json
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpacked
from safetensors.torch import save as packed
from torch import Tensor, nn

from vaelib.cohort import Slices
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.options import FOLDS
from vaelib.engine.rows import chunks

NETWORKS = {  # by name, the module that a class of networks is in; no other is ever built
    "VAE": "vae", "MaskDecoder": "vae", "Supervised": "vae", "ResidualVAE": "spatial",
    "ResidualMaskDecoder": "spatial", "SequenceDecoder": "sequence", "UNet": "rivals",
}  # fmt: skip

OURS = "name a checkpoint that `vaelib train` made"
OTHERS = {  # what lies in the place of a checkpoint, by its first bytes
    b"version https://git-lfs": "the pointer of Git LFS, not the file; fetch it with `git lfs pull`",
    b"/annex/objects": "the pointer of git-annex, not the file; fetch it with `git annex get`",
    b"PK": f"a zip, such as PyTorch saves, which may hold code and is not read; {OURS}",
    b"\x80": f"a pickle, which may hold code and is not read; {OURS}",
    b"\x1f\x8b": "compressed; unpack it with `gunzip`",
    b"\x89HDF": f"an HDF5 file, such as Keras saves; {OURS}",
    b"<": f"a web page, as a failed download leaves it; {OURS}",
}
UNREAD: dict[int | None, str] = {  # by what the system answers
    errno.ENOENT: "no such checkpoint; train one first (`vaelib train`)",
    errno.EISDIR: "is a folder; name the checkpoint in it",
}
WINDOW = [-160.0, 240.0]  # HU, where a file does not say which


def write(path: Path, tensors: dict[str, Tensor], metadata: dict) -> None:
    """Write safetensors atomically, with a hash of all that is in them: a reader sees the old file or the new one."""
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    said = {k: _json(v) for k, v in metadata.items()}
    write_file(path, _in_order(packed(tensors, said | {"sha256": _digest(tensors, said)})))


def _json(value: object) -> str:
    """Write as JSON what Python or NumPy counted."""
    return json.dumps(value, default=np.generic.item)


def _in_order(made: bytes) -> bytes:
    """Sort the names in the header of safetensors: they come in another order in every process."""
    body = 8 + int.from_bytes(made[:8], "little")
    header = json.dumps(json.loads(made[8:body]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + made[body:]


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read safetensors and their metadata.

    Raises
    ------
    InputError
        If the file is missing, or not as `write` wrote it.
    """
    _refuse_others(path)
    try:
        held = path.read_bytes()  # by Python, which opens a file of any name
        tensors = unpacked(held)
        said = json.loads(held[8 : 8 + int.from_bytes(held[:8], "little")]).get("__metadata__", {})
        written = said.pop("sha256", None)
        if written and written != _digest(tensors, said):
            raise ValueError("its hash is another")
        if written:
            return tensors, {k: json.loads(v) for k, v in said.items()}
    except (SafetensorError, ValueError) as e:
        why = f"{path}: not a whole safetensors file of vaelib ({_first_line(e)})"
        raise InputError(f"{why}; copy it anew, or train again by `vaelib train --overwrite`") from e
    raise InputError(f"{path}: was written by another program, without what vaelib rebuilds networks from; {OURS}")


def _refuse_others(path: Path) -> None:
    """Refuse, by the cause, what is no safetensors file."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as e:
        raise InputError(f"{path}: {UNREAD.get(e.errno, f'cannot be read: {e.strerror}')}") from None
    if not start:
        raise InputError(f"{path}: is empty; copy it anew, or train again by `vaelib train --overwrite`")
    ours = start[4:9] == b"\0\0\0\0{"  # a header's length, whose first byte may be any of the marks, and JSON
    for mark, what in OTHERS.items():
        if start.startswith(mark) and not ours:
            raise InputError(f"{path}: not a whole safetensors file but {what}")


def _digest(tensors: dict[str, Tensor], said: dict[str, str]) -> str:
    """Hash names, types, shapes and bytes (SHA-256): a flipped bit in a file of weights is seen in no picture."""
    total = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def fingerprint(*several: Slices) -> str:
    """Identify the data of a training by a hash over its slices, masks and patients."""
    digest = hashlib.sha256()
    for s in several:
        for array in (s.images, s.masks, s.patient.astype("S")):
            for block in chunks(array):
                digest.update(np.ascontiguousarray(block))
    return digest.hexdigest()


def fingerprint_of(network: nn.Module) -> str:
    """Hash the weights of a network: what is made from it is made anew when they change (see `kept`)."""
    return _digest(network.state_dict(), {})


def join_groups(groups: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Name tensors by their group: ``{"vae": {"bias": t}}`` becomes ``{"vae/bias": t}``."""
    return {f"{group}/{k}": v for group, members in groups.items() for k, v in members.items()}


def split_groups(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undo `join_groups`."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = tensor
    return groups


def load_weights(path: str | Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights into a model; InputError, naming `path`, if they are of another architecture."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise InputError(f"{path}: made by another architecture than {type(model).__name__}; {_first_line(e)}") from e


def _built(path: str | Path, kind: str, config: dict, weights: dict[str, Tensor]) -> nn.Module:
    """Build a network with its weights; before it takes any memory, it is asked whether these are its weights."""
    make = getattr(import_module(f"vaelib.{NETWORKS[kind]}"), kind)
    try:
        with torch.device("meta"):
            shapes = make(**config)
    except Exception as e:  # whatever a network has against its settings
        raise InputError(f"{path}: cannot build a {kind} as the file says; {_first_line(e)}") from e
    load_weights(path, shapes, {k: v.to("meta") for k, v in weights.items()})
    model = make(**config)
    model.load_state_dict(weights)
    return model.eval()


def _networks(path: str | Path, tensors: dict[str, Tensor], metadata: dict) -> dict[str, nn.Module]:
    """Rebuild the networks that a file holds."""
    classes, weights, networks = metadata.get("networks", {}), split_groups(tensors), {}
    made_of = classes.values() if isinstance(classes, dict) else [None]
    if not all(isinstance(found, list) and [*map(type, found)] == [str, dict] for found in made_of):
        raise InputError(f"{path}: does not say what its networks are; train them with `vaelib train`")
    for name, (kind, config) in classes.items():
        if kind not in NETWORKS:
            raise InputError(f"{path}: network {name!r} is a {kind!r}, which this vaelib does not know; update vaelib")
        networks[name] = _built(path, kind, config, weights.get(name, {}))
    return networks


def _first_line(e: Exception) -> str:
    return " ".join(str(e).split())[:200]


def save(
    path: str | Path, networks: dict[str, nn.Module], *, half: bool = False, arrays: dict | None = None, **metadata: Any
) -> Path:
    """Save networks to one safetensors file with all that is needed to rebuild them.

    Parameters
    ----------
    path : path
    networks : dict of str to nn.Module
        For instance ``{"vae": vae, "mask": decoder}``; each class is one of `NETWORKS`.
    half : bool
        Keep the weights as float16, half the size; they are float32 again when loaded.
    arrays : dict of str to ndarray, optional
        Numbers to be kept beside them, as they are; `kept` gives them back.
    **metadata
        Anything JSON can hold: the data's identity, the window, the metrics.
    """
    tensors = join_groups({name: net.state_dict() for name, net in networks.items()})
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    kept_beside = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in (arrays or {}).items()}
    classes = {name: [type(net).__name__, net.config] for name, net in networks.items()}
    write(Path(path), tensors | join_groups({"": kept_beside}), {"networks": classes, **metadata})
    return Path(path)


def load(path: str | Path, *names: str) -> tuple[dict[str, nn.Module], dict]:
    """Rebuild the networks of a checkpoint, in evaluation mode, from the file alone and without executing code.

    Parameters
    ----------
    path : path
    *names : str
        Networks that the caller needs, such as ``"vae", "mask"``.

    Returns
    -------
    networks : dict of str to nn.Module
    metadata : dict

    Raises
    ------
    InputError
        If the file is missing, damaged, of another architecture, or lacks a network that was asked for.
    """
    tensors, metadata = read(Path(path))
    networks = _networks(path, tensors, metadata)
    if missing := [name for name in names if name not in networks]:
        held = sorted(networks) or "no networks"
        raise InputError(f"{path}: holds {held}, not {missing}; train them with `vaelib train`")
    return networks, metadata


def said_of(path: str | Path, metadata: dict, size: int) -> dict:
    """Complete what a checkpoint says by what can be derived, and refuse what cannot be.

    Parameters
    ----------
    path : path
    metadata : dict
        As `load` returns it.
    size : int
        Side in pixels of the slices that its networks read.

    Returns
    -------
    dict
        ``level``, from the size; ``window``, or else that of `prepare`; ``thresholds`` by side, ``patients``,
        ``fold`` and ``typical``, {} and None where they are not said; and the coarse stage's ``cut``.

    Raises
    ------
    InputError
        One of them is said, and cannot be.
    """
    level, cut = size.bit_length() - 1, metadata.get("threshold")
    rules: dict[str, tuple[Any, Callable[[Any], bool]]] = {  # what it is where it is not said, and whether it can be
        "level": (level, lambda v: v == level),
        "window": (WINDOW, lambda v: len(v) == 2 and -math.inf < v[0] < v[1] < math.inf),
        "thresholds": ({} if cut is None else {str(size): cut}, lambda v: all(0 < cut < 1 for cut in v.values())),
        "patients": ({}, lambda v: not v or all(isinstance(name, str) for name in v["train"])),
        "fold": (None, lambda v: v is None or v in range(FOLDS)),
        "cut": (0.5, lambda v: 0 < v < 1),
        "typical": (None, lambda v: v is None or np.shape(v["precision"]) == (len(v["centre"]),) * 2),
    }
    said = {name: metadata.get(name, usual) for name, (usual, _) in rules.items()}
    for name, (_, fits) in rules.items():
        with suppress(TypeError, AttributeError, KeyError):  # it is of another type
            if fits(said[name]):
                continue
        raise InputError(f"{path}: says {name} = {said[name]!r:.60}, which does not fit its networks of {size} x "
                         f"{size} pixels, or any; {OURS}")  # fmt: skip
    return said


def refuse_to_replace(path: Path, made_by: str, overwrite: bool) -> None:
    """Raise InputError if `path` is there, and not from a run that would make the same again; or is a folder."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the checkpoint to write in it with `--out`")
    with suppress(InputError):  # what cannot be read was made by something else
        if overwrite or not path.exists() or read(path)[1].get("made_by") == made_by:
            return
    raise InputError(f"{path}: is there, and other settings or data made it; replace it with `--overwrite`, or "
                     "name another with `--out`")  # fmt: skip


def kept(path: str | Path, made_by: dict, make: Callable[[], dict], *, half: bool = False) -> dict:
    """Load what a file keeps if this recipe and these data made it; or else make it, and keep it there.

    Parameters
    ----------
    path : path
        One safetensors file, which `load` reads too.
    made_by : dict
        All that the result depends on, as JSON can hold it: the recipe, the fingerprint of the data, and that of each
        network that was learned from (`fingerprint_of`). Where the file names anything else, it is made anew.
    make : callable
        Returns networks (each class one of `NETWORKS`), arrays of numbers, and values that JSON can hold, by name.
    half : bool
        Keep the weights of networks as float16, half the size; they are float32 again when loaded.

    Returns
    -------
    dict
        What the file holds, by name: networks rebuilt, in evaluation mode, arrays, and values.

    Warns
    -----
    UserWarning
        If the file is damaged; it is made anew.
    """
    path, made_by = Path(path), json.loads(_json(made_by))
    if path.exists():
        try:
            tensors, metadata = read(path)
            if metadata.get("made_by") == made_by:
                return _contents(path, tensors, metadata)
        except InputError:
            warnings.warn(f"{path}: is damaged; it is made anew", stacklevel=2)
    made = make()
    networks = {name: value for name, value in made.items() if isinstance(value, nn.Module)}
    arrays = {name: value for name, value in made.items() if isinstance(value, np.ndarray)}
    values = {name: value for name, value in made.items() if name not in networks | arrays}
    save(path, networks, half=half, arrays=arrays, made_by=made_by, **values)
    return _contents(path, *read(path))


def _contents(path: Path, tensors: dict[str, Tensor], metadata: dict) -> dict:
    """Put together what `kept` keeps."""
    arrays = {name: tensor.numpy() for name, tensor in split_groups(tensors).get("", {}).items()}
    values = {name: value for name, value in metadata.items() if name not in ("networks", "made_by")}
    return _networks(path, tensors, metadata) | arrays | values
