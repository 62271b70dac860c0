// The update of the repformer's node channel from what the neighbors sent, in blocks of atoms.
//
//   node' = c0 node + rho_s tanh(node W_s + b_s) + rho_c conv + rho_u tanh(z W + b)
//   z = [S(edge_moment), S(node_moment)],  S(H)[b, c] = sum_a H[a, b] H[a, c], b < axis
#pragma once

#include "edges.hpp"

template <class F> struct NodeWeights {
  int64_t P, G, axis, has_edge_moment, has_node_moment;
  double old_scale;
  const F *weight, *weight_t, *bias, *scale;                      // (Z, G), (G, Z), (G,), (G,)
  const F *self_weight, *self_weight_t, *self_bias, *self_scale;  // (G, G), its transpose, (G,), (G,)
  const F* conv_scale;                                            // (G,), null without convolution
  int64_t width() const { return axis * (P * has_edge_moment + G * has_node_moment); }
};

// Rows that share what is read of the weights; of few atoms, so that several threads have work.
inline int64_t atoms_at_once(int64_t n_atoms) { return std::min<int64_t>(24, (n_atoms / 2 + 5) / 6 * 6); }

template <class F> inline void symmetrize(int64_t axis, int64_t width, const F* H, F* out) {
  for (int64_t b = 0; b < axis; b++)
    for (int64_t c = 0; c < width; c++) {
      F total = 0;
      for (int64_t a = 0; a < 3; a++) total += H[a * width + b] * H[a * width + c];
      out[b * width + c] = total;
    }
}

template <class F> inline void symmetrize_backward(int64_t axis, int64_t width, const F* H, const F* d_out, F* d_H) {
  for (int64_t a = 0; a < 3; a++) {
    F *row = d_H + a * width;
    const F* h = H + a * width;
    for (int64_t c = 0; c < width; c++) row[c] = 0;
    for (int64_t b = 0; b < axis; b++)
      for (int64_t c = 0; c < width; c++) row[c] += h[b] * d_out[b * width + c];
    for (int64_t b = 0; b < axis; b++) row[b] += dot(h, d_out + b * width, width);
  }
}

template <class F> inline void add_bias_tanh(int64_t n, int64_t width, const F* bias, F* x) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < width; c++) x[i * width + c] += bias[c];
  tanh_in_place(x, n * width);
}

// The two tanh of a block of n atoms from `begin` on; z has room for (n, Z).
template <class F>
inline void activations(int64_t begin, int64_t n, const NodeWeights<F>& y, const F* node, const F* edge_moment,
                        const F* node_moment, F* z, F* update, F* self) {
  const int64_t P = y.P, G = y.G, Z = y.width();
  for (int64_t i = 0; i < n; i++) {
    F* row = z + i * Z;
    if (y.has_edge_moment) symmetrize(y.axis, P, edge_moment + (begin + i) * 3 * P, row), row += y.axis * P;
    if (y.has_node_moment) symmetrize(y.axis, G, node_moment + (begin + i) * 3 * G, row);
  }
  product<false>(n, G, Z, Rows<F>{z, Z}, Rows<F>{y.weight, G}, update, G);
  add_bias_tanh(n, G, y.bias, update);
  product<false>(n, G, G, Rows<F>{node + begin * G, G}, Rows<F>{y.self_weight, G}, self, G);
  add_bias_tanh(n, G, y.self_bias, self);
}

// `update` and `self` (N, G) receive the two tanh for the backward pass, if they are not null.
template <class F>
bool node_update(int64_t n_atoms, const NodeWeights<F>& y, const F* node, const F* conv, const F* edge_moment,
                 const F* node_moment, F* update, F* self, F* out, int threads) {
  const int64_t G = y.G, Z = y.width();
  return parallel(n_atoms, atoms_at_once(n_atoms), threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    const int64_t n = end - begin;
    scratch.begin(sizeof(F) * n * (Z + 2 * G));
    F *z = scratch.take<F>(n * Z), *t = scratch.take<F>(n * G), *s = scratch.take<F>(n * G);
    activations(begin, n, y, node, edge_moment, node_moment, z, t, s);
    const F keep = F(y.old_scale);
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = (begin + i) * G;
      for (int64_t c = 0; c < G; c++)
        out[at + c] = keep * node[at + c] + y.scale[c] * t[i * G + c] + y.self_scale[c] * s[i * G + c];
      if (conv)
        for (int64_t c = 0; c < G; c++) out[at + c] += y.conv_scale[c] * conv[at + c];
    }
    if (update) std::memcpy(update + begin * G, t, sizeof(F) * n * G);
    if (self) std::memcpy(self + begin * G, s, sizeof(F) * n * G);
  });
}

// Turns d (N, G), the gradient by node', into that by node, in place; gives those of conv and the moments.
// `update` and `self` are computed again where they are null.
template <class F>
bool node_update_backward(int64_t n_atoms, const NodeWeights<F>& y, const F* node, const F* edge_moment,
                          const F* node_moment, const F* update, const F* self, F* d, F* d_conv, F* d_edge_moment, F* d_node_moment,
                          int threads) {
  const int64_t P = y.P, G = y.G, Z = y.width();
  return parallel(n_atoms, atoms_at_once(n_atoms), threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    const int64_t n = end - begin;
    scratch.begin(sizeof(F) * n * (Z + 2 * G));
    F *d_z = scratch.take<F>(n * Z), *d_t = scratch.take<F>(n * G), *d_s = scratch.take<F>(n * G);
    if (update) {
      std::memcpy(d_t, update + begin * G, sizeof(F) * n * G);
      std::memcpy(d_s, self + begin * G, sizeof(F) * n * G);
    } else {
      activations(begin, n, y, node, edge_moment, node_moment, d_z, d_t, d_s);
    }
    const F keep = F(y.old_scale);
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = (begin + i) * G;
      if (d_conv)
        for (int64_t c = 0; c < G; c++) d_conv[at + c] = y.conv_scale[c] * d[at + c];
      for (int64_t c = 0; c < G; c++) {
        const F t = d_t[i * G + c], s = d_s[i * G + c];
        d_t[i * G + c] = (1 - t * t) * y.scale[c] * d[at + c];
        d_s[i * G + c] = (1 - s * s) * y.self_scale[c] * d[at + c];
        d[at + c] *= keep;
      }
    }
    product<true>(n, G, G, Rows<F>{d_s, G}, Rows<F>{y.self_weight_t, G}, d + begin * G, G);
    product<false>(n, Z, G, Rows<F>{d_t, G}, Rows<F>{y.weight_t, Z}, d_z, Z);
    for (int64_t i = 0; i < n; i++) {
      const F* row = d_z + i * Z;
      const int64_t at = begin + i;
      if (y.has_edge_moment)
        symmetrize_backward(y.axis, P, edge_moment + at * 3 * P, row, d_edge_moment + at * 3 * P), row += y.axis * P;
      if (y.has_node_moment) symmetrize_backward(y.axis, G, node_moment + at * 3 * G, row, d_node_moment + at * 3 * G);
    }
  });
}
