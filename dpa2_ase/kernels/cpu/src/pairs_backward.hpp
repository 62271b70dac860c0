// The way back through the update of the repformer's pair channel, by hand: to its inputs and to its weights.
#pragma once

#include "pairs.hpp"

// Gradients by the weights, side by side in one array in this order, each as in `PairWeights`.
template <class F> struct PairWeightGradients {
  F *weight, *bias, *scale, *query_key, *value_output, *output_bias, *norm_scale, *norm_shift;

  static int64_t size(const PairWeights<F>& y) {
    return y.P * y.P + 2 * y.P + (y.H ? 2 * y.H * y.P * y.P + 3 * y.P : 0);
  }
  PairWeightGradients(F* at, const PairWeights<F>& y) {
    const int64_t P = y.P, square = y.P * y.P;
    weight = at, bias = weight + square, scale = bias + P;
    query_key = scale + P, value_output = query_key + y.H * square, output_bias = value_output + y.H * square;
    norm_scale = output_bias + P, norm_shift = norm_scale + P;
  }
};

template <class F> struct PairArrays {  // of the whole graph, as in `pair_update`; gradients that are null are not wanted
  const F *g, *direction;
  int64_t stride;
  const F* weight;
  int64_t n_slots;
  const F *kept_z, *kept_rstd;
  F *d;  // (E, P) gradient by g', becomes that by g
  F *d_direction, *d_weight;
};

// B becomes the gradient by raw, as below, without gradients of the geometry.
template <class F> inline void logits_backward(PairAttentionOfOne<F>& one, const PairWeights<F>& y, const F* d_B) {
  const int64_t n = one.n, np = one.np, H = y.H;
  for (int64_t row = 0; row < n * H; row++) {
    const F *db = d_B + row * np, *p = one.prob + row * np, *factor = (y.gate ? one.U : one.W) + row / H * np;
    F* b = one.B + row * np;
    const F total = dot(b, db, np);
#pragma GCC ivdep
    for (int64_t k = 0; k < np; k++) b[k] = (b[k] * db[k] - p[k] * total) * factor[k];
  }
}

// With a gate d_U collects the gradients of U in both of its places, and d_C that of C. Without one, the logits hold W
// in place of U, and C = 20 (W - 1): d_U is that of U where B holds it, and d_C the whole gradient of W from the logits.
template <class F>
inline void logits_backward(PairAttentionOfOne<F>& one, const PairWeights<F>& y, const F* d_B, F* d_U, F* d_C) {
  const int64_t n = one.n, np = one.np, H = y.H;
  for (int64_t j = 0; j < n; j++) {
    F *du = d_U + j * np, *dc = d_C + j * np;
    const F *u = one.U + j * np, *both = one.W + j * np;
    for (int64_t k = 0; k < np; k++) du[k] = dc[k] = 0;
    for (int64_t h = 0; h < H; h++) {
      const int64_t at = (j * H + h) * np;
      const F *db = d_B + at, *p = one.prob + at, *r = one.raw + at;
      F* b = one.B + at;
      const F total = dot(b, db, np);
      if (y.gate) {
#pragma GCC ivdep
        for (int64_t k = 0; k < np; k++) {
          const F dl = b[k] * db[k] - p[k] * total;
          du[k] += db[k] * p[k] + dl * r[k], dc[k] += dl, b[k] = dl * u[k];
        }
      } else {
#pragma GCC ivdep
        for (int64_t k = 0; k < np; k++) {
          const F dl = b[k] * db[k] - p[k] * total;
          du[k] += db[k] * p[k], dc[k] += dl * (r[k] + 20), b[k] = dl * both[k];
        }
      }
    }
  }
}

