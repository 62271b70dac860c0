// Moments of features from tables made anew in every pass of a training: with gradients by geometry or by the tables
// and the factors of the types. See kernels/cpu/trainable_tables.py.
#pragma once

#include "tables.hpp"
#include "weight_gradients.hpp"

// u(argument), or u(argument) (1 + w factor): one table for every pair of types, or one for all and a factor of the pair.
// Cells of all tables are as wide, and lie on one lattice that begins at zero.
template <class F> struct TrainedFeatures {
  int64_t n_types, n_pairs, n_tables, R, C;  // R is C up to a whole number of vectors
  double inverse_width;
  double bend;                 // three-body features of a product c: the argument is u = c / (1 + |c| / bend)
  const F* coefficients;       // (n_cells, 6, R), the cells of one table after those of another
  const int64_t *first, *start;  // (n_tables + 1,) in that list; (n_tables,) on the lattice
  const F* factor;             // (n_pairs, R), or null
  const int64_t* pair;         // (T, T), by the types of center and neighbor, or of two neighbors

  int64_t pair_of(int64_t a, int64_t b) const { return pair[a * n_types + b]; }
  const F* factor_of(int64_t pair) const { return factor ? factor + pair * R : nullptr; }
  int64_t table_of(int64_t pair) const { return n_tables == 1 ? 0 : pair; }
  int64_t n_cells() const { return first[n_tables]; }
  int64_t n_numbers() const { return (6 * n_cells() + (factor ? n_pairs : 0)) * R; }
  // the tables cover all arguments: whoever made them has seen them
  INLINE int64_t cell(int64_t pair, double argument, F& x) const {
    const int64_t t = table_of(pair), last = first[t + 1] - first[t] - 1;
    double z = argument * inverse_width - double(start[t]);
    z = z > 0 ? z : 0;
    const double begin = std::floor(z < double(last) ? z : double(last));
    x = F(2 * (z - begin) - 1);
    return first[t] + int64_t(begin);
  }
};

// Adds powers of x times d to the gradient of the coefficients of a cell.
template <class V, class F> INLINE void add_powers(F* cell, int64_t R, F x, V d) {
#pragma GCC unroll 6
  for (int q = 0; q < 6; q++) {
    store_as<V>(cell + q * R, load_as<V>(cell + q * R) + d);
    d = d * x;
  }
}

template <class F> struct TrainedEdges {  // of one center: where they are in the table, and the factors of their types
  Place<F>* places;
  const F** factors;
  static size_t bytes(int64_t most) { return (sizeof(Place<F>) + sizeof(F*)) * most; }
  TrainedEdges(Scratch& s, int64_t most) : places(s.take<Place<F>>(most)), factors(s.take<const F*>(most)) {}
  void find(const Csr& csr, const int64_t* types, const TrainedFeatures<F>& y, const double* argument, int64_t i) {
    const int64_t e0 = csr.offsets[i], n = csr.degree(i);
    for (int64_t j = 0; j < n; j++) {
      const int64_t pair = y.pair_of(types[i], types[csr.neighbor[e0 + j]]);
      places[j].c = y.coefficients + y.cell(pair, argument[e0 + j], places[j].x) * 6 * y.R;
      factors[j] = y.factor_of(pair);
    }
  }
};

// Rows of one center with zeros behind each: (n, C) to (n, R).
template <class F> inline void with_zeros(int64_t n, int64_t C, int64_t R, const F* from, F* to) {
  for (int64_t q = 0; q < n; q++) {
    std::memcpy(to + q * R, from + q * C, sizeof(F) * C);
    std::memset(to + q * R + C, 0, sizeof(F) * (R - C));
  }
}

