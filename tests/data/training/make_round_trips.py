"""Let DeePMD-kit read, freeze, convert, evaluate and fine-tune what this package writes; keep what it answered.

usage: make_round_trips.py BIN   (BIN holds the commands ``dp`` and ``python`` of DeePMD-kit 3.2.0)

Two trainings of a few steps are written as checkpoints, one with a single head, one with two that share a descriptor,
and as documents. Writes round-trips.npz beside itself: the models, the structures, and DeePMD-kit's energies, forces
and virials from each of the files; fails where DeePMD-kit refuses one.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.checkpoint.document_writing import write_document
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.data.frames import Frame, frame_of_atoms
from dpa2_ase.training.run import train

HERE = Path(__file__).parent
MODEL = {
    "type_map": ["Cu", "Au"],
    "descriptor": {
        "type": "dpa2",
        "repinit": {"rcut": 4.5, "rcut_smth": 0.5, "nsel": 60, "neuron": [4, 8], "axis_neuron": 4, "tebd_dim": 4}
        | {"use_three_body": True, "three_body_rcut": 3.2, "three_body_rcut_smth": 2.8, "three_body_sel": 20},
        "repformer": {"rcut": 3.2, "rcut_smth": 2.8, "nsel": 20, "nlayers": 2, "g1_dim": 12, "g2_dim": 6}
        | {"update_g1_has_attn": False, "update_g2_has_g1g1": False, "update_g2_has_attn": True}
        | {"update_style": "res_residual", "update_residual": 0.1, "attn2_has_gate": True},
        "precision": "float64",
    },
    "fitting_net": {"neuron": [12, 12], "precision": "float64"},
}
EVALUATE = """
import sys
import numpy as np
from deepmd.infer import DeepPot
model, head, structures, target = sys.argv[1:]
stored = np.load(structures)
potential = DeepPot(model, **({"head": head} if head != "-" else {}))
energy, forces, virial = potential.eval(stored["positions"], stored["cell"], stored["types"].tolist())[:3]
np.savez(target, energy=energy, forces=forces, virial=virial)
"""


def frames() -> list[Frame]:
    """Rattled and strained Cu3Au with EMT's labels."""
    found = []
    for seed in range(6):
        atoms = bulk("Cu", a=3.75, cubic=True)
        atoms.symbols[3] = "Au"
        rng = np.random.default_rng(seed)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        found.append(frame_of_atoms(atoms))
    return found


def settings(folder: Path, heads: tuple[str, ...] = ()) -> dict:
    """An input of DeePMD-kit, which both programs take."""
    data = {"training_data": {"systems": [str(folder / "sys")], "batch_size": 2}}
    loss = {"type": "ener", "start_pref_v": 0.02, "limit_pref_v": 1.0}
    rate = {"type": "exp", "start_lr": 1e-2, "stop_lr": 1e-3, "decay_steps": 10}
    training = {"numb_steps": 4, "seed": 3, "disp_freq": 1, "save_freq": 100}
    common = {"learning_rate": rate, "training": training}
    if not heads:
        return common | {"model": copy.deepcopy(MODEL), "loss": loss, "training": training | data}
    shared = {"types": MODEL["type_map"], "dpa2": MODEL["descriptor"]}
    section = {"type_map": "types", "descriptor": "dpa2", "fitting_net": MODEL["fitting_net"]}
    return common | {
        "model": {"shared_dict": shared, "model_dict": {head: copy.deepcopy(section) for head in heads}},
        "loss_dict": dict.fromkeys(heads, loss),
        "training": training
        | {"model_prob": dict.fromkeys(heads, 1.0), "data_dict": {head: copy.deepcopy(data) for head in heads}},
    }


def run(*command: object, folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print("accepted:", *[Path(str(word)).name for word in command], flush=True)


def trained(folder: Path, name: str, heads: tuple[str, ...]) -> Path:
    """A checkpoint of this package after a few steps."""
    content = settings(folder, heads)
    content["training"] |= {"save_ckpt": str(folder / name), "disp_file": str(folder / f"{name}.csv")}
    (folder / f"{name}.json").write_text(json.dumps(content))
    train(folder / f"{name}.json", quiet=True)
    return folder / f"{name}.pt"


def finetune_with_deepmd(
    bin_folder: Path, folder: Path, pretrained: Path, *options: str, heads: tuple[str, ...]
) -> Path:
    """Four steps of DeePMD-kit that start from our file; returns what it writes."""
    place = folder / f"finetune-{len(list(folder.glob('finetune-*')))}"
    place.mkdir()
    content = settings(folder, heads)
    for head in heads:
        content["model"]["model_dict"][head]["finetune_head"] = "b"
    (place / "input.json").write_text(json.dumps(content))
    run(bin_folder / "dp", "--pt", "train", "input.json", "--skip-neighbor-stat", *options, pretrained, folder=place)
    return place / "model.ckpt.pt"


def main() -> None:
    bin_folder = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder / "sys", frames())
        single, multi = trained(folder, "single", ()), trained(folder, "multi", ("a", "b"))
        files: dict[str, tuple[Path, str, str]] = {
            "single.pt": (single, "-", "single"),
            "multi.pt:b": (multi, "b", "b"),
        }
        dp = bin_folder / "dp"
        run(dp, "--pt", "freeze", "-c", single, "-o", folder / "single.pth", folder=folder)
        run(dp, "--pt", "freeze", "-c", multi, "-o", folder / "multi-b.pth", "--head", "b", folder=folder)
        files |= {
            "single.pth": (folder / "single.pth", "-", "single"),
            "multi-b.pth": (folder / "multi-b.pth", "-", "b"),
        }
        for suffix in (".dp", ".yaml"):
            write_document(folder / f"document{suffix}", load_potential(multi, "b"))
            target = folder / f"from{suffix}.pth"
            run(dp, "convert-backend", folder / f"document{suffix}", target, folder=folder)
            files[f"document{suffix}.pth"] = (target, "-", "b")
        finetune_with_deepmd(bin_folder, folder, single, "--finetune", heads=())
        finetune_with_deepmd(bin_folder, folder, multi, "--model-branch", "b", "--finetune", heads=())
        several = finetune_with_deepmd(bin_folder, folder, multi, "--finetune", heads=("new", "other"))
        finetune_with_deepmd(bin_folder, folder, single, "--init-model", heads=())
        load_potential(several, "new")  # and back again
        chosen = frames()[:2]
        structures = {
            "positions": np.array([f.positions for f in chosen]).reshape(2, -1),
            "cell": np.array([f.cell for f in chosen]).reshape(2, 9),
            "types": np.array([MODEL["type_map"].index(s) for s in chosen[0].symbols]),
        }
        np.savez(folder / "structures.npz", **structures)
        stored = dict(structures)
        for label, (path, head, model) in files.items():
            target = folder / "answer.npz"
            run(bin_folder / "python", "-c", EVALUATE, path, head, folder / "structures.npz", target, folder=folder)
            stored |= {f"{label}/{key}": value for key, value in np.load(target).items()}
            stored[f"{label}/model"] = np.array(model)
        for model, (path, head) in {"single": (single, None), "b": (multi, "b")}.items():
            state = load_potential(path, head).state_dict()
            stored |= {f"state/{model}/{key}": tensor.numpy() for key, tensor in state.items()}
        stored["section"] = np.array(json.dumps(MODEL))
        np.savez_compressed(HERE / "round-trips.npz", **stored)


if __name__ == "__main__":
    main()
