// Gradients by the repformer's weights, for training.
//
// Every one is a sum over atoms or edges. It is taken over a fixed number of blocks of them, one after the other within
// a block, and the sums of the blocks are added in order: so it does not depend on the number of threads.
#pragma once

#include "nodes.hpp"
#include "pairs_backward.hpp"

// Arrays of the sums of the blocks (n_blocks, size), all zero at first, and of the whole.
template <class F> struct BlockSums {
  int64_t n_blocks;
  F *blocks, *total;

  // body(begin, end, sums, scratch) adds the items begin..end to its sums (size,).
  template <class Body> bool run(int64_t n_items, int64_t size, int threads, Body body) const {
    const bool good = parallel(n_blocks, 1, threads, [&](int64_t first, int64_t last, Scratch& scratch) {
      for (int64_t b = first; b < last; b++) {
        std::memset(blocks + b * size, 0, sizeof(F) * size);
        body(b * n_items / n_blocks, (b + 1) * n_items / n_blocks, blocks + b * size, scratch);
      }
    });
    return good && parallel(size, 2048, threads, [&](int64_t begin, int64_t end, Scratch&) {
      std::memcpy(total + begin, blocks + begin, sizeof(F) * (end - begin));
      for (int64_t b = 1; b < n_blocks; b++)
        for (int64_t c = begin; c < end; c++) total[c] += blocks[b * size + c];
    });
  }
};

// Gradients by weight and bias, (2, P), of g = tanh(x W + b).
template <class F>
bool embed_weights(int64_t n_edges, int64_t P, const F* x, int64_t stride, const F* g, const F* d_g,
                   const BlockSums<F>& sums, int threads) {
  return sums.run(n_edges, 2 * P, threads, [=](int64_t begin, int64_t end, F* out, Scratch&) {
    for (int64_t e = begin; e < end; e++)
#pragma GCC ivdep
      for (int64_t c = 0; c < P; c++) {
        const F d = (1 - g[e * P + c] * g[e * P + c]) * d_g[e * P + c];
        out[c] += x[e * stride] * d, out[P + c] += d;
      }
  });
}

// Gradient by W_p (P, G) of conv (N, G) = mean sum_j w (g W_p) * node_j.
template <class F>
bool conv_weights(const Csr& csr, int64_t P, int64_t G, const EdgeArrays<F>& x, const F* node, const F* d_conv,
                  const BlockSums<F>& sums, int threads) {
  constexpr int64_t at_once = 64;  // edges
  return sums.run(csr.n_atoms, P * G, threads, [&](int64_t begin, int64_t end, F* out, Scratch& scratch) {
    scratch.begin(sizeof(F) * at_once * (P + G));
    F *A = scratch.take<F>(at_once * P), *B = scratch.take<F>(at_once * G);
    int64_t i = begin;
    for (int64_t first = csr.offsets[begin]; first < csr.offsets[end]; first += at_once) {
      const int64_t n = std::min(at_once, csr.offsets[end] - first);
      for (int64_t j = 0; j < n; j++) {
        const int64_t e = first + j;
        while (csr.offsets[i + 1] <= e) i++;
        const F w = x.weight[e] * x.mean;
        const F *from = node + csr.neighbor[e] * G, *d = d_conv + i * G, *g = x.g + e * P;
        for (int64_t c = 0; c < P; c++) A[j * P + c] = w * g[c];
        for (int64_t c = 0; c < G; c++) B[j * G + c] = from[c] * d[c];
      }
      product<true>(P, G, n, Strided<F>{A, 1, P}, Rows<F>{B, G}, out, G);
    }
  });
}

// As `pair_update_backward`, and the gradients by the weights.
template <class F>
bool pair_update_weights(const Csr& csr, const PairWeights<F>& y, const PairArrays<F>& x, const BlockSums<F>& sums,
                         int threads) {
  const int64_t most = csr.max_degree();
  return sums.run(csr.n_atoms, PairWeightGradients<F>::size(y), threads,
                  [&](int64_t begin, int64_t end, F* out, Scratch& scratch) {
    scratch.begin(sizeof(F) * PairBackward<F>::size(most, y));
    PairBackward<F> backward(scratch, most, y, x);
    PairWeightGradients<F> gradients(out, y);
    for (int64_t i = begin; i < end; i++)
      if (csr.degree(i)) backward.center(csr.offsets[i], csr.degree(i), F(x.n_slots - csr.degree(i)), &gradients);
  });
}

// Gradients by the weights of `node_update`, side by side in this order, and arrays over all atoms.
template <class F> struct NodeWeightGradients {
  F *weight, *self_weight, *bias, *scale, *self_bias, *self_scale, *conv_scale;
  F *z, *d_t, *d_s;  // (N, Z), (N, G) twice
};

// out (m, n) = sum over rows of x (rows, m) and y (rows, n)
template <class F>
bool product_of_columns(int64_t n_rows, int64_t m, int64_t n, const F* x, const F* y, F* out, int threads) {
  constexpr int64_t at_once = 64;
  return parallel(m, 24, threads, [=](int64_t begin, int64_t end, Scratch&) {
    std::memset(out + begin * n, 0, sizeof(F) * (end - begin) * n);
    for (int64_t i = 0; i < n_rows; i += at_once)
      product<true>(end - begin, n, std::min(at_once, n_rows - i), Strided<F>{x + i * m + begin, 1, m},
                    Rows<F>{y + i * n, n}, out + begin * n, n);
  });
}

// `d` (N, G) is the gradient by the new channel; `conv` may be null, `update` and `self` are what the update kept.
template <class F>
bool node_update_weights(int64_t n_atoms, const NodeWeights<F>& y, const F* node, const F* conv, const F* edge_moment,
                         const F* node_moment, const F* update, const F* self, const F* d,
                         const NodeWeightGradients<F>& to, int threads) {
  const int64_t P = y.P, G = y.G, Z = y.width();
  const bool good = parallel(n_atoms, atoms_at_once(n_atoms), threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      F* row = to.z + i * Z;
      if (y.has_edge_moment) symmetrize(y.axis, P, edge_moment + i * 3 * P, row), row += y.axis * P;
      if (y.has_node_moment) symmetrize(y.axis, G, node_moment + i * 3 * G, row);
#pragma GCC ivdep
      for (int64_t c = 0; c < G; c++) {
        const int64_t at = i * G + c;
        to.d_t[at] = (1 - update[at] * update[at]) * y.scale[c] * d[at];
        to.d_s[at] = (1 - self[at] * self[at]) * y.self_scale[c] * d[at];
      }
    }
  });
  const bool summed = good && parallel(G, 32, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (F* total : {to.bias, to.scale, to.self_bias, to.self_scale, to.conv_scale})
      std::fill(total + begin, total + end, F(0));
    for (int64_t i = 0; i < n_atoms; i++)
#pragma GCC ivdep
      for (int64_t c = begin; c < end; c++) {
        const int64_t at = i * G + c;
        to.bias[c] += to.d_t[at], to.self_bias[c] += to.d_s[at];
        to.scale[c] += update[at] * d[at], to.self_scale[c] += self[at] * d[at];
      }
    for (int64_t i = 0; conv && i < n_atoms; i++)
      for (int64_t c = begin; c < end; c++) to.conv_scale[c] += conv[i * G + c] * d[i * G + c];
  });
  return summed && product_of_columns(n_atoms, Z, G, to.z, to.d_t, to.weight, threads) &&
         product_of_columns(n_atoms, G, G, node, to.d_s, to.self_weight, threads);
}