// moment (N, 4, C) = sum_j rows_j^T features_j, from rows (E, 4), arguments (E,) and weights w (E,)
template <class F, bool typed>
bool trained_moments(const Csr& csr, const int64_t* types, const TrainedFeatures<F>& y, const F* rows,
                    const double* argument, const F* weight, F* moment, int threads) {
  constexpr int L = Simd<F>::lanes;
  const int64_t most = csr.max_degree(), R = y.R;
  return parallel(csr.n_atoms, 8, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * 4 * R + TrainedEdges<F>::bytes(most));
    F* M = scratch.take<F>(4 * R);
    TrainedEdges<F> edges(scratch, most);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i);
      edges.find(csr, types, y, argument, i);
      for (int64_t r = 0; r < R; r += L) {
        Full<F> sum[4] = {};
        for (int64_t j = 0; j < n; j++) {
          const F* row = rows + 4 * (e0 + j);
          const Full<F> u = value<Full<F>>(edges.places[j], R, r);
          const Full<F> feature = typed ? u * (load<F>(edges.factors[j] + r) * weight[e0 + j] + F(1)) : u;
#pragma GCC unroll 4
          for (int q = 0; q < 4; q++) sum[q] += feature * row[q];
        }
        for (int q = 0; q < 4; q++) store<F>(M + q * R + r, sum[q]);
      }
      for (int64_t q = 0; q < 4; q++) std::memcpy(moment + (4 * i + q) * y.C, M + q * R, sizeof(F) * y.C);
    }
  });
}

// d_rows (E, 4), the argument's share in column 0 included, and d_weight (E,) from d_moment (N, 4, C)
template <class F, bool typed>
bool trained_moments_backward(const Csr& csr, const int64_t* types, const TrainedFeatures<F>& y, const F* rows,
                             const double* argument, const F* weight, const F* d_moment, F* d_rows, F* d_weight,
                             int threads) {
  constexpr int L = Simd<F>::lanes;
  const int64_t most = csr.max_degree(), R = y.R;
  const F by_x = F(2 * y.inverse_width);
  return parallel(csr.n_atoms, 8, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * 4 * R + TrainedEdges<F>::bytes(most));
    F* d_M = scratch.take<F>(4 * R);
    TrainedEdges<F> edges(scratch, most);
    for (int64_t i = begin; i < end; i++) {
      edges.find(csr, types, y, argument, i);
      with_zeros(4, y.C, R, d_moment + i * 4 * y.C, d_M);
      for (int64_t e = csr.offsets[i], j = 0; e < csr.offsets[i + 1]; e++, j++) {
        const F *row = rows + 4 * e, w = weight[e];
        Full<F> by_row[4] = {}, by_argument = {}, by_weight = {};
        for (int64_t r = 0; r < R; r += L) {
          Full<F> slope, u = value_and_slope<Full<F>>(edges.places[j], R, r, slope), d = {};
          Full<F> feature = u;
          if constexpr (typed) feature += u * load<F>(edges.factors[j] + r) * w;
#pragma GCC unroll 4
          for (int q = 0; q < 4; q++) {
            const Full<F> d_q = load<F>(d_M + q * R + r);
            d += d_q * row[q];
            by_row[q] += feature * d_q;
          }
          if constexpr (typed) {
            const Full<F> factor = load<F>(edges.factors[j] + r);
            by_weight += u * factor * d;
            slope = slope * (factor * w + F(1));
          }
          by_argument += slope * d;
        }
        by_row[0] += by_argument * by_x;
        for (int q = 0; q < 4; q++) d_rows[4 * e + q] = lane_sum<F>(by_row[q]);
        d_weight[e] = lane_sum<F>(by_weight);
      }
    }
  });
}

