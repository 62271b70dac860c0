// The update of the repformer's pair channel: one dense layer and the gated attention among the edges of one center.
//
//   g' = c0 g + rho0 tanh(g W + b) + gamma z + beta,   z = LayerNorm without scale of (sum_h B_h g) O + b_o
//   B_h = P_h V,  P_h = softmax(raw_h U + C) with phantom mass of the dead slots,  raw_h = (g M_h) g^T
//
// with G_jk = h_j . h_k, W_jk = w_j w_k:  U = W or, with a gate, G W;  V = G W;  C = 20 (W - 1).
#pragma once

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
  F *gT, *q, *raw, *prob, *B, *Y, *z, *rstd, *G, *U, *C;

  static int64_t size(int64_t most, const PairWeights<F>& y) {
    const int64_t np = padded<F>(most);
    return y.P * np + 2 * most * y.H * y.P + 3 * y.H * most * np + most * (y.P + 1) + 3 * most * np;
  }
  PairAttentionOfOne(Scratch& s, int64_t most, const PairWeights<F>& y) {
    const int64_t np = padded<F>(most);
    gT = s.take<F>(y.P * np), q = s.take<F>(most * y.H * y.P), raw = s.take<F>(y.H * most * np);
    prob = s.take<F>(y.H * most * np), B = s.take<F>(y.H * most * np), Y = s.take<F>(most * y.H * y.P);
    z = s.take<F>(most * y.P), rstd = s.take<F>(most);
    G = s.take<F>(most * np), U = s.take<F>(most * np), C = s.take<F>(most * np);
  }

  // G, U, C of the center; V is G W, which is U with a gate
  void geometry(int64_t count, const F* h, int64_t stride, const F* w) {
    n = count, np = padded<F>(n);
    for (int64_t j = 0; j < n; j++) {
      const F *a = h + j * stride;
      for (int64_t k = 0; k < n; k++) {
        const F* b = h + k * stride;
        const F cosine = a[0] * b[0] + a[1] * b[1] + a[2] * b[2], both = w[j] * w[k];
        G[j * np + k] = cosine;
        U[j * np + k] = cosine * both;
        C[j * np + k] = 20 * (both - 1);
      }
      for (int64_t k = n; k < np; k++) G[j * np + k] = U[j * np + k] = 0, C[j * np + k] = F(-1e30);
    }
  }

  // Probabilities and B from g; raw and q are left for the backward pass.
  void attend(const F* g, const PairWeights<F>& y, const F* w, F n_dead) {
    constexpr int L = Simd<F>::lanes;
    const int64_t P = y.P, H = y.H;
    for (int64_t c = 0; c < P; c++) {
      for (int64_t j = 0; j < n; j++) gT[c * np + j] = g[j * P + c];
      for (int64_t j = n; j < np; j++) gT[c * np + j] = 0;
    }
    product<false>(n, H * P, P, Rows<F>{g, P}, Rows<F>{y.query_key, H * P}, q, H * P);
    product<false>(n * H, np, P, Rows<F>{q, P}, Rows<F>{gT, np}, raw, np);
    for (int64_t j = 0; j < n; j++)
      for (int64_t h = 0; h < H; h++) {
        const int64_t at = (j * H + h) * np;
        const F *r = raw + at, *u = U + j * np, *c = C + j * np;
        F *p = prob + at, *b = B + at;
        F highest = -20;
        int64_t k = 0;
        Full<F> most = broadcast<F>(-20);
        for (; k + L <= np; k += L) {
          Full<F> both = y.gate ? load<F>(u + k) : load_switches(w, j, k);
          Full<F> logit = load<F>(r + k) * both + load<F>(c + k);
          store<F>(p + k, logit);
          most = logit > most ? logit : most;
        }
        highest = lane_max<F>(most);
        for (; k < np; k++) {
          F both = y.gate ? u[k] : k < n ? w[j] * w[k] : 0;
          p[k] = r[k] * both + c[k];
          highest = p[k] > highest ? p[k] : highest;
        }
        Full<F> sum = {};
        for (k = 0; k + L <= np; k += L) {
          Full<F> e = exp<F>(load<F>(p + k) - highest);
          store<F>(p + k, e);
          sum += e;
        }
        F total = lane_sum<F>(sum);
        if (k < np) {
          F rest[L];
          for (int v = 0; v < L; v++) rest[v] = k + v < np ? p[k + v] - highest : F(-1e30);
          store<F>(rest, exp<F>(load<F>(rest)));
          for (int v = 0; k + v < np; v++) p[k + v] = rest[v], total += rest[v];
        }
        const F scale = 1 / (total + n_dead * exp_scalar<F>(-20 - highest));
        for (k = 0; k + L <= np; k += L) {
          Full<F> value = load<F>(p + k) * scale;
          store<F>(p + k, value);
          store<F>(b + k, value * load<F>(u + k));
        }
        for (; k < np; k++) p[k] *= scale, b[k] = p[k] * u[k];
      }
  }

  // z and rstd from B
  void mix(const F* g, const PairWeights<F>& y) {
    const int64_t P = y.P, H = y.H;
    product<false>(n * H, P, n, Rows<F>{B, np}, Rows<F>{g, P}, Y, P);
    product<false>(n, P, H * P, Rows<F>{Y, H * P}, Rows<F>{y.value_output, P}, z, P);
    for (int64_t j = 0; j < n; j++) {
      F *row = z + j * P, mean = 0, square = 0;
      for (int64_t c = 0; c < P; c++) row[c] += y.output_bias[c], mean += row[c];
      mean /= P;
      for (int64_t c = 0; c < P; c++) row[c] -= mean;
      square = dot(row, row, P);
      rstd[j] = 1 / std::sqrt(square / P + F(y.eps));
      for (int64_t c = 0; c < P; c++) row[c] *= rstd[j];
    }
  }

 private:
  INLINE Full<F> load_switches(const F* w, int64_t j, int64_t k) const {
    Full<F> both = {};
    for (int v = 0; v < Simd<F>::lanes; v++)
      if (k + v < n) both[v] = w[j] * w[k + v];
    return both;
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
                 const F* weight, const F* n_dead, F* out, F* kept_z, F* kept_rstd, int threads) {
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
      one.attend(old, y, weight + e0, n_dead[i]);
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

// Turns d (E, P), the gradient by g', into that by g, in place; adds to d_direction (E, 3) and d_weight (E,).
template <class F>
bool pair_update_backward(const Csr& csr, const PairWeights<F>& y, const F* g, const F* direction, int64_t stride,
                          const F* weight, const F* n_dead, const F* kept_z, const F* kept_rstd, F* d,
                          F* d_direction, F* d_weight, int threads) {
  const int64_t most = csr.max_degree(), P = y.P, H = y.H, widest = padded<F>(most);
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * (PairAttentionOfOne<F>::size(most, y) + 3 * most * P + 2 * most * H * P +
                               (H + 2) * most * widest));
    F *t = scratch.take<F>(most * P), *fresh = scratch.take<F>(most * P), *d_o = scratch.take<F>(most * P);
    F *d_Y = scratch.take<F>(most * H * P), *d_q = scratch.take<F>(most * H * P);
    F *d_B = scratch.take<F>(H * most * widest), *d_U = scratch.take<F>(most * widest), *d_C = scratch.take<F>(most * widest);
    PairAttentionOfOne<F> one(scratch, most, y);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i), np = padded<F>(n);
      if (!n) continue;
      const F *old = g + e0 * P, *w = weight + e0;
      F* D = d + e0 * P;
      dense_tanh(n, old, y, t);
      const F keep = F(y.old_scale);
      for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < P; c++) {
          const F value = t[j * P + c], down = D[j * P + c];
          t[j * P + c] = (1 - value * value) * y.scale[c] * down;
          fresh[j * P + c] = keep * down;
        }
      product<true>(n, P, P, Rows<F>{t, P}, Rows<F>{y.weight_t, P}, fresh, P);
      if (H) {
        one.geometry(n, direction + e0 * stride, stride, w);
        one.attend(old, y, w, n_dead[i]);
        const F *z = kept_z ? kept_z + e0 * P : one.z, *rstd = kept_rstd ? kept_rstd + e0 : one.rstd;
        if (!kept_z) one.mix(old, y);
        for (int64_t j = 0; j < n; j++) {
          F mean = 0, *row = d_o + j * P;
          for (int64_t c = 0; c < P; c++) row[c] = D[j * P + c] * y.norm_scale[c], mean += row[c];
          mean /= P;
          const F along = dot(row, z + j * P, P) / P;
          for (int64_t c = 0; c < P; c++) row[c] = rstd[j] * (row[c] - mean - z[j * P + c] * along);
        }
        product<false>(n, H * P, P, Rows<F>{d_o, P}, Rows<F>{y.value_output_t, H * P}, d_Y, H * P);
        product<false>(n * H, np, P, Rows<F>{d_Y, P}, Rows<F>{one.gT, np}, d_B, np);
        product<true>(n, P, n * H, Strided<F>{one.B, 1, np}, Rows<F>{d_Y, P}, fresh, P);
        logits_backward(one, y, w, d_B, d_U, d_C);  // B becomes the gradient by raw
        product<true>(n, P, n * H, Strided<F>{one.B, 1, np}, Rows<F>{one.q, P}, fresh, P);
        product<false>(n * H, P, n, Rows<F>{one.B, np}, Rows<F>{old, P}, d_q, P);
        product<true>(n, P, H * P, Rows<F>{d_q, H * P}, Rows<F>{y.query_key_t, P}, fresh, P);
        geometry_backward(one, y, d_U, d_C, direction + e0 * stride, stride, w, d_direction + e0 * stride, d_weight + e0);
      }
      std::memcpy(D, fresh, sizeof(F) * n * P);
    }
  });
}

