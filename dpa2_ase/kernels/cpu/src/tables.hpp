// Moments of tabulated pair features (repinit, DPA-1).
#pragma once

#include <atomic>
#include <cmath>

#include "edges.hpp"

// Piecewise quintic polynomials in a variable x in [-1, 1] centred in each of `n_cells` cells; see kernels/tables.py
template <class F> struct Table {
  int64_t n_types, n_cells, R;  // functions per kind: a whole number of vectors
  const F* coefficients;        // (K, n_cells, 6, R)
  const double *lower, *inverse_width;  // (K,)
  const int64_t* kind;          // (T, T), by the types of center and neighbor, or of two neighbors
};

template <class F> struct Place {  // where an argument falls
  const F* c;
  F x;
};

// false outside of the table
template <class F> inline bool locate(const Table<F>& t, int64_t kind, double argument, Place<F>& place) {
  const double z = (argument - t.lower[kind]) * t.inverse_width[kind];
  if (!(z >= 0 && z <= t.n_cells)) return false;
  const int64_t cell = std::min(int64_t(z), t.n_cells - 1);
  place.c = t.coefficients + (kind * t.n_cells + cell) * 6 * t.R;
  place.x = F(2 * (z - cell) - 1);
  return true;
}

template <class V, class F> INLINE V value(const Place<F>& p, int64_t R, int64_t r) {
  V v = load_as<V>(p.c + 5 * R + r);
#pragma GCC unroll 5
  for (int q = 4; q >= 0; q--) v = v * p.x + load_as<V>(p.c + q * R + r);
  return v;
}
template <class V, class F> INLINE V value_and_slope(const Place<F>& p, int64_t R, int64_t r, V& slope) {
  V v = load_as<V>(p.c + 5 * R + r);
  slope = V{};
#pragma GCC unroll 5
  for (int q = 4; q >= 0; q--) {
    slope = slope * p.x + v;
    v = v * p.x + load_as<V>(p.c + q * R + r);
  }
  return v;  // slope by x
}

template <class F> struct Features {  // u(argument) @ basis[kind]
  Table<F> table;
  int64_t C;
  const F *basis, *basis_t;  // (K, R, C), (K, C, R)
  const F* factor;           // (T, T, C) of center and neighbor type, or null: features times (1 + w factor)
};

// Edges of one center in groups of one neighbor type
struct Groups {
  int64_t *order, *first;  // (n,), (T + 1,)
  Groups(Scratch& s, int64_t most, int64_t n_types) : order(s.take<int64_t>(most)), first(s.take<int64_t>(n_types + 2)) {}
  void find(int64_t n, int64_t n_types, const int64_t* neighbor, const int64_t* types) {
    for (int64_t t = 0; t < n_types + 2; t++) first[t] = 0;
    for (int64_t j = 0; j < n; j++) first[types[neighbor[j]] + 2]++;
    for (int64_t t = 2; t < n_types + 2; t++) first[t] += first[t - 1];
    for (int64_t j = 0; j < n; j++) order[first[types[neighbor[j]] + 1]++] = j;
  }
};

// moment (N, Q, C) = scale sum_j rows_j^T features_j. Rows (E, Q), Q <= 32; the argument is column 0 of `argument`,
// `stride` apart. Edges outside of the table contribute nothing and are counted in `outside`.
template <class F>
bool moments(const Csr& csr, const int64_t* types, const Features<F>& y, int64_t Q, const F* rows, const double* argument,
             const F* weight, double scale, F* moment, int64_t* outside, int threads) {
  constexpr int L = Simd<F>::lanes;
  const int64_t most = csr.max_degree(), R = y.table.R, C = y.C, T = y.table.n_types;
  const int64_t halves = y.factor ? 2 : 1;  // sums of rows, and of weighted rows
  std::atomic<int64_t> missed{0};
  bool good = parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * (halves * Q * R + Q * C) + sizeof(int64_t) * (most + T + 2) + sizeof(Place<F>) * most);
    F *A = scratch.take<F>(halves * Q * R), *part = scratch.take<F>(Q * C);
    Groups groups(scratch, most, T);
    Place<F>* places = scratch.take<Place<F>>(most);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i), center = types[i];
      groups.find(n, T, csr.neighbor + e0, types);
      F* M = moment + i * Q * C;
      for (int64_t c = 0; c < Q * C; c++) M[c] = 0;
      for (int64_t t = 0; t < T; t++) {
        int64_t first = groups.first[t], last = groups.first[t + 1], kind = y.table.kind[center * T + t];
        if (first == last) continue;
        int64_t found = first;
        for (int64_t p = first; p < last; p++)
          if (kind >= 0 && locate(y.table, kind, argument[e0 + groups.order[p]], places[found])) groups.order[found++] = groups.order[p];
          else missed++;
        if (found == first) continue;
        for (int64_t r = 0; r < R; r += L)
          for (int64_t half = 0; half < halves; half++) {
            Full<F> sum[4] = {};
            for (int64_t q0 = 0; q0 < Q; q0 += 4) {
              const int64_t nq = std::min<int64_t>(4, Q - q0);
              for (auto& s : sum) s = Full<F>{};
              for (int64_t p = first; p < found; p++) {
                const int64_t e = e0 + groups.order[p];
                Full<F> u = value<Full<F>>(places[p], R, r);
                if (half) u = u * weight[e];
                for (int64_t q = 0; q < nq; q++) sum[q] += u * rows[e * Q + q0 + q];
              }
              for (int64_t q = 0; q < nq; q++) store<F>(A + (half * Q + q0 + q) * R + r, sum[q]);
            }
          }
        const Rows<F> basis{y.basis + kind * R * C, C};
        product<true>(Q, C, R, Rows<F>{A, R}, basis, M, C);
        if (y.factor) {
          const F* factor = y.factor + (center * T + t) * C;
          product<false>(Q, C, R, Rows<F>{A + Q * R, R}, basis, part, C);
          for (int64_t q = 0; q < Q; q++)
            for (int64_t c = 0; c < C; c++) M[q * C + c] += part[q * C + c] * factor[c];
        }
      }
      for (int64_t c = 0; c < Q * C; c++) M[c] *= F(scale);
    }
  });
  *outside = missed;
  return good;
}

