"""Model deviations as DeePMD-kit 3.2.0 calculates and prints them: run with its Python, in this folder.

python make_reference.py ../parity
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from deepmd.infer import DeepPot
from deepmd.infer.model_devi import calc_model_devi

MODELS = ("dpa2-medium", "dpa2-strip", "dpa1-noattn-strip")
SYMBOLS = ("O", "H", "Cu")


def frames() -> dict[str, np.ndarray]:
    """Three frames of five atoms in a skewed cell."""
    rng = np.random.default_rng(7)
    cell = np.array([[5.6, 0.3, -0.4], [1.6, 5.1, 0.5], [-0.9, 1.3, 5.4]])
    places = np.array([[0.1, 0.1, 0.1], [0.6, 0.1, 0.2], [0.2, 0.6, 0.55], [0.7, 0.65, 0.3], [0.45, 0.3, 0.75]])
    positions = places @ cell + rng.normal(0, 0.12, (3, 5, 3))
    return {"positions": positions, "cell": cell, "types": np.array([0, 1, 2, 1, 0])}


def without_noise(source: Path, target: Path) -> Path:
    """The same model with statistics that treat x, y and z alike, so that its virial is symmetric."""
    content = torch.load(source, weights_only=False)
    for name, tensor in content["model"].items():
        if name.endswith(".stddev"):
            tensor[..., 2:] = tensor[..., 1:2]
        if name.endswith(".mean"):
            tensor[..., 1:] = 0.0
    torch.save(content, target)
    return target


def main(folder: Path) -> None:
    system = frames()
    coord, box = system["positions"].reshape(3, -1), np.tile(system["cell"].ravel(), (3, 1))
    with tempfile.TemporaryDirectory() as name:
        files = [without_noise(folder / f"{model}.pt", Path(name) / f"{model}.pt") for model in MODELS]
        frozen = [str(Path(name) / f"{index}.pth") for index in range(len(files))]
        for source, target in zip(files, frozen, strict=True):
            subprocess.run(
                [Path(sys.executable).parent / "dp", "--pt", "freeze", "-c", source, "-o", target], check=True
            )
        data = Path(name) / "system"
        (data / "set.000").mkdir(parents=True)
        np.save(data / "set.000/coord.npy", coord)
        np.save(data / "set.000/box.npy", box)
        np.savetxt(data / "type.raw", system["types"], fmt="%d")
        (data / "type_map.raw").write_text("\n".join(SYMBOLS) + "\n")
        command = [Path(sys.executable).parent / "dp", "--pt", "model-devi", "-m", *frozen, "-s", data, "-f", "10"]
        subprocess.run([*command, "-o", Path(name) / "out"], check=True)
        text = (Path(name) / "out").read_text().replace(str(data), "system")
        values = calc_model_devi(
            coord, box, system["types"], [DeepPot(path) for path in frozen], frequency=10, atomic=True
        )
    Path("model_devi.out").write_text(text)
    np.savez("model-deviation.npz", **system, values=values, models=np.array(MODELS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