// Every element of d_U and d_C belongs to two edges: that of its row, and that of its column, gathered in `columns`
// (4, np).
template <class F>
inline void geometry_backward(const PairAttentionOfOne<F>& one, const PairWeights<F>& y, const F* d_U, const F* d_C,
                              int64_t stride, F* d_h, F* d_w, F* columns) {
  const int64_t n = one.n, np = one.np;
  F *cx = columns, *cy = columns + np, *cz = columns + 2 * np, *cw = columns + 3 * np;
  const F *x = one.x[0], *yy = one.x[1], *z = one.x[2], *w = one.w;
  std::memset(columns, 0, sizeof(F) * 4 * np);
  const F twenty = y.gate ? 20 : 1;
  for (int64_t j = 0; j < n; j++) {
    const F *du = d_U + j * np, *dc = d_C + j * np, *g = one.G + j * np, *both = one.W + j * np;
    const F xj = x[j], yj = yy[j], zj = z[j], wj = w[j];
    Full<F> sx = {}, sy = {}, sz = {}, sw = {};
    constexpr int L = Simd<F>::lanes;
    int64_t k = 0;
    for (; k + L <= np; k += L) {
      const Full<F> u = load<F>(du + k), by_cosine = u * load<F>(both + k);
      const Full<F> by_both = load<F>(dc + k) * twenty + u * load<F>(g + k);
      sx += by_cosine * load<F>(x + k), sy += by_cosine * load<F>(yy + k), sz += by_cosine * load<F>(z + k);
      sw += by_both * load<F>(w + k);
      store<F>(cx + k, load<F>(cx + k) + by_cosine * xj);
      store<F>(cy + k, load<F>(cy + k) + by_cosine * yj);
      store<F>(cz + k, load<F>(cz + k) + by_cosine * zj);
      store<F>(cw + k, load<F>(cw + k) + by_both * wj);
    }
    F row[4] = {lane_sum<F>(sx), lane_sum<F>(sy), lane_sum<F>(sz), lane_sum<F>(sw)};
    for (; k < np; k++) {
      const F by_cosine = du[k] * both[k], by_both = twenty * dc[k] + du[k] * g[k];
      row[0] += by_cosine * x[k], row[1] += by_cosine * yy[k], row[2] += by_cosine * z[k], row[3] += by_both * w[k];
      cx[k] += by_cosine * xj, cy[k] += by_cosine * yj, cz[k] += by_cosine * zj, cw[k] += by_both * wj;
    }
    for (int a = 0; a < 3; a++) d_h[j * stride + a] += row[a];
    d_w[j] += row[3];
  }
  for (int64_t k = 0; k < n; k++) {
    d_h[k * stride] += cx[k], d_h[k * stride + 1] += cy[k], d_h[k * stride + 2] += cz[k];
    d_w[k] += cw[k];
  }
}

