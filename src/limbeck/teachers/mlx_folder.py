"""A model folder as mlx-vlm reads it.

transformers 5 writes what older versions had at the top of config.json into `text_config`, the
rotary embedding as `rope_parameters`, and gives the vision tower a kind of its own; mlx-vlm reads
`rope_theta` and `rope_scaling`, and of the Qwen-VL families the older names and shape. Such a
folder is made anew with links to its files and a config.json of its own, in a place for temporary
files; the user's folder is never written to.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FLAT_FAMILIES = ("qwen2_vl", "qwen2_5_vl")
"""Whose language model mlx-vlm configures from the top level of config.json."""

QWEN_FAMILIES = (*FLAT_FAMILIES, "qwen3_vl")
"""Whose vision tower mlx-vlm knows by the family's name only."""

Values = dict[str, Any]


def readable_folder(folder: Path) -> tuple[Path, TemporaryDirectory[str] | None]:
    """The folder to load, and what removes it when it is a derived one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    flat = flattened(config)
    if flat == config:
        return folder, None
    derived = TemporaryDirectory(prefix="limbeck-mlx-")
    place = Path(derived.name)
    (place / "config.json").write_text(json.dumps(flat, indent=2), encoding="utf-8")
    for path in folder.iterdir():
        if path.name != "config.json":
            (place / path.name).symlink_to(path.resolve())
    return place, derived


def flattened(config: Values) -> Values:
    """A configuration as older versions of transformers wrote it; itself where it is such a one."""
    found = dict(config)
    for part in ("text_config", "vision_config"):
        if isinstance(config.get(part), dict):
            found[part] = _with_old_rope(config[part])
    if config.get("model_type") in FLAT_FAMILIES and "text_config" in config:
        text = {k: v for k, v in found["text_config"].items() if k != "model_type"}
        found = {**text, **found}
    if config.get("model_type") in QWEN_FAMILIES and "vision_config" in found:
        found["vision_config"] = {**found["vision_config"], "model_type": config["model_type"]}
    return _with_old_rope(found)


def _with_old_rope(section: Values) -> Values:
    """`rope_parameters` as `rope_theta` and, where it holds more than the default, `rope_scaling`.

    Parameters for each kind of layer are left for mlx-vlm to read.
    """
    parameters = section.get("rope_parameters")
    if not isinstance(parameters, dict) or "rope_theta" not in parameters:
        return section
    scaling = {k: v for k, v in parameters.items() if k != "rope_theta"}
    kind = scaling.pop("rope_type", "default")
    old = {"rope_theta": parameters["rope_theta"]}
    if scaling:
        old["rope_scaling"] = {**scaling, "type": kind, "rope_type": kind}
    rest = {k: v for k, v in section.items() if k != "rope_parameters"}
    return {**rest, **old}
