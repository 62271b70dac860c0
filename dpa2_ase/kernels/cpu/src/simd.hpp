// Vectors of the instruction set this file is compiled for, and elementary functions on them.
//
// GCC and Clang vector extensions, so that one text serves SSE2, AVX2, AVX-512 and NEON. Compiled without -ffast-math:
// the rounding trick in `split_exponent` depends on the order of additions.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define DPA2_BYTES 64
#elif defined(__AVX__)
#define DPA2_BYTES 32
#else
#define DPA2_BYTES 16
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
#define DPA2_WIDE 4  // vectors side by side in a block of a product; 6 x 4 accumulators need 32 registers
#else
#define DPA2_WIDE 2
#endif
#define INLINE inline __attribute__((always_inline))

template <class F> struct Simd;
template <> struct Simd<double> {
  typedef double Full __attribute__((vector_size(DPA2_BYTES)));
  typedef double Half __attribute__((vector_size(DPA2_BYTES / 2)));
  typedef int64_t Int __attribute__((vector_size(DPA2_BYTES)));
  static constexpr int lanes = DPA2_BYTES / 8;
};
template <> struct Simd<float> {
  typedef float Full __attribute__((vector_size(DPA2_BYTES)));
  typedef float Half __attribute__((vector_size(DPA2_BYTES / 2)));
  typedef int32_t Int __attribute__((vector_size(DPA2_BYTES)));
  static constexpr int lanes = DPA2_BYTES / 4;
};
template <class F> using Full = typename Simd<F>::Full;

// Unaligned, by memcpy: a vector type loses its alignment attribute where it is a template argument.
template <class V, class F> INLINE V load_as(const F* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}
template <class V, class F> INLINE void store_as(F* p, V v) { std::memcpy(p, &v, sizeof(V)); }
template <class F> INLINE Full<F> load(const F* p) { return load_as<Full<F>>(p); }
template <class F> INLINE void store(F* p, Full<F> v) { store_as<Full<F>>(p, v); }
template <class F> INLINE Full<F> broadcast(F x) { return Full<F>{} + x; }

// By halves: a sum one after the other would wait for every addition.
template <class F> INLINE F lane_sum(Full<F> v) {
  F a[Simd<F>::lanes];
  store<F>(a, v);
#pragma GCC unroll 4
  for (int half = Simd<F>::lanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) a[i] += a[i + half];
  return a[0];
}
template <class F> INLINE F lane_max(Full<F> v) {
  F a[Simd<F>::lanes];
  store<F>(a, v);
#pragma GCC unroll 4
  for (int half = Simd<F>::lanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) a[i] = a[i + half] > a[i] ? a[i + half] : a[i];
  return a[0];
}

template <class F> struct Constants;
template <> struct Constants<double> {
  static constexpr double log2e = 1.4426950408889634, ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
  static constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
  static constexpr double lowest = -708.0, highest = 709.0;
  static constexpr int mantissa = 52, bias = 1023;
  // (e^r - 1) / r from the highest power on, closest for |r| <= ln 2 / 2: to 2e-17, in float to 1.4e-8
  static constexpr double series[] = {2.5161366661862174e-8, 2.7628230827177907e-7, 2.7557116889701515e-6,
                                      2.4801499751986907e-5, 1.9841269986932075e-4, 1.3888888936179933e-3,
                                      8.3333333332932171e-3, 4.1666666666562414e-2, 1.6666666666666696e-1, 0.5, 1.0};
};
template <> struct Constants<float> {
  static constexpr float log2e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float shift = 12582912.0f;  // 1.5 * 2^23
  static constexpr float lowest = -87.0f, highest = 88.0f;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float series[] = {1.388252144e-3f, 8.366520581e-3f, 4.166719986e-2f, 0.1666654362f, 0.4999999815f, 1.0f};
};

// x = k ln 2 + r: returns (e^r - 1) and 2^k; x not beyond where 2^k is a normal number. NaN stays NaN.
template <class F> INLINE void split_exponent(Full<F> x, Full<F>& small, Full<F>& power) {
  typedef Constants<F> K;
  Full<F> shifted = x * K::log2e + K::shift;
  Full<F> whole = shifted - K::shift;
  Full<F> r = x - whole * K::ln2_high;
  r = r - whole * K::ln2_low;
  Full<F> series = broadcast<F>(K::series[0]);
#pragma GCC unroll 12
  for (unsigned q = 1; q < sizeof(K::series) / sizeof(F); q++) series = series * r + K::series[q];
  small = series * r;
  typename Simd<F>::Int bits;
  Full<F> base = broadcast<F>(K::shift);
  typename Simd<F>::Int zero;
  std::memcpy(&bits, &shifted, sizeof(bits));
  std::memcpy(&zero, &base, sizeof(zero));
  bits = (bits - zero + K::bias) << K::mantissa;
  std::memcpy(&power, &bits, sizeof(power));
}

template <class F> INLINE Full<F> exp(Full<F> x) {
  typedef Constants<F> K;
  Full<F> small, power;
  x = x < K::lowest ? broadcast<F>(K::lowest) : x;
  x = x > K::highest ? broadcast<F>(K::highest) : x;
  split_exponent<F>(x, small, power);
  return power * small + power;
}

// tanh x = -p / (p + 2) with p = e^{-2|x|} - 1, accurate to a few roundings also near zero
template <class F> INLINE Full<F> tanh(Full<F> x) {
  Full<F> size = x < F(0) ? -x : x;
  size = size > F(40) ? broadcast<F>(40) : size;  // one there
  Full<F> small, power;
  split_exponent<F>(size * F(-2), small, power);
  Full<F> p = power * small + (power - F(1));
  Full<F> value = -p / (p + F(2));
  return x < F(0) ? -value : value;
}

template <class F, class Function> INLINE void in_place(F* x, int64_t n, Function function) {
  constexpr int L = Simd<F>::lanes;
  int64_t i = 0;
  for (; i + L <= n; i += L) store<F>(x + i, function(load<F>(x + i)));
  if (i < n) {
    F rest[L] = {};
    std::memcpy(rest, x + i, sizeof(F) * (n - i));
    store<F>(rest, function(load<F>(rest)));
    std::memcpy(x + i, rest, sizeof(F) * (n - i));
  }
}
template <class F> inline void tanh_in_place(F* x, int64_t n) {
  in_place(x, n, [](Full<F> v) { return tanh<F>(v); });
}
template <class F> inline void exp_in_place(F* x, int64_t n) {
  in_place(x, n, [](Full<F> v) { return exp<F>(v); });
}

template <class F> inline F dot(const F* a, const F* b, int64_t n) {
  constexpr int L = Simd<F>::lanes;
  Full<F> total = {};
  int64_t i = 0;
  for (; i + L <= n; i += L) total += load<F>(a + i) * load<F>(b + i);
  F rest = 0;
  for (; i < n; i++) rest += a[i] * b[i];
  return lane_sum<F>(total) + rest;
}

template <class F> inline F sum(const F* a, int64_t n) {
  constexpr int L = Simd<F>::lanes;
  Full<F> total = {};
  int64_t i = 0;
  for (; i + L <= n; i += L) total += load<F>(a + i);
  F rest = 0;
  for (; i < n; i++) rest += a[i];
  return lane_sum<F>(total) + rest;
}
