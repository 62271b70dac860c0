// The pairs of a neighbor list that are within a cutoff now, and those within a shorter one.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "pool.hpp"

// Pairs of a list by center; vector = positions[neighbor] - positions[center] + shift[image] cells.
struct Listed {
  int64_t n_images;
  const int64_t *offsets, *neighbor, *image, *owner;  // (N + 1,), (E,), (E,), (M,) structures whose cells they are
  const double *shift, *positions, *cells;                // (M, 3) whole cells, (N, 3), (S, 3, 3)

  std::vector<double> images() const {  // displacements (M, 3)
    std::vector<double> found(3 * n_images);
    for (int64_t m = 0; m < n_images; m++)
      for (int row = 0; row < 3; row++)
        for (int k = 0; k < 3; k++)
          found[3 * m + k] += shift[3 * m + row] * cells[9 * owner[m] + 3 * row + k];
    return found;
  }
};

struct Near {  // pairs that were found, by center; all arrays have room for all pairs
  int64_t count, most;  // pairs, those of one center
  double shortest;      // of the list they were found in; infinite if it is empty
  int64_t *offsets, *center, *neighbor;
  double* vectors;
  int64_t* index;  // places among the pairs within the longer cutoff, or null

  void store(int64_t place, int64_t i, int64_t j, const double* vector) const {
    center[place] = i, neighbor[place] = j;
    for (int k = 0; k < 3; k++) vectors[3 * place + k] = vector[k];
  }
  void start_rows(int64_t n_atoms) {  // from numbers to places
    offsets[0] = most = 0;
    for (int64_t i = 0; i < n_atoms; i++) {
      most = std::max(most, offsets[i + 1]);
      offsets[i + 1] += offsets[i];
    }
    count = offsets[n_atoms];
  }
};

inline void vector_of(const Listed& list, const double* images, int64_t center, int64_t e, double* vector) {
  const double *from = list.positions + 3 * center, *to = list.positions + 3 * list.neighbor[e];
  const double* image = images + 3 * list.image[e];
  for (int k = 0; k < 3; k++) vector[k] = (to[k] - from[k]) + image[k];  // so j -> i is the negative of i -> j
}

// The smallest number whose root is not below `length`: to compare squares with it is to compare roots, but quicker.
inline double square_of(double length) {
  if (length <= 0) return 0;
  double square = length * length;
  while (std::sqrt(square) >= length) square = std::nextafter(square, 0.0);
  return std::nextafter(square, std::numeric_limits<double>::infinity());
}

// Those shorter than `cutoff`, and among them those not longer than `inner`; `kinds` (E,) has room for all of the list.
inline bool find_near(int64_t n_atoms, const Listed& listed, double cutoff, double inner, uint8_t* kinds, Near& all,
                      Near& close, int threads) {
  constexpr int64_t grain = 16;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double cutoff_square = square_of(cutoff), inner_square = square_of(std::nextafter(inner, infinity));
  const std::vector<double> displacements = listed.images();
  std::vector<double> least(n_atoms / grain + 1, infinity);  // squares
  const bool counted = parallel(n_atoms, grain, threads, [&](int64_t begin, int64_t end, Scratch&) {
    const Listed list = listed;  // of its own, which no write to an array can change
    const double* images = displacements.data();
    double smallest = infinity;
    for (int64_t i = begin; i < end; i++) {
      int64_t n_all = 0, n_close = 0;
      for (int64_t e = list.offsets[i]; e < list.offsets[i + 1]; e++) {
        double d[3];
        vector_of(list, images, i, e, d);
        const double square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
        const bool is_near = square < cutoff_square, is_close = is_near && square < inner_square;
        kinds[e] = is_near + is_close;
        n_all += is_near, n_close += is_close;
        smallest = std::min(smallest, square);
      }
      all.offsets[i + 1] = n_all, close.offsets[i + 1] = n_close;
    }
    least[begin / grain] = smallest;
  });
  all.shortest = close.shortest = std::sqrt(*std::min_element(least.begin(), least.end()));
  all.start_rows(n_atoms), close.start_rows(n_atoms);
  return counted && parallel(n_atoms, grain, threads, [&](int64_t begin, int64_t end, Scratch&) {
    const Listed list = listed;
    const double* images = displacements.data();
    const Near found = all, inside = close;
    for (int64_t i = begin; i < end; i++) {
      int64_t at = found.offsets[i], place = inside.offsets[i];
      const int64_t last = found.offsets[i + 1];
      // what is not near is overwritten by the next, which costs less than a guess whether it is
      for (int64_t e = list.offsets[i]; at < last; e++) {
        double vector[3];
        vector_of(list, images, i, e, vector);
        found.store(at, i, list.neighbor[e], vector);
        if (kinds[e] == 2) inside.index[place] = at, inside.store(place++, i, list.neighbor[e], vector);
        at += kinds[e] > 0;
      }
    }
  });
}
