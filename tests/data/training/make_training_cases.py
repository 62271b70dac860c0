"""Make the references of test_training_parity.py with DeePMD-kit: losses, parameter gradients, rates and statistics.

usage: make_training_cases.py   (in an environment with DeePMD-kit 3.2.0, torch and numpy; writes beside itself)

The models are the noised checkpoints of tests/data/parity. A batch is two frames of the same atoms with random labels.
Of the gradient of every parameter its norm and two projections on fixed irregular directions are stored.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from deepmd.dpmodel.utils.learning_rate import LearningRateCosine, LearningRateExp, LearningRateWSD
from deepmd.pt.loss import EnergyStdLoss
from deepmd.pt.model.model import get_model

HERE = Path(__file__).parent
PARITY = HERE.parent / "parity"
MODELS = {
    "dpa2-small-noattn": "skew",
    "dpa2-medium": "molecule",
    "dpa2-everything": "skew",
    "dpa2-strip": "tiny-cell",
    "dpa2-gelu-aparam": "skew",
    "dpa2-exclude": "skew",
    "dpa2-truncated-sel": "liquid",
    "dpa1-attn-strip-smooth": "tiny-cell",
    "dpa1-attn-davg": "molecule",
    "multitask-shared-fitting": "skew",
}
ALL = {
    f"{side}_pref_{q}": v
    for q, (a, b) in {
        "e": (0.02, 1.0),
        "f": (1000.0, 1.0),
        "v": (0.5, 2.0),
        "ae": (0.3, 0.1),
        "pf": (0.7, 0.2),
    }.items()
    for side, v in (("start", a), ("limit", b))
}
NO_PF = {k: v for k, v in ALL.items() if not k.endswith("pf")}
LOSSES = {
    "mse": ALL,
    "mse-intensive-relative": {**ALL, "relative_f": 0.7, "intensive_ener_virial": True},
    "mae": {**ALL, "loss_func": "mae"},
    "mae-norm": {**ALL, "loss_func": "mae", "f_use_norm": True},
    "huber": {**NO_PF, "use_huber": True, "huber_delta": 0.3},
    "huber-norm": {**NO_PF, "use_huber": True, "huber_delta": [0.5, 0.3, 0.2], "f_use_norm": True},
}
START, RATE = 1e-3, 4e-4


def batch(case, rng):
    """Two frames and labels of all kinds, from the structures of a parity file."""
    name = MODELS[case]
    stored = np.load(PARITY / f"{case}.npz")
    key = min(k for k in stored.files if k.endswith(f"{name}/coords"))
    prefix = key.removesuffix("coords")
    coords = stored[key]
    cell = stored[prefix + "cell"] if prefix + "cell" in stored.files else np.zeros((0,))
    types = stored[prefix + "types"]
    n = len(types)
    positions = np.stack([coords, coords + rng.normal(0, 0.05, coords.shape)])
    data = {
        "positions": positions,
        "types": types,
        "cell": cell if cell.size else np.zeros((3, 3)),
        "energy": rng.normal(0, 3, (2, 1)) * n,
        "forces": rng.normal(0, 1, (2, n, 3)),
        "virial": rng.normal(0, 3, (2, 9)),
        "atomic_energies": rng.normal(0, 1, (2, n)),
        "force_weights": rng.random((2, n)),
    }
    return data


def directions(size):
    k = np.arange(size, dtype=float)
    return np.cos(k * 1.7 + 0.3), np.sin(k * 0.9 + k**2 * 0.013)


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def run(case, out):
    rng = np.random.default_rng(sum(map(ord, case)))
    stored = torch.load(PARITY / f"{case}.pt", weights_only=True, map_location="cpu")["model"]
    params = stored["_extra_state"]["model_params"]
    head = "Default"
    if "model_dict" in params:
        head = sorted(params["model_dict"])[0]
        params = params["model_dict"][head]
    prefix = f"model.{head}."
    state = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    model = get_model(json.loads(json.dumps(params)))
    model.load_state_dict(state, strict=False)
    data = batch(case, rng)
    n = len(data["types"])
    fitting = params["fitting_net"]
    if fitting.get("numb_fparam"):
        data["fparam"] = rng.normal(size=(2, fitting["numb_fparam"]))
    if fitting.get("numb_aparam"):
        data["aparam"] = rng.normal(size=(2, n, fitting["numb_aparam"]))
    inputs = {
        "coord": tensor(data["positions"]),
        "atype": torch.tensor(np.stack([data["types"]] * 2), dtype=torch.int64),
        "box": tensor(np.stack([data["cell"].ravel()] * 2)) if data["cell"].any() else None,
        "do_atomic_virial": False,
    }
    for key in ("fparam", "aparam"):
        if key in data:
            inputs[key] = tensor(data[key])
    labels = {
        "energy": tensor(data["energy"]),
        "force": tensor(data["forces"]),
        "virial": tensor(data["virial"]),
        "atom_ener": tensor(data["atomic_energies"])[..., None],
        "atom_pref": tensor(data["force_weights"])[..., None].repeat(1, 1, 3),
    }
    labels |= {f"find_{key}": 1.0 for key in list(labels)}
    for key, value in data.items():
        out[f"{case}/{key}"] = value
    out[f"{case}/head"] = np.array(head)
    chosen = LOSSES if case in ("dpa2-small-noattn", "dpa1-attn-strip-smooth") else {"mse": LOSSES["mse"]}
    for loss_name, options in chosen.items():
        model.zero_grad(set_to_none=True)
        loss = EnergyStdLoss(starter_learning_rate=START, **options)
        _, value, _ = loss(dict(inputs), model, dict(labels), n, RATE)
        value.backward()
        names, rows = [], []
        for name, parameter in model.named_parameters():
            if parameter.grad is None or "._networks." in name or not parameter.numel():
                continue
            g = parameter.grad.numpy().ravel()
            a, b = directions(g.size)
            names.append(name)
            rows.append([np.linalg.norm(g), g @ a, g @ b])
        out[f"{case}/{loss_name}/loss"] = value.detach().numpy()
        out[f"{case}/{loss_name}/gradients"] = np.array(rows)
        out[f"{case}/names"] = np.array(names)
        print(case, loss_name, float(value.detach()), len(names), flush=True)


def rates(out):
    """Learning rates at a few steps of schedules with awkward numbers."""
    steps = [0, 1, 5, 9, 10, 11, 50, 99, 100, 101, 500, 999, 1000, 1500]
    common = {"start_lr": 1e-3, "stop_lr": 1e-5, "num_steps": 1000}
    cases = [
        (LearningRateExp, {"decay_steps": 10}),
        (LearningRateExp, {"decay_steps": 1000}),
        (LearningRateExp, {"decay_steps": 999}),
        (LearningRateExp, {"decay_steps": 5000}),
        (LearningRateExp, {"decay_steps": 7, "smooth": True}),
        (LearningRateExp, {"decay_steps": 10, "decay_rate": 0.9}),
        (LearningRateExp, {"decay_steps": 10, "warmup_steps": 100}),
        (LearningRateExp, {"decay_steps": 10, "warmup_steps": 77, "warmup_start_factor": 0.1}),
        (LearningRateExp, {"decay_steps": 100000, "num_steps": 50000}),
        (LearningRateCosine, {}),
        (LearningRateCosine, {"warmup_steps": 100}),
        (LearningRateWSD, {}),
        (LearningRateWSD, {"decay_phase_ratio": 0.6, "decay_type": "cosine", "warmup_steps": 100}),
        (LearningRateWSD, {"decay_phase_ratio": 0.6, "decay_type": "linear"}),
        (LearningRateWSD, {"decay_phase_ratio": 0.6}),
    ]
    table = []
    for kind, options in cases:
        schedule = kind(**{**common, **options})
        table.append([{**common, **options}, kind.__name__, [float(schedule.value(step)) for step in steps]])
    out["rates"] = np.array(json.dumps([steps, table]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    rates(found)
    for case in sys.argv[1:] or MODELS:
        run(case, found)
    np.savez_compressed(HERE / "gradients.npz", **found)