// Edges of a few centers in the order of their cells, so that the sums of a cell stay in registers
template <class F> struct SortedEdges {
  struct Edge {
    F powers[6], row[4], weight;
    const F *d_moment, *factor;  // of its center, (4, R); of its types, (R,)
  };
  static constexpr int64_t centers = 8;
  Edge* edges;
  int64_t *cell, *first;  // (n,), (n_cells + 1,)
  static size_t bytes(int64_t most, int64_t n_cells) {
    return (sizeof(Edge) + sizeof(int64_t)) * centers * most + sizeof(int64_t) * (n_cells + 2);
  }
  SortedEdges(Scratch& s, int64_t most, int64_t n_cells)
      : edges(s.take<Edge>(centers * most)), cell(s.take<int64_t>(centers * most)),
        first(s.take<int64_t>(n_cells + 2)) {}

  // the edges of the centers begin..end
  void find(const Csr& csr, int64_t begin, int64_t end, const int64_t* types, const TrainedFeatures<F>& y, const F* rows,
            const double* argument, const F* weight, const F* d_moment) {
    const int64_t e0 = csr.offsets[begin], n_cells = y.n_cells();
    for (int64_t c = 0; c < n_cells + 2; c++) first[c] = 0;
    F x;
    for (int64_t i = begin; i < end; i++)
      for (int64_t e = csr.offsets[i]; e < csr.offsets[i + 1]; e++)
        first[(cell[e - e0] = y.cell(y.pair_of(types[i], types[csr.neighbor[e]]), argument[e], x)) + 2]++;
    for (int64_t c = 2; c < n_cells + 2; c++) first[c] += first[c - 1];
    for (int64_t i = begin; i < end; i++)
      for (int64_t e = csr.offsets[i]; e < csr.offsets[i + 1]; e++) {
        const int64_t pair = y.pair_of(types[i], types[csr.neighbor[e]]);
        Edge& to = edges[first[cell[e - e0] + 1]++];
        y.cell(pair, argument[e], x);
        to.powers[0] = 1;
        for (int q = 1; q < 6; q++) to.powers[q] = to.powers[q - 1] * x;
        std::memcpy(to.row, rows + 4 * e, sizeof(to.row));
        to.weight = weight[e];
        to.d_moment = d_moment + (i - begin) * 4 * y.R;
        to.factor = y.factor_of(pair);
      }
  }
};

// Gradients by coefficients (n_cells, 6, R) and, behind them, by factors (n_pairs, R) if there are such, from d_moment (N, 4, C)
template <class F, bool typed>
bool trained_moments_by_table(const Csr& csr, const int64_t* types, const TrainedFeatures<F>& y, const F* rows,
                             const double* argument, const F* weight, const F* d_moment, const BlockSums<F>& sums,
                             int threads) {
  constexpr int L = Simd<F>::lanes;
  constexpr int64_t group = SortedEdges<F>::centers;
  const int64_t most = csr.max_degree(), R = y.R, n_cells = y.n_cells();
  return sums.run(csr.n_atoms, y.n_numbers(), threads, [&](int64_t begin, int64_t end, F* own, Scratch& scratch) {
    scratch.begin(sizeof(F) * group * 4 * R + SortedEdges<F>::bytes(most, n_cells));
    F *d_M = scratch.take<F>(group * 4 * R), *own_factor = own + 6 * n_cells * R;
    SortedEdges<F> sorted(scratch, most, n_cells);
    for (int64_t i = begin; i < end; i += group) {
      const int64_t stop = std::min(end, i + group);
      with_zeros(4 * (stop - i), y.C, R, d_moment + i * 4 * y.C, d_M);
      sorted.find(csr, i, stop, types, y, rows, argument, weight, d_M);
      for (int64_t r = 0; r < R; r += L)
        for (int64_t cell = 0; cell < n_cells; cell++) {
          if (sorted.first[cell] == sorted.first[cell + 1]) continue;
          const Place<F> start{y.coefficients + cell * 6 * R, 0};
          Full<F> sum[6] = {};
          for (int64_t p = sorted.first[cell]; p < sorted.first[cell + 1]; p++) {
            const auto& edge = sorted.edges[p];
            Full<F> d = {};
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) d += load<F>(edge.d_moment + q * R + r) * edge.row[q];
            if constexpr (typed) {
              F* to = own_factor + (edge.factor - y.factor) + r;
              store<F>(to, load<F>(to) + value<Full<F>>(Place<F>{start.c, edge.powers[1]}, R, r) * d * edge.weight);
              d = d * (load<F>(edge.factor + r) * edge.weight + F(1));
            }
#pragma GCC unroll 6
            for (int q = 0; q < 6; q++) sum[q] += d * edge.powers[q];
          }
          for (int q = 0; q < 6; q++) {
            F* to = own + (cell * 6 + q) * R + r;
            store<F>(to, load<F>(to) + sum[q]);
          }
        }
    }
  });
}
