// The attention among the neighbors of one center (DPA-1), one head, its linear maps folded into each other.
//
//   g' = gamma z + beta,  z = LayerNorm without scale of g + B (x / |v|) O + b_o,   x = [g, 1]
//   B_jk = P_jk W_jk G_jk,  P_j = softmax_k(raw_jk W_jk + 20 (W_jk - 1)) with the dead slots' mass in the denominator
//   raw_jk = x_j M x_k / (|q_j| |k_k|)
//
// with W_jk = w_j w_k and G_jk = h_j . h_k. Queries, keys and values q, k, v exist as lengths only: |q|^2 = |x L|^2 with
// a triangular L, and its gradient is 2 x S with S = L L^T. Where they are not normalized the lengths are one.
#pragma once

#include <cmath>

#include "edges.hpp"

enum { kQuery, kKey, kValue, kKinds };

template <class F> struct AttentionWeights {
  int64_t C, X, R;  // channels; columns of x = [g, 1, 0...]; columns of L
  int64_t normalize, smooth, dotr;
  double eps;                            // of the LayerNorm
  const F *query_key, *query_key_t;      // M and its transpose, (X, X)
  const F *value_output, *value_output_t;  // O (X, X), its columns from C on zero, and the transpose
  const F *roots, *squares;              // L (3, X, R) and S (3, X, X) of query, key, value
  const F *output_bias, *norm_scale, *norm_shift;  // (C,)
};

template <class F> struct AttentionArrays {  // of the whole graph
  const F *g;          // (E, C)
  const F *direction;  // (E, 3)
  const F *weight;     // (E,) the switch; not read where the model is not smooth
  const F *n_dead;     // (N,)
  F *kept_z;           // (E, C), null to compute it again
  F *kept_rstd;        // (E,), null with kept_z
  F *inverse;          // (E, 3) inverse lengths of query, key, value; not used if they are not normalized
};

template <class F> inline int64_t whole_vectors(int64_t n) {
  constexpr int64_t L = Simd<F>::lanes;
  return (n + L - 1) / L * L;
}

