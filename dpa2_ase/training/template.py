"""The commented settings file that ``dpa2 train init`` writes."""

from __future__ import annotations

from .presets import PRESETS

TEMPLATE = f"""\
# Settings of a training; run it with: dpa2 train FILE
# Everything but data.train may be left out.
data:
  train: [path/to/train.xyz]    # whatever ASE reads, DeePMD systems (folders, .hdf5, LMDB) or folders of such
  valid: [path/to/valid.xyz]    # for the errors in the log; nothing is learned from these frames
  batch: auto:128               # frames until there are so many atoms; also max:N, filter:N (max:N without larger
                                # frames), or a number of frames
  # by_forces: 0.1              # eV/Å; draw frames in proportion to this plus their root mean square force
  # keys: {{energy: dft_energy, forces: dft_forces, stress: dft_stress, weight: my_weight}}   # names of labels
  # isolated_atoms: [atoms.xyz]   # energies of single atoms, to count energies from; or by name:
  # atomic_energies: {{H: -13.6}}   # eV
  filter: [shape, not-finite, no-labels]    # frames to leave out; also large-force, large-pressure, duplicate,
                                            # short-distance, energy-outlier, net-force
  limits: {{force: 30.0, pressure: 100.0}}    # what is large: eV/Å, GPa

# Several levels of theory share one descriptor; instead of data:
# heads:
#   water: {{train: [water/], valid: [water-valid/], probability: 1.0}}
#   metals: {{train: [metals.xyz], probability: 2.0}}

model: small                  # {", ".join(PRESETS)}, or a model section as DeePMD-kit's
precision: float32            # of the nets
# elements: [H, O]            # what the model knows, in this order; by default the elements of data
steps: 100000                 # or epochs: 50
seed: 1
derivatives: auto             # of the loss; exact: differentiate twice, slower on CPUs; difference: never

loss:                         # weights, [at the start, in the limit of a vanishing learning rate]
  energy: [0.02, 1.0]
  forces: [1000.0, 1.0]
  virial: [0.02, 1.0]         # where there are stresses or virials

learning_rate:
  schedule: exp               # also cosine, wsd
  start: 1.0e-3
  stop: 1.0e-6
  warmup: 0                   # steps; or warmup_part: 0.01, of all steps
  # parts: {{descriptor: 0.1}}  # factors for parts of the model; 0 freezes one

optimizer:
  type: adam                  # also adamw, with weight_decay; muon learns more in a step, for trainings from scratch
  clip: 10.0                  # largest norm of the gradient
  ema: 0.999                  # also write the running mean of the weights, as model-ema.pt

output: {{checkpoint: model.pt, log: log.csv, log_every: 100, validate_every: 1000, save_every: 1000}}
# output.best: model-best.pt  # also keep the model with the lowest output.best_metric on valid at any validation:
                              # forces_rmse, or another error by its name in the log, such as energy_mae
# output.tensorboard: runs    # a folder for TensorBoard: pip install "dpa2-ase[train]"
"""
