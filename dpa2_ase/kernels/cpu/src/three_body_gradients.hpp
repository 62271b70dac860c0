// Three-body features from tables made anew in every pass of a training, with gradients by geometry or by the tables and
// the factors of the types. See kernels/cpu/trainable_three_body.py.
#pragma once

#include "table_gradients.hpp"
#include "three_body.hpp"

// The pairs of one neighbor with itself and with those behind it in the list of their center
template <class F> struct Partners {
  int64_t n = 0;  // neighbors of the center
  double *x, *y, *z;         // (n,) their angular rows
  double *product, *slope;   // (n,) c of every pair, and the derivative of the argument of the table by it
  F *local, *weight, *both;  // (n,) place in the cell of every pair; w_k; w_j w_k
  double *start, *count;     // (n,) of the table of every pair: first cell on the lattice, number of cells
  int32_t *first, *cell;     // (n,) its first cell, and that of the pair
  int64_t* type;             // (n,) of the neighbors
  Place<F> place;            // of one pair, and the factor of its types
  const F* factor;
  static size_t bytes(int64_t most) {
    return (7 * sizeof(double) + 3 * sizeof(F) + 2 * sizeof(int32_t) + sizeof(int64_t)) * most;
  }
  Partners(Scratch& s, int64_t most)
      : x(s.take<double>(most)), y(s.take<double>(most)), z(s.take<double>(most)), product(s.take<double>(most)),
        slope(s.take<double>(most)), local(s.take<F>(most)), weight(s.take<F>(most)), both(s.take<F>(most)),
        start(s.take<double>(most)), count(s.take<double>(most)), first(s.take<int32_t>(most)),
        cell(s.take<int32_t>(most)), type(s.take<int64_t>(most)) {}

  void enter(const Csr& csr, int64_t i, const int64_t* types, const TrainedFeatures<F>& f, const F* angular,
             int64_t stride, const F* weights) {
    const int64_t e0 = csr.offsets[i];
    n = csr.degree(i);
    for (int64_t j = 0; j < n; j++) {
      const F* row = angular + (e0 + j) * stride;
      x[j] = row[0], y[j] = row[1], z[j] = row[2];
      type[j] = types[csr.neighbor[e0 + j]], weight[j] = weights[e0 + j];
    }
    if (f.n_tables == 1) find_tables(0, f);
  }
  void find_tables(int64_t j, const TrainedFeatures<F>& f) {
    for (int64_t k = j; k < n; k++) {
      const int64_t t = f.table_of(f.pair_of(type[j], type[k]));
      start[k] = double(f.start[t]), count[k] = double(f.first[t + 1] - f.first[t]), first[k] = int32_t(f.first[t]);
    }
  }
  void find(int64_t j, const TrainedFeatures<F>& f) {
    if (f.n_tables > 1) find_tables(j, f);
    const double per_bend = 1 / f.bend, per_width = f.inverse_width, a = x[j], b = y[j], c = z[j];
    const double *__restrict x_k = x, *__restrict y_k = y, *__restrict z_k = z;
    const double *__restrict starts = start, *__restrict counts = count;
    const int32_t* __restrict firsts = first;
    double *__restrict products = product, *__restrict slopes = slope;
    const F *__restrict w_k = weight, w_j = weight[j];
    F *__restrict locals = local, *__restrict boths = both;
    int32_t* __restrict cells = cell;
    for (int64_t k = j; k < n; k++) {
      const double p = a * x_k[k] + b * y_k[k] + c * z_k[k], q = 1 / (1 + std::fabs(p) * per_bend);
      const double at = std::min(std::max(p * q * per_width - starts[k], 0.0), counts[k]);
      const int32_t inside = int32_t(std::min(at, counts[k] - 1));
      products[k] = p;
      slopes[k] = q * q;
      cells[k] = firsts[k] + inside;
      locals[k] = F(2 * (at - inside) - 1);
      boths[k] = w_j * w_k[k];
    }
    product[j] /= 2;  // a neighbor with itself counts once, other pairs in both orders
  }
  INLINE void look_at(int64_t j, int64_t k, const TrainedFeatures<F>& f) {
    place = Place<F>{f.coefficients + cell[k] * 6 * f.R, local[k]};
    factor = f.factor_of(f.pair_of(type[j], type[k]));
  }
};

// out (N, C) = scale sum_{j <= k} c_jk f(c_jk), half of it for j = k; `angular` rows (E, 3) are `stride` apart
template <class F, class V, bool typed>
bool trained_three_body(const Csr& csr, const int64_t* types, const TrainedFeatures<F>& f, const F* angular,
                       int64_t stride, const F* weight, double scale, F* out, int threads) {
  constexpr int L = sizeof(V) / sizeof(F);
  const int64_t R = f.R, most = csr.max_degree();
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * R + Partners<F>::bytes(most));
    F* sum = scratch.take<F>(R);
    Partners<F> pairs(scratch, most);
    for (int64_t i = begin; i < end; i++) {
      pairs.enter(csr, i, types, f, angular, stride, weight);
      for (int64_t r = 0; r < R; r++) sum[r] = 0;
      for (int64_t j = 0; j < pairs.n; j++) {
        pairs.find(j, f);
        for (int64_t r = 0; r < R; r += L) {
          V total = load_as<V>(sum + r);
          for (int64_t k = j; k < pairs.n; k++) {
            pairs.look_at(j, k, f);
            V u = value<V>(pairs.place, R, r);
            if constexpr (typed) u = u * (load_as<V>(pairs.factor + r) * pairs.both[k] + F(1));
            total += u * F(pairs.product[k]);
          }
          store_as<V>(sum + r, total);
        }
      }
      for (int64_t c = 0; c < f.C; c++) out[i * f.C + c] = F(scale) * sum[c];
    }
  });
}

