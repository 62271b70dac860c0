// The update of the repformer's pair channel: one dense layer and the gated attention among the edges of one center.
//
//   g' = c0 g + rho0 tanh(g W + b) + gamma z + beta,   z = LayerNorm without scale of (sum_h B_h g) O + b_o
//   B_h = P_h V,  P_h = softmax(raw_h U + C) with phantom mass of the dead slots,  raw_h = (g M_h) g^T
//
// with G_jk = h_j . h_k, W_jk = w_j w_k:  U = W or, with a gate, G W;  V = G W;  C = 20 (W - 1).
#pragma once

#include <cmath>

#include "edges.hpp"

template <class F> struct PairWeights {
  int64_t P, H;  // channels and heads; H = 0 without attention
  int64_t gate;
  double old_scale, eps;
  const F *weight, *weight_t, *bias, *scale;            // (P, P), its transpose, (P,), (P,)
  const F *query_key, *query_key_t;                     // (P, H P), (H P, P)
  const F *value_output, *value_output_t, *output_bias; // (H P, P), (P, H P), (P,)
  const F *norm_scale, *norm_shift;                     // (P,)
};

template <class F> class PairAttentionOfOne {  // intermediates of one center
 public:
  int64_t n, np;
  F *gT, *q, *raw, *prob, *B, *Y, *z, *rstd, *G, *W, *C, *U, *x[3], *w, *shift, *total;

  static int64_t size(int64_t most, const PairWeights<F>& y) {
    const int64_t np = padded<F>(most);
    return y.P * np + 2 * most * y.H * y.P + 3 * y.H * most * np + most * (y.P + 1) + 4 * most * np + 4 * np +
           2 * y.H * most;
  }
  PairAttentionOfOne(Scratch& s, int64_t most, const PairWeights<F>& y) {
    const int64_t np = padded<F>(most);
    gT = s.take<F>(y.P * np), q = s.take<F>(most * y.H * y.P), raw = s.take<F>(y.H * most * np);
    prob = s.take<F>(y.H * most * np), B = s.take<F>(y.H * most * np), Y = s.take<F>(most * y.H * y.P);
    z = s.take<F>(most * y.P), rstd = s.take<F>(most);
    G = s.take<F>(most * np), W = s.take<F>(most * np), C = s.take<F>(most * np), U = s.take<F>(most * np);
    for (auto& axis : x) axis = s.take<F>(np);
    w = s.take<F>(np), shift = s.take<F>(y.H * most), total = s.take<F>(y.H * most);
  }

  // Coordinates and switches one after the other, and G, W, C and U = G W of the center; zero (C: nothing) behind n.
  void geometry(int64_t count, const F* h, int64_t stride, const F* weight) {
    n = count, np = padded<F>(n);
    for (int64_t k = 0; k < np; k++) {
      for (int a = 0; a < 3; a++) x[a][k] = k < n ? h[k * stride + a] : 0;
      w[k] = k < n ? weight[k] : 0;
    }
    for (int64_t j = 0; j < n; j++) {
      const F a = x[0][j], b = x[1][j], c = x[2][j], own = w[j];
      F *g = G + j * np, *both = W + j * np, *shifted = C + j * np, *u = U + j * np;
      for (int64_t k = 0; k < np; k++) {
        g[k] = a * x[0][k] + b * x[1][k] + c * x[2][k];
        both[k] = own * w[k];
        u[k] = g[k] * both[k];
        shifted[k] = 20 * (both[k] - 1);
      }
      for (int64_t k = n; k < np; k++) shifted[k] = F(-1e30);
    }
  }

  // Probabilities and B from g; raw and q are left for the backward pass.
  void attend(const F* g, const PairWeights<F>& y, F n_dead) {
    const int64_t P = y.P, H = y.H, rows = n * H;
    for (int64_t c = 0; c < P; c++) {
      for (int64_t j = 0; j < n; j++) gT[c * np + j] = g[j * P + c];
      for (int64_t j = n; j < np; j++) gT[c * np + j] = 0;
    }
    product<false>(n, H * P, P, Rows<F>{g, P}, Rows<F>{y.query_key, H * P}, q, H * P);
    product<false>(rows, np, P, Rows<F>{q, P}, Rows<F>{gT, np}, raw, np);
    for (int64_t row = 0; row < rows; row++) shift[row] = logits(row, y);
    for (int64_t row = 0; row < rows; row++) total[row] = exponentials(row);
    // what the dead slots add; all rows at once
    for (int64_t row = 0; row < rows; row++) shift[row] = -20 - shift[row];
    exp_in_place(shift, rows);
    for (int64_t row = 0; row < rows; row++) total[row] = 1 / (total[row] + n_dead * shift[row]);
    for (int64_t row = 0; row < rows; row++) {
      F *p = prob + row * np, *b = B + row * np;
      const F *u = U + row / H * np, scale = total[row];
      for (int64_t k = 0; k < np; k++) p[k] *= scale, b[k] = p[k] * u[k];
    }
  }

 private:
  // The logits of one row; returns their maximum, at least that of an empty slot.
  INLINE F logits(int64_t row, const PairWeights<F>& y) {
    constexpr int L = Simd<F>::lanes;
    const F *r = raw + row * np, *c = C + row / y.H * np, *factor = (y.gate ? U : W) + row / y.H * np;
    F* p = prob + row * np;
    Full<F> most = broadcast<F>(-20);
    int64_t k = 0;
    for (; k + L <= np; k += L) {
      Full<F> logit = load<F>(r + k) * load<F>(factor + k) + load<F>(c + k);
      store<F>(p + k, logit);
      most = logit > most ? logit : most;
    }
    F highest = lane_max<F>(most);
    for (; k < np; k++) {
      p[k] = r[k] * factor[k] + c[k];
      highest = p[k] > highest ? p[k] : highest;
    }
    return highest;
  }

  // Turns the logits of one row into exponentials; returns their sum.
  INLINE F exponentials(int64_t row) {
    constexpr int L = Simd<F>::lanes;
    F* p = prob + row * np;
    const F highest = shift[row];
    Full<F> sums = {};
    int64_t k = 0;
    for (; k + L <= np; k += L) {
      Full<F> e = exp<F>(load<F>(p + k) - highest);
      store<F>(p + k, e);
      sums += e;
    }
    F sum = lane_sum<F>(sums);
    if (k < np) {
      F rest[L];
      for (int v = 0; v < L; v++) rest[v] = k + v < np ? p[k + v] - highest : F(-1e30);
      store<F>(rest, exp<F>(load<F>(rest)));
      for (int v = 0; k + v < np; v++) p[k + v] = rest[v], sum += rest[v];
    }
    return sum;
  }

 public:
  // Y from B
  void sum_values(const F* g, const PairWeights<F>& y) {
    product<false>(n * y.H, y.P, n, Rows<F>{B, np}, Rows<F>{g, y.P}, Y, y.P);
  }

  // Y, z and rstd from B
  void mix(const F* g, const PairWeights<F>& y) {
    const int64_t P = y.P, H = y.H;
    sum_values(g, y);
    product<false>(n, P, H * P, Rows<F>{Y, H * P}, Rows<F>{y.value_output, P}, z, P);
    for (int64_t j = 0; j < n; j++) {
      F* row = z + j * P;
      for (int64_t c = 0; c < P; c++) row[c] += y.output_bias[c];
      const F mean = sum(row, P) / P;
      for (int64_t c = 0; c < P; c++) row[c] -= mean;
      rstd[j] = 1 / std::sqrt(dot(row, row, P) / P + F(y.eps));
      for (int64_t c = 0; c < P; c++) row[c] *= rstd[j];
    }
  }
};