template <class F> class PairBackward {  // of one center after the other
 public:
  static int64_t size(int64_t most, const PairWeights<F>& y) {
    const int64_t widest = padded<F>(most);
    return PairAttentionOfOne<F>::size(most, y) + 3 * most * y.P + 4 * widest + 2 * most * y.H * y.P +
           (y.H + 2) * most * widest;
  }
  PairBackward(Scratch& s, int64_t most, const PairWeights<F>& weights, const PairArrays<F>& arrays)
      : y(weights), x(arrays), t(s.take<F>(std::max(most * y.P, 4 * padded<F>(most)))),
        fresh(s.take<F>(most * y.P)), d_o(s.take<F>(most * y.P)), d_Y(s.take<F>(most * y.H * y.P)),
        d_q(s.take<F>(most * y.H * y.P)), d_B(s.take<F>(y.H * most * padded<F>(most))),
        d_U(s.take<F>(most * padded<F>(most))), d_C(s.take<F>(most * padded<F>(most))), one(s, most, y) {}

  // The center with n edges from e0 on; `sums`, if not null, is added to.
  void center(int64_t e0, int64_t n, F n_dead, PairWeightGradients<F>* sums) {
    const int64_t P = y.P;
    const F* old = x.g + e0 * P;
    F* D = x.d + e0 * P;
    dense_tanh(n, old, y, t);
    if (sums) sum_of_products(n, D, t, sums->scale);
    const F keep = F(y.old_scale);
    for (int64_t j = 0; j < n; j++)
      for (int64_t c = 0; c < P; c++) {
        const F value = t[j * P + c], down = D[j * P + c];
        t[j * P + c] = (1 - value * value) * y.scale[c] * down;
        fresh[j * P + c] = keep * down;
      }
    if (sums) {
      sum_of_rows(n, t, sums->bias);
      product<true>(P, P, n, Strided<F>{old, 1, P}, Rows<F>{t, P}, sums->weight, P);
    }
    product<true>(n, P, P, Rows<F>{t, P}, Rows<F>{y.weight_t, P}, fresh, P);
    if (y.H) attention(e0, n, n_dead, sums);
    std::memcpy(D, fresh, sizeof(F) * n * P);
  }

 private:
  const PairWeights<F>& y;
  const PairArrays<F>& x;
  F *t, *fresh, *d_o, *d_Y, *d_q, *d_B, *d_U, *d_C;
  PairAttentionOfOne<F> one;

  void attention(int64_t e0, int64_t n, F n_dead, PairWeightGradients<F>* sums) {
    const int64_t P = y.P, H = y.H, np = padded<F>(n);
    const F *old = x.g + e0 * P, *D = x.d + e0 * P;
    one.geometry(n, x.direction + e0 * x.stride, x.stride, x.weight + e0);
    one.attend(old, y, n_dead);
    const F *z = x.kept_z ? x.kept_z + e0 * P : one.z, *rstd = x.kept_rstd ? x.kept_rstd + e0 : one.rstd;
    if (!x.kept_z) one.mix(old, y);
    else if (sums) one.sum_values(old, y);
    for (int64_t j = 0; j < n; j++) {
      F* row = d_o + j * P;
      for (int64_t c = 0; c < P; c++) row[c] = D[j * P + c] * y.norm_scale[c];
      const F mean = sum(row, P) / P;
      const F along = dot(row, z + j * P, P) / P;
      for (int64_t c = 0; c < P; c++) row[c] = rstd[j] * (row[c] - mean - z[j * P + c] * along);
    }
    if (sums) {
      sum_of_products(n, D, z, sums->norm_scale);
      sum_of_rows(n, D, sums->norm_shift);
      sum_of_rows(n, d_o, sums->output_bias);
      product<true>(H * P, P, n, Strided<F>{one.Y, 1, H * P}, Rows<F>{d_o, P}, sums->value_output, P);
    }
    product<false>(n, H * P, P, Rows<F>{d_o, P}, Rows<F>{y.value_output_t, H * P}, d_Y, H * P);
    product<false>(n * H, np, P, Rows<F>{d_Y, P}, Rows<F>{one.gT, np}, d_B, np);
    product<true>(n, P, n * H, Strided<F>{one.B, 1, np}, Rows<F>{d_Y, P}, fresh, P);
    if (x.d_weight) logits_backward(one, y, d_B, d_U, d_C);  // B becomes the gradient by raw
    else logits_backward(one, y, d_B);
    product<true>(n, P, n * H, Strided<F>{one.B, 1, np}, Rows<F>{one.q, P}, fresh, P);
    product<false>(n * H, P, n, Rows<F>{one.B, np}, Rows<F>{old, P}, d_q, P);
    if (sums) product<true>(P, H * P, n, Strided<F>{old, 1, P}, Rows<F>{d_q, H * P}, sums->query_key, H * P);
    product<true>(n, P, H * P, Rows<F>{d_q, H * P}, Rows<F>{y.query_key_t, P}, fresh, P);
    if (x.d_weight)
      geometry_backward(one, y, d_U, d_C, x.stride, x.d_direction + e0 * x.stride, x.d_weight + e0, t);
  }

  void sum_of_rows(int64_t n, const F* a, F* total) const {
    for (int64_t j = 0; j < n; j++)
      for (int64_t c = 0; c < y.P; c++) total[c] += a[j * y.P + c];
  }
  void sum_of_products(int64_t n, const F* a, const F* b, F* total) const {
    for (int64_t j = 0; j < n; j++)
      for (int64_t c = 0; c < y.P; c++) total[c] += a[j * y.P + c] * b[j * y.P + c];
  }
};

// Turns x.d into the gradient by g, in place; adds to d_direction (E, 3) and d_weight (E,).
template <class F>
bool pair_update_backward(const Csr& csr, const PairWeights<F>& y, const PairArrays<F>& x, int threads) {
  const int64_t most = csr.max_degree();
  return parallel(csr.n_atoms, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * PairBackward<F>::size(most, y));
    PairBackward<F> backward(scratch, most, y, x);
    for (int64_t i = begin; i < end; i++)
      if (csr.degree(i)) backward.center(csr.offsets[i], csr.degree(i), F(x.n_slots - csr.degree(i)), nullptr);
  });
}
