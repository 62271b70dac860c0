// Sums of tabulated three-body features over pairs of neighbors, and their derivatives.
#pragma once

#include "tables.hpp"

template <class F> struct ThreeBodyOptions {
  Table<F> table;    // of u = c / sqrt(1 + (c / bend)^2), symmetric in the two types
  double bend;
  const F* factor;   // (T, T, R) or null: features times (1 + w_j w_k factor), and both orders summed in the table
};

// By halves, as lane_sum, of a vector of any length
template <class F, class V> INLINE F lane_sum_as(V v) {
  constexpr int L = sizeof(V) / sizeof(F);
  F a[L];
  store_as<V>(a, v);
#pragma GCC unroll 4
  for (int half = L / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) a[i] += a[i + half];
  return a[0];
}

// The pairs of one neighbor with itself and with those behind it in the list of their center. The places of all of them
// in the tables are found first: this takes whole vectors of pairs, and the tables are fetched meanwhile.
template <class F> struct Triples {
  const ThreeBodyOptions<F>& y;
  int64_t n = 0;                    // neighbors of the center
  double *axis[3], *c, *slope;      // (n,) angular rows; product of every pair; c times the slope of its place by c
  double *lower, *inverse_width;    // (n,) of the table of every pair
  F *local, *weight, *both;         // (n,) place in the cell of every pair; w_k; w_j w_k
  int32_t *first, *cell;            // (n,) first cell of the table, and that of the pair; negative outside of the tables
  int64_t* type;                    // (n,) of the neighbors

  static size_t bytes(int64_t most) { return (7 * sizeof(double) + 3 * sizeof(F) + 2 * 4 + sizeof(int64_t)) * most; }
  Triples(Scratch& s, int64_t most, const ThreeBodyOptions<F>& options)
      : y(options), c(s.take<double>(most)), slope(s.take<double>(most)), lower(s.take<double>(most)),
        inverse_width(s.take<double>(most)), local(s.take<F>(most)), weight(s.take<F>(most)), both(s.take<F>(most)),
        first(s.take<int32_t>(most)), cell(s.take<int32_t>(most)), type(s.take<int64_t>(most)) {
    for (auto& values : axis) values = s.take<double>(most);
  }

  void enter(const Csr& csr, int64_t i, const int64_t* types, const F* angular, int64_t stride, const F* weights) {
    const int64_t e0 = csr.offsets[i];
    n = csr.degree(i);
    for (int64_t j = 0; j < n; j++) {
      for (int q = 0; q < 3; q++) axis[q][j] = angular[(e0 + j) * stride + q];
      type[j] = types[csr.neighbor[e0 + j]], weight[j] = weights[e0 + j];
    }
  }
  // Returns the number of pairs outside of the tables.
  int64_t find(int64_t j) {
    for (int64_t k = j; k < n; k++) {
      const int64_t kind = y.table.kind[type[j] * y.table.n_types + type[k]];
      first[k] = int32_t(kind * y.table.n_cells);
      lower[k] = kind < 0 ? 0 : y.table.lower[kind], inverse_width[k] = kind < 0 ? 0 : y.table.inverse_width[kind];
    }
    const double by_bend = 1 / (y.bend * y.bend), a = axis[0][j], b = axis[1][j], d = axis[2][j];
    const double *__restrict x = axis[0], *__restrict yy = axis[1], *__restrict z = axis[2];
    const double *__restrict low = lower, *__restrict width = inverse_width;
    const int32_t* __restrict starts = first;
    double *__restrict products = c, *__restrict slopes = slope;
    const F *__restrict w = weight, own = weight[j];
    F *__restrict locals = local, *__restrict boths = both;
    int32_t* __restrict cells = cell;
    const double last = double(y.table.n_cells);
    int32_t outside = 0;
    for (int64_t k = j; k < n; k++) {
      const double p = a * x[k] + b * yy[k] + d * z[k], q = 1 / std::sqrt(1 + p * p * by_bend);
      const double at = (p * q - low[k]) * width[k];
      const bool inside = at >= 0 && at <= last && starts[k] >= 0;  // not for NaN
      const double here = inside ? at : 0;
      const int32_t whole = int32_t(here < last - 1 ? here : last - 1);
      products[k] = p;
      slopes[k] = 2 * width[k] * p * q * q * q;
      locals[k] = F(2 * (here - whole) - 1);
      boths[k] = own * w[k];
      cells[k] = inside ? starts[k] + whole : -1;
      outside += !inside;
    }
    c[j] /= 2, slope[j] /= 2;  // a neighbor with itself counts once, other pairs in both orders
    for (int64_t k = j; k < n; k++)
      if (cell[k] >= 0) __builtin_prefetch(coefficients(k)), __builtin_prefetch(coefficients(k) + 3 * y.table.R);
    return outside;
  }
  const F* coefficients(int64_t k) const { return y.table.coefficients + cell[k] * 6 * y.table.R; }
  Place<F> place(int64_t k) const { return {coefficients(k), local[k]}; }
  const F* factor(int64_t j, int64_t k) const { return y.factor + (type[j] * y.table.n_types + type[k]) * y.table.R; }
};

