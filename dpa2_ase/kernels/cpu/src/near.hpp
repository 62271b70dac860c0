// The pairs of a neighbor list that are within a cutoff now, and those within a shorter one.
#pragma once

#include <cmath>

#include "pool.hpp"

struct Listed {  // pairs of a list by center; vector = positions[neighbor] - positions[center] + images[image]
  const int64_t *offsets, *neighbor, *image;  // (N + 1,), (E,), (E,)
  const double *positions, *images;           // (N, 3), (M, 3)
};

struct Near {  // pairs that were found, by center; all arrays have room for all pairs
  int64_t *offsets, *center, *neighbor;
  double *vectors, *lengths;
  int64_t* index;  // places among the pairs within the longer cutoff, or null
};

inline void vector_of(const Listed& list, int64_t center, int64_t e, double* vector) {
  const double *from = list.positions + 3 * center, *to = list.positions + 3 * list.neighbor[e];
  const double* image = list.images + 3 * list.image[e];
  for (int k = 0; k < 3; k++) vector[k] = (to[k] - from[k]) + image[k];  // so j -> i is the negative of i -> j
}

inline void start_rows(int64_t n_atoms, int64_t* offsets) {  // from numbers to places
  offsets[0] = 0;
  for (int64_t i = 0; i < n_atoms; i++) offsets[i + 1] += offsets[i];
}

// Those shorter than `cutoff`, and among them those not longer than `inner`; `lengths` has room for all of the list.
inline bool find_near(int64_t n_atoms, const Listed& list, double cutoff, double inner, double* lengths,
                      const Near& all, const Near& close, int threads) {
  constexpr int64_t grain = 16;
  const bool counted = parallel(n_atoms, grain, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      int64_t n_all = 0, n_close = 0;
      for (int64_t e = list.offsets[i]; e < list.offsets[i + 1]; e++) {
        double d[3];
        vector_of(list, i, e, d);
        const double length = lengths[e] = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
        n_all += length < cutoff, n_close += length < cutoff && length <= inner;
      }
      all.offsets[i + 1] = n_all, close.offsets[i + 1] = n_close;
    }
  });
  start_rows(n_atoms, all.offsets), start_rows(n_atoms, close.offsets);
  return counted && parallel(n_atoms, grain, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      int64_t at = all.offsets[i], inside = close.offsets[i];
      for (int64_t e = list.offsets[i]; e < list.offsets[i + 1]; e++) {
        if (!(lengths[e] < cutoff)) continue;
        double vector[3];
        vector_of(list, i, e, vector);
        const auto store = [&](const Near& to, int64_t place) {
          to.center[place] = i, to.neighbor[place] = list.neighbor[e], to.lengths[place] = lengths[e];
          for (int k = 0; k < 3; k++) to.vectors[3 * place + k] = vector[k];
        };
        store(all, at);
        if (lengths[e] <= inner) close.index[inside] = at, store(close, inside++);
        at++;
      }
    }
  });
}
