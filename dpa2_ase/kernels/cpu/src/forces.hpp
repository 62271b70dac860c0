// From gradients on edges to forces and virials.
#pragma once

#include "edges.hpp"

// `forces` (N, 3) and symmetric `virials` (S, 3, 3) from `gradient` (E, 3) by `vectors` (E, 3); `structure` (N,).
// One thread: it takes less than a thousandth of an evaluation, and every other order of the sums would show.
inline void pull_back(const Csr& csr, int64_t n_structures, const int64_t* structure, const double* vectors,
                      const double* gradient, double* forces, double* virials) {
  std::fill(forces, forces + 3 * csr.n_atoms, 0.0);
  std::fill(virials, virials + 9 * n_structures, 0.0);
  for (int64_t i = 0; i < csr.n_atoms; i++) {
    double pull[3] = {}, moment[9] = {};
    for (int64_t e = csr.offsets[i]; e < csr.offsets[i + 1]; e++) {
      const double *g = gradient + 3 * e, *v = vectors + 3 * e;
      double* other = forces + 3 * csr.neighbor[e];
      for (int a = 0; a < 3; a++) {
        pull[a] += g[a], other[a] -= g[a];
        for (int b = 0; b < 3; b++) moment[3 * a + b] += g[a] * v[b];
      }
    }
    for (int a = 0; a < 3; a++) forces[3 * i + a] += pull[a];
    for (int a = 0; a < 3; a++)
      for (int b = 0; b < 3; b++) virials[9 * structure[i] + 3 * a + b] -= (moment[3 * a + b] + moment[3 * b + a]) / 2;
  }
}
