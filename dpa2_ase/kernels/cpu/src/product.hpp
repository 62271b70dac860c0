// Small matrix products C (+)= A B, register-blocked; A with any strides or as row pointers, B with contiguous rows.
#pragma once

#include "simd.hpp"

template <class F> struct Strided {  // element (i, p) at data[i * row + p * column]
  const F* data;
  int64_t row, column;
  INLINE F at(int64_t i, int64_t p) const { return data[i * row + p * column]; }
};
template <class F> struct Rows {  // row p at data + p * stride
  const F* data;
  int64_t stride;
  INLINE const F* row(int64_t p) const { return data + p * stride; }
  INLINE F at(int64_t i, int64_t p) const { return data[i * stride + p]; }
};
template <class F> struct Gathered {  // row p at table + index[p] * stride
  const F* table;
  const int64_t* index;
  int64_t stride;
  INLINE const F* row(int64_t p) const { return table + index[p] * stride; }
  INLINE F at(int64_t i, int64_t p) const { return table[index[i] * stride + p]; }
};

template <class F, class V, int MR, int NV, bool ADD, class A, class B>
INLINE void block(int64_t k, const A& a, int64_t i0, const B& b, int64_t j0, F* c, int64_t ldc) {
  constexpr int L = sizeof(V) / sizeof(F);
  V sum[MR][NV] = {};
  for (int64_t p = 0; p < k; p++) {
    const F* row = b.row(p) + j0;
    V values[NV];
    for (int v = 0; v < NV; v++) values[v] = load_as<V>(row + v * L);
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++) {
      F x = a.at(i0 + i, p);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[i][v] += values[v] * x;
    }
  }
  for (int i = 0; i < MR; i++)
    for (int v = 0; v < NV; v++) {
      F* at = c + i * ldc + v * L;  // added at the end: small terms would be rounded away one by one
      if constexpr (ADD) sum[i][v] += load_as<V>(at);
      store_as<V>(at, sum[i][v]);
    }
}

template <class F, class V, int NV, bool ADD, class A, class B>
inline void columns(int64_t m, int64_t k, const A& a, const B& b, int64_t j0, F* c, int64_t ldc) {
  constexpr int tall = DPA2_WIDE == 4 && NV <= 2 ? 12 : 6;  // as many sums as there are registers for
  int64_t i = 0;
  for (; i + tall <= m; i += tall) block<F, V, tall, NV, ADD>(k, a, i, b, j0, c + i * ldc, ldc);
  if (tall > 6 && m - i >= 6) block<F, V, 6, NV, ADD>(k, a, i, b, j0, c + i * ldc, ldc), i += 6;
  if (m - i >= 4) block<F, V, 4, NV, ADD>(k, a, i, b, j0, c + i * ldc, ldc), i += 4;
  if (m - i >= 2) block<F, V, 2, NV, ADD>(k, a, i, b, j0, c + i * ldc, ldc), i += 2;
  if (m - i >= 1) block<F, V, 1, NV, ADD>(k, a, i, b, j0, c + i * ldc, ldc);
}

// C (m, n) = A (m, k) B (k, n), or C += with ADD; any sizes
template <bool ADD, class F, class A, class B>
inline void product(int64_t m, int64_t n, int64_t k, const A& a, const B& b, F* c, int64_t ldc) {
  constexpr int L = Simd<F>::lanes;
  int64_t j = 0;
  for (; j + DPA2_WIDE * L <= n; j += DPA2_WIDE * L) columns<F, Full<F>, DPA2_WIDE, ADD>(m, k, a, b, j, c + j, ldc);
  if (DPA2_WIDE > 3 && j + 3 * L <= n) columns<F, Full<F>, 3, ADD>(m, k, a, b, j, c + j, ldc), j += 3 * L;
  if (DPA2_WIDE > 2 && j + 2 * L <= n) columns<F, Full<F>, 2, ADD>(m, k, a, b, j, c + j, ldc), j += 2 * L;
  if (j + L <= n) columns<F, Full<F>, 1, ADD>(m, k, a, b, j, c + j, ldc), j += L;
  typedef typename Simd<F>::Half Half;
  if (j + L / 2 <= n) columns<F, Half, 1, ADD>(m, k, a, b, j, c + j, ldc), j += L / 2;
  for (; j < n; j++) columns<F, F, 1, ADD>(m, k, a, b, j, c + j, ldc);
}

template <class F> inline void transpose(int64_t n, int64_t m, const F* in, int64_t ld_in, F* out, int64_t ld_out) {
  for (int64_t c = 0; c < m; c++)
    for (int64_t j = 0; j < n; j++) out[c * ld_out + j] = in[j * ld_in + c];
}
