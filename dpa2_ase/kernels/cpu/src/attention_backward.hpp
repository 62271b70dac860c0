// The way back through the attention among neighbors, by hand.
#pragma once

#include "attention.hpp"

template <class F> struct AttentionGradients {  // of the whole graph
  const F* d_out;                   // (E, C)
  F *d_g, *d_direction, *d_weight;  // (E, C), (E, 3), (E,); what an option leaves out of the model gets zeros
};

template <class F> class NeighborsBackward {  // of one center after the other
 public:
  static int64_t size(int64_t most, const AttentionWeights<F>& y) {
    const int64_t np = whole_vectors<F>(most);
    return NeighborsOfOne<F>::size(most, y) + 2 * most * y.X + most * np + most * y.C + 7 * np;
  }
  NeighborsBackward(Scratch& s, int64_t most, const AttentionWeights<F>& weights, const AttentionArrays<F>& arrays,
                    const AttentionGradients<F>& gradients)
      : y(weights), d(gradients), one(s, most, weights, arrays) {
    const int64_t np = whole_vectors<F>(most);
    d_Y = s.take<F>(most * y.X), swapped = s.take<F>(most * y.X), d_B = s.take<F>(most * np);
    d_sum = s.take<F>(most * y.C), columns = s.take<F>(4 * np);
    for (auto& slopes : slope) slopes = s.take<F>(np);
  }

  void center(int64_t e0, int64_t n, F n_dead) {
    const int64_t C = y.C, X = y.X, np = whole_vectors<F>(n);
    F* d_g = d.d_g + e0 * C;
    one.load_center(e0, n);
    for (int64_t j = 0; j < n; j++)
      for (int kind = 0; y.normalize && kind < kKinds; kind++)
        one.inverse[kind][j] = one.arrays.inverse[(e0 + j) * kKinds + kind];
    one.attend(n_dead);
    normalization(e0);
    std::memcpy(d_g, d_sum, sizeof(F) * n * C);
    product<false>(n, X, C, Rows<F>{d_sum, C}, Rows<F>{y.value_output_t, X}, d_Y, X);
    product<false>(n, np, C + 1, Rows<F>{d_Y, X}, Rows<F>{one.xT, np}, d_B, np);
    product<false>(n, X, n, Strided<F>{one.B, 1, np}, Rows<F>{d_Y, X}, swapped, X);
    find_slopes(kValue, swapped, one.x);
    add_channels(swapped, d_g);
    softmax(e0);  // B becomes the gradient by x M x
    product<false>(n, X, n, Strided<F>{one.B, 1, np}, Rows<F>{one.q, X}, swapped, X);
    find_slopes(kKey, swapped, one.x);
    add_channels(swapped, d_g);
    product<false>(n, X, n, Rows<F>{one.B, np}, Rows<F>{one.x, X}, d_Y, X);
    find_slopes(kQuery, d_Y, one.q);
    product<true>(n, C, C + 1, Rows<F>{d_Y, X}, Rows<F>{y.query_key_t, X}, d_g, C);
    lengths(d_g);
  }

 private:
  const AttentionWeights<F>& y;
  const AttentionGradients<F>& d;
  F *d_Y, *swapped, *d_B, *d_sum, *columns, *slope[kKinds];
  NeighborsOfOne<F> one;

  // The gradient of what the LayerNorm gets.
  void normalization(int64_t e0) {
    const int64_t C = y.C, n = one.n;
    const bool kept = one.arrays.kept_z;
    if (!kept) one.mix();
    const F *z = kept ? one.arrays.kept_z + e0 * C : one.z, *rstd = kept ? one.arrays.kept_rstd + e0 : one.rstd;
    for (int64_t j = 0; j < n; j++) {
      F* row = d_sum + j * C;
      const F* above = d.d_out + (e0 + j) * C;
      for (int64_t c = 0; c < C; c++) row[c] = above[c] * y.norm_scale[c];
      const F mean = sum(row, C) / C, along = dot(row, z + j * C, C) / C;
      for (int64_t c = 0; c < C; c++) row[c] = rstd[j] * (row[c] - mean - z[j * C + c] * along);
    }
  }

  void add_channels(const F* gradient, F* d_g) const {
    for (int64_t j = 0; j < one.n; j++)
      for (int64_t c = 0; c < y.C; c++) d_g[j * y.C + c] += gradient[j * y.X + c];
  }

  // What x S is to be multiplied by for the gradient that passes through the lengths of one kind. With i = 1/|v|, that
  // by i is (gradient . argument) / i, and that of i is -i^3 x S. A length at its lower limit is a constant.
  void find_slopes(int kind, const F* gradient, const F* argument) {
    const F* i = one.inverse[kind];
    for (int64_t j = 0; y.normalize && j < one.n; j++) {
      const F along = dot(gradient + j * y.X, argument + j * y.X, y.C + 1);
      slope[kind][j] = i[j] < F(0.999e12) ? -i[j] * i[j] * along : 0;
    }
  }

  void lengths(F* d_g) {
    for (int kind = 0; y.normalize && kind < kKinds; kind++) {
      for (int64_t j = 0; j < one.n; j++)
        for (int64_t c = 0; c < y.X; c++) d_Y[j * y.X + c] = slope[kind][j] * one.x[j * y.X + c];
      const F* square = y.squares + kind * y.X * y.X;
      product<true>(one.n, y.C, y.C + 1, Rows<F>{d_Y, y.X}, Rows<F>{square, y.X}, d_g, y.C);
    }
  }

  // From d_B through B, P and the logits to x M x and to the geometry. Every pair belongs to two edges: that of its
  // row, and that of its column, gathered in `columns` (4, np).
  void softmax(int64_t e0) {
    const int64_t n = one.n, np = one.np;
    std::memset(columns, 0, sizeof(F) * 4 * np);
    for (int64_t j = 0; j < n; j++) row(j, d.d_direction + (e0 + j) * 3, d.d_weight + e0 + j);
    for (int64_t k = 0; k < n; k++) {
      for (int a = 0; a < 3; a++) d.d_direction[(e0 + k) * 3 + a] += columns[a * np + k];
      d.d_weight[e0 + k] = y.smooth ? d.d_weight[e0 + k] + columns[3 * np + k] : 0;
    }
  }

  INLINE void row(int64_t j, F* d_h, F* d_w) {
    constexpr int L = Simd<F>::lanes;
    const int64_t np = one.np;
    F* b = one.B + j * np;
    const F *db = d_B + j * np, *p = one.prob + j * np, *r = one.raw + j * np, *w = one.w;
    const F *iv = one.inverse[kValue], *ik = one.inverse[kKey], iq = one.inverse[kQuery][j], wj = w[j];
    const F total = dot(b, db, np), h[3] = {one.h[0][j], one.h[1][j], one.h[2][j]};
    Full<F> sums[4] = {};
    for (int64_t k = 0; k < np; k += L) {
      const Full<F> weight = load<F>(w + k), both = weight * wj, prob = load<F>(p + k), slope_b = load<F>(db + k);
      const Full<F> x[3] = {load<F>(one.h[0] + k), load<F>(one.h[1] + k), load<F>(one.h[2] + k)};
      const Full<F> by_logit = load<F>(b + k) * slope_b - prob * total;
      store<F>(b + k, by_logit * both * load<F>(ik + k) * iq);
      const Full<F> by_factor = slope_b * load<F>(iv + k) * prob;  // of W G
      const Full<F> by_cosine = by_factor * both;
      const Full<F> cosine = x[0] * h[0] + x[1] * h[1] + x[2] * h[2] + one.one;
      const Full<F> by_both = by_factor * cosine + by_logit * (load<F>(r + k) + one.twenty);
      for (int a = 0; a < 3; a++) {
        sums[a] += by_cosine * x[a];
        store<F>(columns + a * np + k, load<F>(columns + a * np + k) + by_cosine * h[a]);
      }
      sums[3] += by_both * weight;
      store<F>(columns + 3 * np + k, load<F>(columns + 3 * np + k) + by_both * wj);
    }
    for (int a = 0; a < 3; a++) d_h[a] = lane_sum<F>(sums[a]);
    *d_w = lane_sum<F>(sums[3]);
  }
};

template <class F>
bool attend_neighbors_backward(const Csr& csr, const AttentionWeights<F>& y, const AttentionArrays<F>& arrays,
                               const AttentionGradients<F>& gradients, int threads) {
  const int64_t most = csr.max_degree();
  return parallel(csr.n_atoms, 1, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * NeighborsBackward<F>::size(most, y));
    NeighborsBackward<F> backward(scratch, most, y, arrays, gradients);
    for (int64_t i = begin; i < end; i++)
      if (csr.degree(i)) backward.center(csr.offsets[i], csr.degree(i), arrays.n_dead[i]);
  });
}
