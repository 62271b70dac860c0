// Dense layers y = phi(x W + b) * timestep + copies of x, in blocks of rows; phi is tanh or nothing.
#pragma once

#include "nodes.hpp"

template <class F> struct DenseWeights {
  int64_t n_in, n_out, is_tanh, copies;  // copies: x is added so many times, side by side
  const F *weight, *weight_t, *bias, *timestep;  // (n_in, n_out), its transpose, (n_out,) and (n_out,) or null

  // `active` (n, n_out), if not null, receives phi for the backward pass.
  void forward(int64_t n, const F* x, F* active, F* out) const {
    const int64_t I = n_in, O = n_out;
    product<false>(n, O, I, Rows<F>{x, I}, Rows<F>{weight, O}, out, O);
    for (int64_t i = 0; bias && i < n; i++)
      for (int64_t c = 0; c < O; c++) out[i * O + c] += bias[c];
    if (is_tanh) tanh_in_place(out, n * O);
    if (active) std::memcpy(active, out, sizeof(F) * n * O);
    for (int64_t i = 0; timestep && i < n; i++)
      for (int64_t c = 0; c < O; c++) out[i * O + c] *= timestep[c];
    for (int64_t i = 0; i < n; i++)
      for (int64_t copy = 0; copy < copies; copy++)
        for (int64_t c = 0; c < I; c++) out[i * O + copy * I + c] += x[i * I + c];
  }

  // d_x (n, n_in) from d_out (n, n_out); d (n, n_out) is overwritten
  void backward(int64_t n, const F* active, const F* d_out, F* d_x, F* d) const {
    const int64_t I = n_in, O = n_out;
    for (int64_t i = 0; i < n; i++)
      for (int64_t c = 0; c < O; c++) {
        F slope = timestep ? timestep[c] : 1;
        if (is_tanh) slope *= 1 - active[i * O + c] * active[i * O + c];
        d[i * O + c] = slope * d_out[i * O + c];
      }
    product<false>(n, I, O, Rows<F>{d, O}, Rows<F>{weight_t, I}, d_x, I);
    for (int64_t i = 0; i < n; i++)
      for (int64_t copy = 0; copy < copies; copy++)
        for (int64_t c = 0; c < I; c++) d_x[i * I + c] += d_out[i * O + copy * I + c];
  }
};

template <class F>
bool dense(int64_t n_rows, const DenseWeights<F>& y, const F* x, F* active, F* out, int threads) {
  return parallel(n_rows, atoms_at_once(n_rows), threads, [&](int64_t begin, int64_t end, Scratch&) {
    y.forward(end - begin, x + begin * y.n_in, active ? active + begin * y.n_out : nullptr, out + begin * y.n_out);
  });
}

template <class F>
bool dense_backward(int64_t n_rows, const DenseWeights<F>& y, const F* active, const F* d_out, F* d_x, int threads) {
  return parallel(n_rows, atoms_at_once(n_rows), threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * (end - begin) * y.n_out);
    y.backward(end - begin, active ? active + begin * y.n_out : nullptr, d_out + begin * y.n_out, d_x + begin * y.n_in,
               scratch.take<F>((end - begin) * y.n_out));
  });
}

// Outputs (n_rows, O) of a net of dense layers for x (n_rows, I), and with `slope` (n_rows, I), if not null, the
// derivatives of their sum over O.
template <class F>
bool net(int64_t n_rows, int64_t n_layers, const DenseWeights<F>* layers, const F* x, F* out, F* slope, int threads) {
  const int64_t I = layers[0].n_in, O = layers[n_layers - 1].n_out;
  int64_t width = 0, widest = I;
  for (int64_t l = 0; l < n_layers; l++) width += layers[l].n_out, widest = std::max(widest, layers[l].n_out);
  return parallel(n_rows, atoms_at_once(n_rows), threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    const int64_t n = end - begin;
    scratch.begin(sizeof(F) * n * (width + 3 * widest));
    F *active = scratch.take<F>(n * width), *d = scratch.take<F>(n * widest);
    F *from = scratch.take<F>(n * widest), *to = scratch.take<F>(n * widest);
    std::memcpy(from, x + begin * I, sizeof(F) * n * I);
    for (int64_t l = 0; l < n_layers; active += n * layers[l++].n_out, std::swap(from, to))
      layers[l].forward(n, from, active, to);
    std::memcpy(out + begin * O, from, sizeof(F) * n * O);
    if (!slope) return;
    std::fill(from, from + n * O, F(1));
    for (int64_t l = n_layers - 1; l >= 0; l--, std::swap(from, to)) {
      active -= n * layers[l].n_out;
      layers[l].backward(n, active, from, to, d);
    }
    std::memcpy(slope + begin * I, from, sizeof(F) * n * I);
  });
}
