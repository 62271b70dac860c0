// The environment matrix and its derivative: everything in float64, given to the nets in their own precision.
#pragma once

#include <cmath>

#include "pool.hpp"

struct EnvironmentOptions {
  double onset, cutoff, protection;
  const double *mean, *inverse_std;  // (T, 4)
};

struct Radial {  // of one edge: switch w, 1 / (r + protection), and their derivatives by r
  double r, w, slope, inverse;
  Radial(const double* d, const EnvironmentOptions& o) {
    r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
    double v = (o.cutoff - r) / (o.cutoff - o.onset);
    double inside = v > 0 && v < 1;
    v = v < 0 ? 0 : v > 1 ? 1 : v;  // NaN stays NaN
    w = v * v * v * (6 * v * v - 15 * v + 10);
    slope = -inside * 30 * v * v * (1 - v) * (1 - v) / (o.cutoff - o.onset);
    inverse = 1 / (r + o.protection);
  }
};

// `argument` (E,), if not null, receives the first column of the rows before it is rounded.
template <class F>
bool environment(int64_t n_atoms, const int64_t* offsets, const int64_t* types, const double* vectors,
                 const EnvironmentOptions& o, F* rows, F* weight, double* argument, int threads) {
  return parallel(n_atoms, 8, threads, [=](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      const double *mean = o.mean + 4 * types[i], *scale = o.inverse_std + 4 * types[i];
      for (int64_t e = offsets[i]; e < offsets[i + 1]; e++) {
        const double* d = vectors + 3 * e;
        Radial q(d, o);
        double s = q.w * q.inverse, a = s * q.inverse;
        const double first = (s - mean[0]) * scale[0];
        rows[4 * e] = F(first);
        if (argument) argument[e] = first;
        for (int k = 0; k < 3; k++) rows[4 * e + 1 + k] = F((a * d[k] - mean[1 + k]) * scale[1 + k]);
        weight[e] = F(q.w);
      }
    }
  });
}

// gradient (E, 3) = d/d vectors of a function with derivatives d_rows (E, 4) and d_weight (E,) is added to; with `index`
// (E,), the places of the edges in a longer list, to that of that list.
template <class F>
bool environment_backward(int64_t n_atoms, const int64_t* offsets, const int64_t* types, const double* vectors,
                          const EnvironmentOptions& o, const F* d_rows, const F* d_weight, const int64_t* index,
                          double* gradient, int threads) {
  return parallel(n_atoms, 8, threads, [=](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      const double* scale = o.inverse_std + 4 * types[i];
      for (int64_t e = offsets[i]; e < offsets[i + 1]; e++) {
        const double* d = vectors + 3 * e;
        Radial q(d, o);
        double inv2 = q.inverse * q.inverse;
        double a = q.w * inv2, s_slope = q.slope * q.inverse - a, a_slope = q.slope * inv2 - 2 * a * q.inverse;
        double b[3], along = 0;
        for (int k = 0; k < 3; k++) {
          b[k] = double(d_rows[4 * e + 1 + k]) * scale[1 + k];
          along += b[k] * d[k];
        }
        double radial = double(d_rows[4 * e]) * scale[0] * s_slope + along * a_slope + double(d_weight[e]) * q.slope;
        double* to = gradient + 3 * (index ? index[e] : e);
        for (int k = 0; k < 3; k++) to[k] += a * b[k] + radial * d[k] / q.r;
      }
    }
  });
}