// d_rows (E, Q), of which the argument is column 0, and, with a factor, d_weight (E,), from d_moment (N, Q, C)
template <class F>
bool moments_backward(const Csr& csr, const int64_t* types, const Features<F>& y, int64_t Q, const F* rows,
                      const double* argument, const F* weight, double scale, const F* d_moment, F* d_rows,
                      F* d_weight, int threads) {
  constexpr int L = Simd<F>::lanes;
  const int64_t most = csr.max_degree(), R = y.table.R, C = y.C, T = y.table.n_types, halves = y.factor ? 2 : 1;
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * (halves * Q * R + 2 * Q * C) + sizeof(int64_t) * (most + T + 2));
    F *d_A = scratch.take<F>(halves * Q * R), *d_M = scratch.take<F>(Q * C), *part = scratch.take<F>(Q * C);
    Groups groups(scratch, most, T);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i), center = types[i];
      groups.find(n, T, csr.neighbor + e0, types);
      for (int64_t c = 0; c < Q * C; c++) d_M[c] = F(scale) * d_moment[i * Q * C + c];
      for (int64_t t = 0; t < T; t++) {
        const int64_t first = groups.first[t], last = groups.first[t + 1], kind = y.table.kind[center * T + t];
        if (first == last) continue;
        if (kind >= 0) {
          const Rows<F> basis{y.basis_t + kind * C * R, R};
          product<false>(Q, R, C, Rows<F>{d_M, C}, basis, d_A, R);
          if (y.factor) {
            const F* factor = y.factor + (center * T + t) * C;
            for (int64_t q = 0; q < Q; q++)
              for (int64_t c = 0; c < C; c++) part[q * C + c] = d_M[q * C + c] * factor[c];
            product<false>(Q, R, C, Rows<F>{part, C}, basis, d_A + Q * R, R);
          }
        }
        for (int64_t p = first; p < last; p++) {
          const int64_t e = e0 + groups.order[p];
          const F* row = rows + e * Q;
          Place<F> place;
          if (kind < 0 || !locate(y.table, kind, argument[e], place)) {
            for (int64_t q = 0; q < Q; q++) d_rows[e * Q + q] = 0;
            if (y.factor) d_weight[e] = 0;
            continue;
          }
          const F w = y.factor ? weight[e] : 0;
          Full<F> by_argument = {}, by_weight = {};
          for (int64_t q0 = 0; q0 < Q; q0 += 4) {
            const int64_t nq = std::min<int64_t>(4, Q - q0);
            Full<F> by_row[4] = {};
            for (int64_t r = 0; r < R; r += L) {
              Full<F> slope, u = value_and_slope<Full<F>>(place, R, r, slope);
              for (int64_t q = 0; q < nq; q++) {
                Full<F> d = load<F>(d_A + (q0 + q) * R + r);
                if (y.factor) {
                  Full<F> d2 = load<F>(d_A + (Q + q0 + q) * R + r);
                  by_weight += u * d2 * row[q0 + q];
                  d += d2 * w;
                }
                by_row[q] += u * d;
                by_argument += slope * d * row[q0 + q];
              }
            }
            for (int64_t q = 0; q < nq; q++) d_rows[e * Q + q0 + q] = lane_sum<F>(by_row[q]);
          }
          d_rows[e * Q] += lane_sum<F>(by_argument) * F(2 * y.table.inverse_width[kind]);
          if (y.factor) d_weight[e] = lane_sum<F>(by_weight);
        }
      }
    }
  });
}
