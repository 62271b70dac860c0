// Dense layers y = phi(x W + b) * timestep + copies of x, in blocks of rows; phi is tanh or nothing.
#pragma once

#include "nodes.hpp"

template <class F> struct DenseWeights {
  int64_t n_in, n_out, is_tanh, copies;  // copies: x is added so many times, side by side
  const F *weight, *weight_t, *bias, *timestep;  // (n_in, n_out), its transpose, (n_out,) and (n_out,) or null
};

// `active` (n, n_out), if not null, receives phi for the backward pass.
template <class F>
bool dense(int64_t n_rows, const DenseWeights<F>& y, const F* x, F* active, F* out, int threads) {
  const int64_t I = y.n_in, O = y.n_out;
  return parallel(n_rows, kAtomsAtOnce, threads, [&](int64_t begin, int64_t end, Scratch&) {
    const int64_t n = end - begin;
    F* value = out + begin * O;
    product<false>(n, O, I, Rows<F>{x + begin * I, I}, Rows<F>{y.weight, O}, value, O);
    for (int64_t i = 0; y.bias && i < n; i++)
      for (int64_t c = 0; c < O; c++) value[i * O + c] += y.bias[c];
    if (y.is_tanh) tanh_in_place(value, n * O);
    if (active) std::memcpy(active + begin * O, value, sizeof(F) * n * O);
    for (int64_t i = 0; y.timestep && i < n; i++)
      for (int64_t c = 0; c < O; c++) value[i * O + c] *= y.timestep[c];
    for (int64_t i = 0; i < n; i++)
      for (int64_t copy = 0; copy < y.copies; copy++)
        for (int64_t c = 0; c < I; c++) value[i * O + copy * I + c] += x[(begin + i) * I + c];
  });
}

// d_x (n, n_in) from d_out (n, n_out)
template <class F>
bool dense_backward(int64_t n_rows, const DenseWeights<F>& y, const F* active, const F* d_out, F* d_x, int threads) {
  const int64_t I = y.n_in, O = y.n_out;
  return parallel(n_rows, kAtomsAtOnce, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    const int64_t n = end - begin;
    scratch.begin(sizeof(F) * n * O);
    F* d = scratch.take<F>(n * O);
    for (int64_t i = 0; i < n; i++)
      for (int64_t c = 0; c < O; c++) {
        const int64_t at = (begin + i) * O + c;
        F slope = y.timestep ? y.timestep[c] : 1;
        if (y.is_tanh) slope *= 1 - active[at] * active[at];
        d[i * O + c] = slope * d_out[at];
      }
    product<false>(n, I, O, Rows<F>{d, O}, Rows<F>{y.weight_t, I}, d_x + begin * I, I);
    for (int64_t i = 0; i < n; i++)
      for (int64_t copy = 0; copy < y.copies; copy++)
        for (int64_t c = 0; c < I; c++) d_x[(begin + i) * I + c] += d_out[(begin + i) * O + copy * I + c];
  });
}