// With a gate d_U collects the gradients of U and V, which are equal; without one d_U is that of U and d_C holds that
// of V behind its own: C = 20 (U - 1), so the two gradients of W add up to d_U + 20 d_C.
template <class F>
inline void logits_backward(PairAttentionOfOne<F>& one, const PairWeights<F>& y, const F* w, const F* d_B, F* d_U, F* d_C) {
  constexpr int L = Simd<F>::lanes;
  const int64_t n = one.n, np = one.np, H = y.H;
  for (int64_t j = 0; j < n; j++) {
    F *du = d_U + j * np, *dc = d_C + j * np;
    const F* u = one.U + j * np;
    for (int64_t k = 0; k < np; k++) du[k] = dc[k] = 0;
    for (int64_t h = 0; h < H; h++) {
      const int64_t at = (j * H + h) * np;
      const F *db = d_B + at, *p = one.prob + at, *r = one.raw + at;
      F* b = one.B + at;
      const F total = dot(b, db, np);
      int64_t k = 0;
      if (y.gate) {
        for (; k + L <= np; k += L) {
          Full<F> down = load<F>(db + k), prob = load<F>(p + k), by_u = load<F>(u + k);
          Full<F> dl = load<F>(b + k) * down - prob * total;
          store<F>(du + k, load<F>(du + k) + down * prob + dl * load<F>(r + k));
          store<F>(dc + k, load<F>(dc + k) + dl);
          store<F>(b + k, dl * by_u);
        }
        for (; k < np; k++) {
          const F dl = b[k] * db[k] - p[k] * total;
          du[k] += db[k] * p[k] + dl * r[k], dc[k] += dl, b[k] = dl * u[k];
        }
      } else {
        // U = W: gather d_W = d_U + 20 d_C in dc and d_V in du
        for (; k < n; k++) {
          const F dl = b[k] * db[k] - p[k] * total;
          du[k] += db[k] * p[k], dc[k] += dl * (r[k] + 20), b[k] = dl * w[j] * w[k];
        }
        for (; k < np; k++) b[k] = 0;
      }
    }
  }
}

template <class F>
inline void geometry_backward(const PairAttentionOfOne<F>& one, const PairWeights<F>& y, const F* d_U, const F* d_C,
                              const F* h, int64_t stride, const F* w, F* d_h, F* d_w) {
  const int64_t n = one.n, np = one.np;
  for (int64_t j = 0; j < n; j++) {
    F by_w = 0, by_h[3] = {0, 0, 0};
    for (int64_t k = 0; k < n; k++) {
      const F du = d_U[j * np + k] + d_U[k * np + j], dc = d_C[j * np + k] + d_C[k * np + j];
      by_w += ((y.gate ? 20 * dc : dc) + du * one.G[j * np + k]) * w[k];
      const F by_cosine = du * w[j] * w[k];
      for (int a = 0; a < 3; a++) by_h[a] += by_cosine * h[k * stride + a];
    }
    d_w[j] += by_w;
    for (int a = 0; a < 3; a++) d_h[j * stride + a] += by_h[a];
  }
}
