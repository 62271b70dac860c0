// Moments of tabulated pair features (repinit, DPA-1) and sums of tabulated three-body features.
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
  bool good = parallel(csr.n_atoms, 8, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
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

// d_rows (E, Q), d_argument (E,) and, with a factor, d_weight (E,), from d_moment (N, Q, C)
template <class F>
bool moments_backward(const Csr& csr, const int64_t* types, const Features<F>& y, int64_t Q, const F* rows,
                      const double* argument, const F* weight, double scale, const F* d_moment, F* d_rows,
                      F* d_argument, F* d_weight, int threads) {
  constexpr int L = Simd<F>::lanes;
  const int64_t most = csr.max_degree(), R = y.table.R, C = y.C, T = y.table.n_types, halves = y.factor ? 2 : 1;
  return parallel(csr.n_atoms, 8, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
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
            d_argument[e] = 0;
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
          d_argument[e] = lane_sum<F>(by_argument) * F(2 * y.table.inverse_width[kind]);
          if (y.factor) d_weight[e] = lane_sum<F>(by_weight);
        }
      }
    }
  });
}

template <class F> struct ThreeBodyOptions {
  Table<F> table;    // of u = c / sqrt(1 + (c / bend)^2), symmetric in the two types
  double bend;
  const F* factor;   // (T, T, R) or null: features times (1 + w_j w_k factor), and both orders summed in the table
};

// One pair of neighbors: its cosine, the place in the table, and du/dc
template <class F> struct Pair {
  double c, slope;
  Place<F> place;
  const F* factor;
  bool find(const ThreeBodyOptions<F>& y, const F* a, const F* b, int64_t ta, int64_t tb) {
    const int64_t both = ta * y.table.n_types + tb;
    c = double(a[0]) * b[0] + double(a[1]) * b[1] + double(a[2]) * b[2];
    const double q = 1 / std::sqrt(1 + c * c / (y.bend * y.bend));
    slope = q * q * q;
    factor = y.factor ? y.factor + both * y.table.R : nullptr;
    return y.table.kind[both] >= 0 && locate(y.table, y.table.kind[both], c * q, place);
  }
};

// out (N, R) = scale sum_{j <= k} c_jk f(c_jk), half of it for j = k; `angular` rows (E, 3) are `stride` apart. Pairs
// outside of the table contribute nothing and are counted in `outside`.
template <class F, class V>
bool three_body(const Csr& csr, const int64_t* types, const ThreeBodyOptions<F>& y, const F* angular, int64_t stride,
                const F* weight, double scale, F* out, int64_t* outside, int threads) {
  constexpr int L = sizeof(V) / sizeof(F);
  const int64_t R = y.table.R;
  std::atomic<int64_t> missed{0};
  const bool good = parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i);
      for (int64_t r = 0; r < R; r += L) {
        V sum = {};
        for (int64_t j = 0; j < n; j++)
          for (int64_t k = j; k < n; k++) {
            Pair<F> pair;
            if (!pair.find(y, angular + (e0 + j) * stride, angular + (e0 + k) * stride,
                           types[csr.neighbor[e0 + j]], types[csr.neighbor[e0 + k]])) {
              missed++;
              continue;
            }
            V f = value<V>(pair.place, R, r);
            if (y.factor) f = f * (load_as<V>(pair.factor + r) * (weight[e0 + j] * weight[e0 + k]) + F(1));
            sum += f * F(j == k ? pair.c / 2 : pair.c);
          }
        store_as<V>(out + i * R + r, sum * F(scale));
      }
    }
  });
  *outside = missed;
  return good;
}

// d_angular (E, 3; rows `stride` apart) and, with a factor, d_weight (E,); both are added to
template <class F, class V>
bool three_body_backward(const Csr& csr, const int64_t* types, const ThreeBodyOptions<F>& y, const F* angular,
                         int64_t stride, const F* weight, double scale, const F* d_out, F* d_angular, F* d_weight,
                         int threads) {
  constexpr int L = sizeof(V) / sizeof(F);
  const int64_t R = y.table.R;
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i);
      for (int64_t j = 0; j < n; j++)
        for (int64_t k = j; k < n; k++) {
          const F *a = angular + (e0 + j) * stride, *b = angular + (e0 + k) * stride;
          Pair<F> pair;
          if (!pair.find(y, a, b, types[csr.neighbor[e0 + j]], types[csr.neighbor[e0 + k]])) continue;
          const F both = y.factor ? weight[e0 + j] * weight[e0 + k] : 0;
          V values = {}, slopes = {}, weighted = {};
          for (int64_t r = 0; r < R; r += L) {
            V slope, f = value_and_slope<V>(pair.place, R, r, slope), d = load_as<V>(d_out + i * R + r);
            if (y.factor) {
              V factor = load_as<V>(pair.factor + r);
              weighted += f * d * factor;
              d = d * (factor * both + F(1));
            }
            values += f * d, slopes += slope * d;
          }
          F total = 0, slope = 0, by_both = 0;
          for (int v = 0; v < L; v++) total += values[v], slope += slopes[v], by_both += weighted[v];
          const double half = scale * (j == k ? 0.5 : 1);
          const double width = 2 * y.table.inverse_width[y.table.kind[types[csr.neighbor[e0 + j]] * y.table.n_types + types[csr.neighbor[e0 + k]]]];
          const F by_c = F(half * (total + pair.c * slope * width * pair.slope));
          for (int q = 0; q < 3; q++) {
            const F to_j = by_c * b[q], to_k = by_c * a[q];
            d_angular[(e0 + j) * stride + q] += to_j;
            d_angular[(e0 + k) * stride + q] += to_k;
          }
          if (y.factor) {
            const F d = F(half * pair.c) * by_both, to_j = d * weight[e0 + k], to_k = d * weight[e0 + j];
            d_weight[e0 + j] += to_j, d_weight[e0 + k] += to_k;
          }
        }
    }
  });
}