// d_angular (E, 3; rows `stride` apart) and d_weight (E,) from d_out (N, C)
template <class F, class V, bool typed>
bool trained_three_body_backward(const Csr& csr, const int64_t* types, const TrainedFeatures<F>& f, const F* angular,
                                int64_t stride, const F* weight, double scale, const F* d_out, F* d_angular,
                                F* d_weight, int threads) {
  constexpr int L = sizeof(V) / sizeof(F);
  const int64_t R = f.R, most = csr.max_degree();
  const double by_u = 2 * f.inverse_width;
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * R + Partners<F>::bytes(most) + 7 * sizeof(double) * most);
    F* d_sum = scratch.take<F>(R);
    Partners<F> pairs(scratch, most);
    double *by_c = scratch.take<double>(most), *by_both = scratch.take<double>(most);
    double* weights = scratch.take<double>(most);
    double* d[4];  // (4, n) by rows and weight
    for (auto& values : d) values = scratch.take<double>(most);
    for (int64_t i = begin; i < end; i++) {
      pairs.enter(csr, i, types, f, angular, stride, weight);
      with_zeros(1, f.C, R, d_out + i * f.C, d_sum);
      for (auto& values : d) std::memset(values, 0, sizeof(double) * pairs.n);
      for (int64_t k = 0; k < pairs.n; k++) weights[k] = pairs.weight[k];
      for (int64_t j = 0; j < pairs.n; j++) {
        pairs.find(j, f);
        for (int64_t k = j; k < pairs.n; k++) {
          pairs.look_at(j, k, f);
          V values = {}, slopes = {}, weighted = {};
          for (int64_t r = 0; r < R; r += L) {
            V change, u = value_and_slope<V>(pairs.place, R, r, change), d = load_as<V>(d_sum + r);
            if constexpr (typed) {
              const V factor = load_as<V>(pairs.factor + r);
              weighted += u * d * factor;
              d = d * (factor * pairs.both[k] + F(1));
            }
            values += u * d, slopes += change * d;
          }
          const F half = k == j ? F(0.5) : F(1), steep = F(pairs.product[k] * by_u * pairs.slope[k]);
          by_c[k] = scale * lane_sum_as<F>(V(values * half + slopes * steep));
          by_both[k] = scale * pairs.product[k] * lane_sum_as<F>(weighted);
        }
        const double* others[4] = {pairs.x, pairs.y, pairs.z, weights};
        for (int q = 0; q < 4; q++) {
          const double *d_pair = q == 3 ? by_both : by_c, *other = others[q];
          for (int64_t k = j; k < pairs.n; k++) d[q][k] += d_pair[k] * other[j];
          d[q][j] += dot(d_pair + j, other + j, pairs.n - j);
        }
      }
      for (int64_t k = 0, e = csr.offsets[i]; k < pairs.n; k++, e++) {
        for (int q = 0; q < 3; q++) d_angular[e * stride + q] = F(d[q][k]);
        d_weight[e] = F(d[3][k]);
      }
    }
  });
}

// Gradients by coefficients (n_cells, 6, R) and, behind them, by factors (n_pairs, R) if there are such, from d_out (N, C)
template <class F, class V, bool typed>
bool trained_three_body_by_table(const Csr& csr, const int64_t* types, const TrainedFeatures<F>& f, const F* angular,
                                int64_t stride, const F* weight, double scale, const F* d_out, const BlockSums<F>& sums,
                                int threads) {
  constexpr int L = sizeof(V) / sizeof(F);
  const int64_t R = f.R, most = csr.max_degree();
  return sums.run(csr.n_atoms, f.n_numbers(), threads, [&](int64_t begin, int64_t end, F* own, Scratch& scratch) {
    scratch.begin(sizeof(F) * R + Partners<F>::bytes(most));
    F *d_sum = scratch.take<F>(R), *own_factor = own + 6 * f.n_cells() * R;
    Partners<F> pairs(scratch, most);
    for (int64_t i = begin; i < end; i++) {
      pairs.enter(csr, i, types, f, angular, stride, weight);
      with_zeros(1, f.C, R, d_out + i * f.C, d_sum);
      for (int64_t j = 0; j < pairs.n; j++) {
        pairs.find(j, f);
        for (int64_t k = j; k < pairs.n; k++) {
          pairs.look_at(j, k, f);
          for (int64_t r = 0; r < R; r += L) {
            V d = load_as<V>(d_sum + r) * F(scale * pairs.product[k]);
            if constexpr (typed) {
              F* to = own_factor + (pairs.factor - f.factor) + r;
              store_as<V>(to, load_as<V>(to) + value<V>(pairs.place, R, r) * d * pairs.both[k]);
              d = d * (load_as<V>(pairs.factor + r) * pairs.both[k] + F(1));
            }
            add_powers(own + (pairs.place.c - f.coefficients) + r, R, pairs.place.x, d);
          }
        }
      }
    }
  });
}