template <class F> class NeighborsOfOne {  // intermediates of one center after the other
 public:
  static constexpr int64_t kStep = 32;  // columns of L at a time
  const AttentionWeights<F>& y;
  const AttentionArrays<F>& arrays;
  int64_t n, np;  // neighbors, and that up to whole vectors
  F *x, *xT, *q, *raw, *prob, *B, *Y, *z, *rstd, *part, *h[3], *w, *inverse[kKinds], *shift, *total;
  const F one, twenty;  // what stands for a cosine that is not there, and for the shift of smooth logits

  static int64_t size(int64_t most, const AttentionWeights<F>& y) {
    const int64_t np = whole_vectors<F>(most);
    return 4 * most * y.X + y.X * np + 3 * most * np + most * y.C + most * kStep + 10 * np;
  }
  NeighborsOfOne(Scratch& s, int64_t most, const AttentionWeights<F>& weights, const AttentionArrays<F>& of_all)
      : y(weights), arrays(of_all), one(weights.dotr ? 0 : 1), twenty(weights.smooth ? 20 : 0) {
    const int64_t np = whole_vectors<F>(most);
    x = s.take<F>(most * y.X), xT = s.take<F>(y.X * np), q = s.take<F>(most * y.X), Y = s.take<F>(most * y.X);
    raw = s.take<F>(most * np), prob = s.take<F>(most * np), B = s.take<F>(most * np);
    z = s.take<F>(most * y.C), part = s.take<F>(most * kStep), rstd = s.take<F>(np);
    for (auto& axis : h) axis = s.take<F>(np);
    for (auto& lengths : inverse) lengths = s.take<F>(np);
    w = s.take<F>(np), shift = s.take<F>(np), total = s.take<F>(np);
  }

  // Features, directions and switches of the center with n edges from e0 on, zero behind n.
  void load_center(int64_t e0, int64_t count) {
    n = count, np = whole_vectors<F>(n);
    const int64_t C = y.C;
    for (int64_t j = 0; j < n; j++) {
      F* row = x + j * y.X;
      std::memcpy(row, arrays.g + (e0 + j) * C, sizeof(F) * C);
      row[C] = 1;
      for (int64_t c = C + 1; c < y.X; c++) row[c] = 0;
    }
    transpose(n, C + 1, x, y.X, xT, np);
    for (int64_t c = 0; c <= C; c++)
      for (int64_t k = n; k < np; k++) xT[c * np + k] = 0;
    for (int64_t k = 0; k < np; k++) {
      for (int a = 0; a < 3; a++) h[a][k] = k < n && y.dotr ? arrays.direction[(e0 + k) * 3 + a] : 0;
      w[k] = k >= n ? 0 : y.smooth ? arrays.weight[e0 + k] : 1;
      for (auto& lengths : inverse) lengths[k] = 1;
    }
  }

  void measure() {  // the inverse lengths
    for (int kind = 0; y.normalize && kind < kKinds; kind++) {
      const F* root = y.roots + kind * y.X * y.R;
      for (int64_t j = 0; j < n; j++) inverse[kind][j] = 0;
      for (int64_t c = 0; c < y.R && c <= y.C; c += kStep) {
        const int64_t some = std::min(kStep, y.R - c);
        product<false>(n, some, y.C + 1 - c, Rows<F>{x + c, y.X}, Rows<F>{root + c * y.R + c, y.R}, part, kStep);
        for (int64_t j = 0; j < n; j++) inverse[kind][j] += dot(part + j * kStep, part + j * kStep, some);
      }
      for (int64_t j = 0; j < n; j++) inverse[kind][j] = 1 / std::max(std::sqrt(inverse[kind][j]), F(1e-12));
    }
  }

  // Probabilities and B, its columns times 1/|v|; raw and q are left for the backward pass.
  void attend(F n_dead) {
    const int64_t X = y.X, K = y.C + 1;
    product<false>(n, X, K, Rows<F>{x, X}, Rows<F>{y.query_key, X}, q, X);
    product<false>(n, np, K, Rows<F>{q, X}, Rows<F>{xT, np}, raw, np);
    for (int64_t j = 0; j < n; j++) shift[j] = logits(j);
    for (int64_t j = 0; j < n; j++) total[j] = exponentials(j);
    for (int64_t j = 0; j < n; j++) shift[j] = -20 - shift[j];
    if (y.smooth) exp_in_place(shift, n);  // what the dead slots add; all rows at once
    for (int64_t j = 0; j < n; j++) total[j] = 1 / (y.smooth ? total[j] + n_dead * shift[j] : total[j]);
    for (int64_t j = 0; j < n; j++) {
      F *p = prob + j * np, *b = B + j * np;
      const F scale = total[j], hx = h[0][j], hy = h[1][j], hz = h[2][j], own = w[j];
      const F *ax = h[0], *ay = h[1], *az = h[2], *ws = w, *iv = inverse[kValue];
#pragma GCC ivdep
      for (int64_t k = 0; k < np; k++) {
        p[k] *= scale;
        b[k] = p[k] * own * ws[k] * (one + hx * ax[k] + hy * ay[k] + hz * az[k]) * iv[k];
      }
    }
  }

  void mix() {  // z and rstd from B
    const int64_t C = y.C, X = y.X;
    product<false>(n, X, n, Rows<F>{B, np}, Rows<F>{x, X}, Y, X);
    product<false>(n, C, C + 1, Rows<F>{Y, X}, Rows<F>{y.value_output, X}, z, C);
    for (int64_t j = 0; j < n; j++) {
      F* row = z + j * C;
      for (int64_t c = 0; c < C; c++) row[c] += x[j * X + c] + y.output_bias[c];
      const F mean = sum(row, C) / C;
      for (int64_t c = 0; c < C; c++) row[c] -= mean;
      rstd[j] = 1 / std::sqrt(dot(row, row, C) / C + F(y.eps));
      for (int64_t c = 0; c < C; c++) row[c] *= rstd[j];
    }
  }

 private:
  // The logits of one row; returns their maximum, at least that of an empty slot.
  INLINE F logits(int64_t j) {
    constexpr int L = Simd<F>::lanes;
    F *r = raw + j * np, *p = prob + j * np;
    const F own = w[j], iq = inverse[kQuery][j], *ik = inverse[kKey];
    Full<F> most = broadcast<F>(y.smooth ? F(-20) : F(-1e30));
    for (int64_t k = 0; k < np; k += L) {
      const Full<F> value = load<F>(r + k) * iq * load<F>(ik + k), both = load<F>(w + k) * own;
      store<F>(r + k, value);
      store<F>(p + k, value * both + (both - F(1)) * twenty);
    }
    for (int64_t k = n; k < np; k++) p[k] = F(-1e30);
    for (int64_t k = 0; k < np; k += L) {
      const Full<F> logit = load<F>(p + k);
      most = logit > most ? logit : most;
    }
    return lane_max<F>(most);
  }

  // Turns the logits of one row into exponentials; returns their sum.
  INLINE F exponentials(int64_t j) {
    constexpr int L = Simd<F>::lanes;
    F* p = prob + j * np;
    Full<F> sums = {};
    for (int64_t k = 0; k < np; k += L) {
      Full<F> e = exp<F>(load<F>(p + k) - shift[j]);
      store<F>(p + k, e);
      sums += e;
    }
    for (int64_t k = n; k < np; k++) p[k] = 0;
    return lane_sum<F>(sums);
  }
};

// `out` (E, C) receives g'; `arrays` what the backward pass needs, if they are not null.
template <class F>
bool attend_neighbors(const Csr& csr, const AttentionWeights<F>& y, const AttentionArrays<F>& arrays, F* out,
                      int threads) {
  const int64_t most = csr.max_degree(), C = y.C;
  return parallel(csr.n_atoms, 1, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * NeighborsOfOne<F>::size(most, y));
    NeighborsOfOne<F> one(scratch, most, y, arrays);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i);
      if (!n) continue;
      one.load_center(e0, n);
      one.measure();
      one.attend(arrays.n_dead[i]);
      one.mix();
      F* fresh = out + e0 * C;
      for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < C; c++) fresh[j * C + c] = y.norm_scale[c] * one.z[j * C + c] + y.norm_shift[c];
      for (int64_t j = 0; j < n; j++)
        for (int kind = 0; arrays.inverse && kind < kKinds; kind++)
          arrays.inverse[(e0 + j) * kKinds + kind] = one.inverse[kind][j];
      if (!arrays.kept_z) continue;
      std::memcpy(arrays.kept_z + e0 * C, one.z, sizeof(F) * n * C);
      std::memcpy(arrays.kept_rstd + e0, one.rstd, sizeof(F) * n);
    }
  });
}