// out (N, R) = scale sum_{j <= k} c_jk f(c_jk), half of it for j = k; `angular` rows (E, 3) are `stride` apart. Pairs
// outside of the table contribute nothing and are counted in `outside`.
template <class F, class V>
bool three_body(const Csr& csr, const int64_t* types, const ThreeBodyOptions<F>& y, const F* angular, int64_t stride,
                const F* weight, double scale, F* out, int64_t* outside, int threads) {
  constexpr int L = sizeof(V) / sizeof(F);
  const int64_t R = y.table.R, most = csr.max_degree();
  std::atomic<int64_t> missed{0};
  const bool good = parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(Triples<F>::bytes(most));
    Triples<F> pairs(scratch, most, y);
    for (int64_t i = begin; i < end; i++) {
      F* sum = out + i * R;
      pairs.enter(csr, i, types, angular, stride, weight);
      for (int64_t r = 0; r < R; r++) sum[r] = 0;
      for (int64_t j = 0; j < pairs.n; j++) {
        missed += pairs.find(j);
        for (int64_t r = 0; r < R; r += L) {
          V total = load_as<V>(sum + r);
          for (int64_t k = j; k < pairs.n; k++) {
            if (pairs.cell[k] < 0) continue;
            V f = value<V>(pairs.place(k), R, r);
            if (y.factor) f = f * (load_as<V>(pairs.factor(j, k) + r) * pairs.both[k] + F(1));
            total += f * F(pairs.c[k]);
          }
          store_as<V>(sum + r, total);
        }
      }
      for (int64_t r = 0; r < R; r++) sum[r] *= F(scale);
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
  const int64_t R = y.table.R, most = csr.max_degree();
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(Triples<F>::bytes(most) + 7 * sizeof(double) * most);
    Triples<F> pairs(scratch, most, y);
    double *by_c = scratch.take<double>(most), *by_both = scratch.take<double>(most);
    double *weights = scratch.take<double>(most), *d[4];  // by rows and weight
    for (auto& values : d) values = scratch.take<double>(most);
    for (int64_t i = begin; i < end; i++) {
      pairs.enter(csr, i, types, angular, stride, weight);
      for (auto& values : d) std::fill(values, values + pairs.n, 0.0);
      std::copy(pairs.weight, pairs.weight + pairs.n, weights);
      for (int64_t j = 0; j < pairs.n; j++) {
        pairs.find(j);
        for (int64_t k = j; k < pairs.n; k++) {
          by_c[k] = by_both[k] = 0;
          if (pairs.cell[k] < 0) continue;
          V values = {}, weighted = {};
          const F half = F(k == j ? 0.5 : 1), steep = F(pairs.slope[k]);
          for (int64_t r = 0; r < R; r += L) {
            V slope, f = value_and_slope<V>(pairs.place(k), R, r, slope), d_r = load_as<V>(d_out + i * R + r);
            if (y.factor) {
              const V factor = load_as<V>(pairs.factor(j, k) + r);
              weighted += f * d_r * factor;
              d_r = d_r * (factor * pairs.both[k] + F(1));
            }
            values += (f * half + slope * steep) * d_r;
          }
          by_c[k] = scale * lane_sum_as<F>(values);
          if (y.factor) by_both[k] = scale * pairs.c[k] * lane_sum_as<F>(weighted);
        }
        const double* others[4] = {pairs.axis[0], pairs.axis[1], pairs.axis[2], weights};
        for (int q = 0; q < (y.factor ? 4 : 3); q++) {
          const double *d_pair = q == 3 ? by_both : by_c, *other = others[q];
          for (int64_t k = j; k < pairs.n; k++) d[q][k] += d_pair[k] * other[j];
          d[q][j] += dot(d_pair + j, other + j, pairs.n - j);
        }
      }
      for (int64_t k = 0, e = csr.offsets[i]; k < pairs.n; k++, e++) {
        for (int q = 0; q < 3; q++) d_angular[e * stride + q] += F(d[q][k]);
        if (y.factor) d_weight[e] += F(d[3][k]);
      }
    }
  });
}
