// Tabulated pair features of every edge, where attention follows, and moments of what it makes of them.
#pragma once

#include "tables.hpp"

template <class F> class FeaturesOfOne {  // of one center: its edges in groups of one neighbor type
 public:
  const Features<F>& y;
  const int64_t R, C, T;
  Groups groups;
  Place<F>* places;
  F *u, *g, *weighted;

  static size_t size(int64_t most, const Features<F>& y) {
    return sizeof(F) * most * (y.table.R + 2 * y.C) + sizeof(int64_t) * (most + y.table.n_types + 2) +
           sizeof(Place<F>) * most;
  }
  FeaturesOfOne(Scratch& s, int64_t most, const Features<F>& features)
      : y(features), R(features.table.R), C(features.C), T(features.table.n_types), groups(s, most, T),
        places(s.take<Place<F>>(most)), u(s.take<F>(most * R)), g(s.take<F>(most * C)), weighted(s.take<F>(most * C)) {}

  // Calls body(kind, factor, edges, n) for every group, without the edges that the tables do not cover: `missing` gets
  // those. `places` belong to `edges`, which count from the first of the center.
  template <class Body, class Missing>
  void for_groups(int64_t n, int64_t center, const int64_t* neighbor, const int64_t* types, const double* argument,
                  Body body, Missing missing) {
    groups.find(n, T, neighbor, types);
    for (int64_t t = 0; t < T; t++) {
      const int64_t kind = y.table.kind[center * T + t];
      int64_t* edges = groups.order + groups.first[t];
      int64_t found = 0;
      for (int64_t p = 0; p < groups.first[t + 1] - groups.first[t]; p++)
        if (kind >= 0 && locate(y.table, kind, argument[edges[p]], places[found])) edges[found++] = edges[p];
        else missing(edges[p]);
      if (found) body(kind, y.factor ? y.factor + (center * T + t) * C : nullptr, edges, found);
    }
  }
};

// out (E, C) = u(argument) @ basis, times 1 + w factor; zero for edges outside of the tables, counted in `outside`
template <class F>
bool pair_features(const Csr& csr, const int64_t* types, const Features<F>& y, const double* argument, const F* weight,
                   F* out, int64_t* outside, int threads) {
  constexpr int L = Simd<F>::lanes;
  const int64_t most = csr.max_degree(), R = y.table.R, C = y.C;
  std::atomic<int64_t> missed{0};
  const bool good = parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(FeaturesOfOne<F>::size(most, y));
    FeaturesOfOne<F> one(scratch, most, y);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i];
      F* to = out + e0 * C;
      one.for_groups(
          csr.degree(i), types[i], csr.neighbor + e0, types, argument + e0,
          [&](int64_t kind, const F* factor, const int64_t* edges, int64_t n) {
            for (int64_t p = 0; p < n; p++)
              for (int64_t r = 0; r < R; r += L) store<F>(one.u + p * R + r, value<Full<F>>(one.places[p], R, r));
            product<false>(n, C, R, Rows<F>{one.u, R}, Rows<F>{y.basis + kind * R * C, C}, one.g, C);
            for (int64_t p = 0; p < n; p++) {
              const F w = factor ? weight[e0 + edges[p]] : 0;
              for (int64_t c = 0; c < C; c++)
                to[edges[p] * C + c] = factor ? one.g[p * C + c] * (1 + w * factor[c]) : one.g[p * C + c];
            }
          },
          [&](int64_t edge) {
            missed++;
            std::memset(to + edge * C, 0, sizeof(F) * C);
          });
    }
  });
  *outside = missed;
  return good;
}

// d_argument (E,) and d_weight (E,) from d_out (E, C)
template <class F>
bool pair_features_backward(const Csr& csr, const int64_t* types, const Features<F>& y, const double* argument,
                            const F* weight, const F* d_out, F* d_argument, F* d_weight, int threads) {
  constexpr int L = Simd<F>::lanes;
  const int64_t most = csr.max_degree(), R = y.table.R, C = y.C;
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(FeaturesOfOne<F>::size(most, y));
    FeaturesOfOne<F> one(scratch, most, y);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i];
      one.for_groups(
          csr.degree(i), types[i], csr.neighbor + e0, types, argument + e0,
          [&](int64_t kind, const F* factor, const int64_t* edges, int64_t n) {
            const Rows<F> basis{y.basis_t + kind * C * R, R};
            for (int64_t p = 0; p < n; p++) {
              const F *d = d_out + (e0 + edges[p]) * C, w = factor ? weight[e0 + edges[p]] : 0;
              for (int64_t c = 0; c < C; c++) one.g[p * C + c] = factor ? d[c] * (1 + w * factor[c]) : d[c];
              for (int64_t c = 0; factor && c < C; c++) one.weighted[p * C + c] = d[c] * factor[c];
            }
            product<false>(n, R, C, Rows<F>{one.g, C}, basis, one.u, R);
            for (int64_t p = 0; p < n; p++) {
              Full<F> total = {};
              for (int64_t r = 0; r < R; r += L) {
                Full<F> slope;
                value_and_slope<Full<F>>(one.places[p], R, r, slope);
                total += slope * load<F>(one.u + p * R + r);
              }
              d_argument[e0 + edges[p]] = lane_sum<F>(total) * F(2 * y.table.inverse_width[kind]);
              d_weight[e0 + edges[p]] = 0;
            }
            if (!factor) return;
            product<false>(n, R, C, Rows<F>{one.weighted, C}, basis, one.u, R);
            for (int64_t p = 0; p < n; p++) {
              Full<F> total = {};
              for (int64_t r = 0; r < R; r += L)
                total += value<Full<F>>(one.places[p], R, r) * load<F>(one.u + p * R + r);
              d_weight[e0 + edges[p]] = lane_sum<F>(total);
            }
          },
          [&](int64_t edge) { d_argument[e0 + edge] = d_weight[e0 + edge] = 0; });
    }
  });
}

// moment (N, 4, C) = sum_j rows_j^T g_j with rows (E, 4) and features g (E, C)
template <class F>
bool edge_moments(const Csr& csr, int64_t C, const F* rows, const F* g, F* moment, int threads) {
  return parallel(csr.n_atoms, 8, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i];
      product<false>(4, C, csr.degree(i), Strided<F>{rows + e0 * 4, 1, 4}, Rows<F>{g + e0 * C, C}, moment + i * 4 * C, C);
    }
  });
}

template <class F>
bool edge_moments_backward(const Csr& csr, int64_t C, const F* rows, const F* g, const F* d_moment, F* d_rows, F* d_g,
                           int threads) {
  return parallel(csr.n_atoms, 8, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i);
      const F* d = d_moment + i * 4 * C;
      product<false>(n, C, 4, Rows<F>{rows + e0 * 4, 4}, Rows<F>{d, C}, d_g + e0 * C, C);
      for (int64_t e = e0; e < e0 + n; e++)
        for (int64_t a = 0; a < 4; a++) d_rows[e * 4 + a] = dot(d + a * C, g + e * C, C);
    }
  });
}