template <class F> inline void dense_tanh(int64_t n, const F* g, const PairWeights<F>& y, F* t) {
  product<false>(n, y.P, y.P, Rows<F>{g, y.P}, Rows<F>{y.weight, y.P}, t, y.P);
  for (int64_t j = 0; j < n; j++)
    for (int64_t c = 0; c < y.P; c++) t[j * y.P + c] += y.bias[c];
  tanh_in_place(t, n * y.P);
}

// `kept_z` (E, P) and `kept_rstd` (E,), if not null, save the backward pass two of its products.
template <class F>
bool pair_update(const Csr& csr, const PairWeights<F>& y, const F* g, const F* direction, int64_t stride,
                 const F* weight, int64_t n_slots, F* out, F* kept_z, F* kept_rstd, int threads) {
  const int64_t most = csr.max_degree(), P = y.P;
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * (PairAttentionOfOne<F>::size(most, y) + most * P));
    F* t = scratch.take<F>(most * P);
    PairAttentionOfOne<F> one(scratch, most, y);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i);
      const F* old = g + e0 * P;
      F* fresh = out + e0 * P;
      if (!n) continue;
      dense_tanh(n, old, y, t);
      const F keep = F(y.old_scale);
      for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < P; c++) fresh[j * P + c] = keep * old[j * P + c] + y.scale[c] * t[j * P + c];
      if (!y.H) continue;
      one.geometry(n, direction + e0 * stride, stride, weight + e0);
      one.attend(old, y, F(n_slots - n));
      one.mix(old, y);
      for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < P; c++) fresh[j * P + c] += y.norm_scale[c] * one.z[j * P + c] + y.norm_shift[c];
      if (kept_z) {
        std::memcpy(kept_z + e0 * P, one.z, sizeof(F) * n * P);
        std::memcpy(kept_rstd + e0, one.rstd, sizeof(F) * n);
      }
    }
  });
}
