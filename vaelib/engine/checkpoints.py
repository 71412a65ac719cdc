"""Checkpoints: one safetensors file each, with all that is needed to rebuild its networks; no code is executed."""

import hashlib
import json
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor, device, from_numpy, nn, uint8

from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.workers import progress_bar as progress_bar

NETWORKS = {  # by name, the room that a class of networks lives in; no other is ever built
    "VAE": "vae", "MaskDecoder": "vae", "Supervised": "vae", "ResidualVAE": "spatial",
    "ResidualMaskDecoder": "spatial", "SequenceDecoder": "sequence", "UNet": "rivals",
}  # fmt: skip


def write(path: Path, tensors: dict[str, Tensor], metadata: dict) -> None:
    """Write safetensors atomically, with a hash of all that is in them: a reader sees the old file or the new one."""
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    said = {k: json.dumps(v) for k, v in metadata.items()}
    write_file(path, _in_order(packed(tensors, said | {"sha256": _digest(tensors, said)})))


def _in_order(made: bytes) -> bytes:
    """The same safetensors with the names in its header sorted: they come in another order in every process."""
    body = 8 + int.from_bytes(made[:8], "little")
    header = json.dumps(json.loads(made[8:body]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + made[body:]


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read safetensors and their metadata; InputError if the file is missing, or not as `write` wrote it."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train one first (`vaelib train`)")
    try:
        with safe_open(path, "pt") as f:
            said = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}
        if said.pop("sha256", None) != _digest(tensors, said):
            raise ValueError("its hash is another")
        return tensors, {k: json.loads(v) for k, v in said.items()}
    except (SafetensorError, ValueError) as e:
        why = _first_line(e)
        raise InputError(f"{path}: not a whole safetensors file of vaelib ({why}); delete it and train again") from e


def _digest(tensors: dict[str, Tensor], said: dict[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes: a bit that falls over in a file of weights is seen in no picture."""
    total = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(uint8).numpy())
    return total.hexdigest()


def load_weights(path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights into a model; InputError, naming `path`, if they are of another architecture."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise InputError(f"{path}: made by another architecture than {type(model).__name__}; {_first_line(e)}") from e


def _is_made_of(found) -> bool:
    """Whether it is the name of a class, and its settings."""
    return isinstance(found, list) and [type(part) for part in found] == [str, dict]


def _built(path, kind: str, config: dict, weights: dict[str, Tensor]) -> nn.Module:
    """A network with its weights; before it takes any memory, it is asked whether these are its weights."""
    make = getattr(import_module(f"vaelib.{NETWORKS[kind]}"), kind)
    try:
        with device("meta"):
            wanted = {k: v.shape for k, v in make(**config).state_dict().items()}
    except Exception as e:  # whatever a network has against its settings
        raise InputError(f"{path}: cannot build a {kind} as the file says; {_first_line(e)}") from e
    if wanted != {k: v.shape for k, v in weights.items()}:
        raise InputError(f"{path}: made by another architecture than {kind}: names or shapes of weights differ")
    model = make(**config)
    load_weights(path, model, weights)
    return model


def _first_line(e: Exception) -> str:
    return " ".join(str(e).split())[:200]


def save(path: str | Path, networks: dict[str, nn.Module], *, half: bool = False, **metadata) -> Path:
    """Save networks to one safetensors file with all that is needed to rebuild them.

    Parameters
    ----------
    path : path
    networks : dict of str to nn.Module
        For instance ``{"vae": vae, "mask": decoder}``; each class is one of `NETWORKS`.
    half : bool
        Keep the weights as float16, half the size; they are float32 again when loaded.
    **metadata
        Anything JSON can hold: the data's identity, the window, the metrics.
    """
    tensors = {f"{name}/{k}": v for name, net in networks.items() for k, v in net.state_dict().items()}
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    classes = {name: [type(net).__name__, net.config] for name, net in networks.items()}
    write(Path(path), tensors, {"networks": classes, **metadata})
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
    classes = metadata.get("networks", {})
    if not isinstance(classes, dict) or not all(_is_made_of(found) for found in classes.values()):
        raise InputError(f"{path}: does not say what its networks are; train them with `vaelib train`")
    if missing := [n for n in names if n not in classes]:
        raise InputError(
            f"{path}: holds {sorted(classes) or 'no networks'}, not {missing}; train them with `vaelib train`"
        )
    networks = {}
    for name, (kind, config) in classes.items():
        if kind not in NETWORKS:
            raise InputError(f"{path}: network {name!r} is a {kind!r}, which this vaelib does not know; update vaelib")
        prefix = f"{name}/"
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        networks[name] = _built(path, kind, config, weights).eval()
    return networks, metadata


def kept(path: str | Path, made_by: dict, make: Callable[[], dict], *, half: bool = False) -> dict:
    """Load what a file keeps if this recipe and these data made it; or else make it, and keep it there."""
    path, made_by = Path(path), json.loads(json.dumps(made_by))
    if path.exists():
        try:
            tensors, metadata = read(path)
            if metadata.get("made_by") == made_by:
                return {name: tensors[name].numpy() for name in metadata["arrays"]} | metadata["values"]
        except InputError:
            warnings.warn(f"{path}: is damaged; it is made anew", stacklevel=2)
    made = make()
    arrays = {name: value for name, value in made.items() if isinstance(value, np.ndarray)}
    values = {name: value for name, value in made.items() if name not in arrays}
    tensors = {name: from_numpy(array) for name, array in arrays.items()}
    write(path, tensors, {"arrays": [*arrays], "values": values, "made_by": made_by})
    return kept(path, made_by, make, half=half)
