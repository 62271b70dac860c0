# From the shell
#
# The jobs of the other tutorials as commands. Every command reads any format of ASE, several files and frames at once,
# writes a folder with numbers (JSON, CSV), structures, pictures and report.html, a single file that says everything, and
# goes on with --resume after an interruption. Runs in a minute:
#
#     bash tutorials/13_from_the_shell.sh
#
# in a folder of your choice. HEAD=NAME chooses a head where the model has several (dpa2 info lists them).

set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # small models gain nothing from several threads
data="$(cd "$(dirname "$0")/../data" && pwd)"
options=(--dtype float64 ${HEAD:+--head "$HEAD"})
jobs="eos elastic phonons" size=2 steps=200
if [ "${DPA2_ASE_TUTORIAL_FAST:-}" = 1 ]; then # a small setting, for the tests
    jobs="eos" size=1 steps=20
    options+=(--no-report)
fi

# What the model is, and what a settings file of a command looks like: every option with its default and what it means.
dpa2 info
dpa2 init relax relax.yml
head -n 12 relax.yml

# A crystal, and the two ends of a jump into a vacancy. Any file will do; here ASE makes them.
python3 - "$size" << 'EOF'
import sys
import numpy as np
from ase.build import bulk

bulk("Cu", cubic=True).write("copper.extxyz")
before = bulk("Cu", a=3.616, cubic=True) * (2, 2, int(sys.argv[1]))
hop = int(np.argsort(before.get_distances(0, range(len(before)), mic=True))[1])
after = before.copy()
after.positions[hop] = before.positions[0]
del before[0], after[0]
before.write("before.extxyz")
after.write("after.extxyz")
EOF

# Relax the lattice, keeping the symmetry; --config relax.yml would take options from the file.
dpa2 relax copper.extxyz --cell --symmetry --fmax 1e-4 --optimizer bfgs -o relaxed "${options[@]}"

# Equation of state, elastic constants, phonons: from one structure to the publishable number.
for job in $jobs; do
    dpa2 "$job" relaxed/relax-atoms.extxyz -o "$job" "${options[@]}"
done

# The path of a vacancy's jump.
dpa2 neb before.extxyz after.extxyz --relax-ends --images 3 -o neb "${options[@]}"

# Molecular dynamics in two parts: the second command goes on where the first one stopped, with the same numbers as if it
# had not. Ctrl-C is no harm either.
md=(dpa2 md "$data/cu-vacancy.extxyz" --temperature 600 --timestep 2 -o md "${options[@]}")
"${md[@]}" --steps $((steps / 2))
"${md[@]}" --steps "$steps" --resume

# Check. With the bundled model: a0 = 3.616 Å, B0 = 151 GPa, a barrier of 0.88 eV in this small cell, and 693 K on
# average, since the thermostat is still bringing the hot start down to 600 K. Elastic constants and bands are those of
# tutorials 05 and 02. Open a report: everything is in it.
ls */report.html 2> /dev/null || true
python3 - << 'EOF'
import csv
import json

print(f"CHECK a0 = {json.load(open('relaxed/relax.json'))['final']['cell'][0]:.3f} Å")
print(f"CHECK B = {json.load(open('eos/eos.json'))['fit']['b0']:.1f} GPa")
print(f"CHECK barrier = {json.load(open('neb/neb.json'))['barrier']:.3f} eV")
rows = list(csv.DictReader(open("md/md-thermo.csv")))
print(f"CHECK steps = {' '.join(row['step'] for row in rows)}")
print(f"CHECK temperature = {sum(float(row['temperature_K']) for row in rows) / len(rows):.0f} K")
EOF
