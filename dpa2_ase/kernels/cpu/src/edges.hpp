// The repformer's sums over neighbors (convolution and moments) and the gradients they send back.
#pragma once

#include <algorithm>
#include <cstring>

#include "pool.hpp"
#include "product.hpp"

struct Csr {  // edges of the centers 0..n_atoms, sorted by center
  int64_t n_atoms;
  const int64_t *offsets, *neighbor;
  int64_t degree(int64_t i) const { return offsets[i + 1] - offsets[i]; }
  int64_t max_degree() const {
    int64_t most = 0;
    for (int64_t i = 0; i < n_atoms; i++) most = std::max(most, degree(i));
    return most;
  }
};

template <class F> inline int64_t padded(int64_t n) {  // up to a whole number of half vectors
  constexpr int64_t half = Simd<F>::lanes / 2;
  return (n + half - 1) / half * half;
}

// g = tanh(x W + b), (E, P) from x (E,) with a stride
template <class F>
bool embed(int64_t n_edges, int64_t P, const F* x, int64_t stride, const F* weight, const F* bias, F* g, int threads) {
  return parallel(n_edges, 128, threads, [=](int64_t begin, int64_t end, Scratch&) {
    for (int64_t e = begin; e < end; e++)
      for (int64_t c = 0; c < P; c++) g[e * P + c] = x[e * stride] * weight[c] + bias[c];
    tanh_in_place(g + begin * P, (end - begin) * P);
  });
}

template <class F>
bool embed_backward(int64_t n_edges, int64_t P, const F* g, const F* d_g, const F* weight, F* d_x, int64_t stride,
                    int threads) {
  return parallel(n_edges, 128, threads, [=](int64_t begin, int64_t end, Scratch&) {
    for (int64_t e = begin; e < end; e++) {
      F total = 0;
      const F *y = g + e * P, *d = d_g + e * P;
      for (int64_t c = 0; c < P; c++) total += (1 - y[c] * y[c]) * d[c] * weight[c];
      d_x[e * stride] += total;
    }
  });
}

template <class F> struct EdgeArrays {  // of the whole graph
  const F *g;          // (E, P) invariant pair channel
  const F *direction;  // (E, 3), rows `stride` apart
  int64_t stride;
  const F *weight;     // (E,)
  F mean, moment;      // divisors, inverted
};

// A (n, ld) = [w g | w h | 0]
template <class F>
inline void weighted(int64_t n, int64_t e0, int64_t P, int64_t ld, const EdgeArrays<F>& x, F* A) {
  for (int64_t j = 0; j < n; j++) {
    F w = x.weight[e0 + j];
    const F *g = x.g + (e0 + j) * P, *h = x.direction + (e0 + j) * x.stride;
    F* row = A + j * ld;
    for (int64_t c = 0; c < P; c++) row[c] = w * g[c];
    for (int64_t c = 0; c < 3; c++) row[P + c] = w * h[c];
    for (int64_t c = P + 3; c < ld; c++) row[c] = 0;
  }
}

// conv (N, G) = mean sum_j w (g W_p) * node_j; node_moment (N, 3, G) and edge_moment (N, 3, P) = moment sum_j w h f_j.
// Any of the three may be null.
template <class F>
bool aggregate(const Csr& csr, int64_t P, int64_t G, const EdgeArrays<F>& x, const F* node, const F* conv_weight,
               F* conv, F* node_moment, F* edge_moment, int threads) {
  const int64_t most = csr.max_degree(), ld = padded<F>(P + 3), n_rows = (P + 3 + 5) / 6 * 6;
  return parallel(csr.n_atoms, 4, threads, [=](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * (most * (ld + 6) + n_rows * G));
    F *A = scratch.take<F>(most * ld + 6 * 8), *X = scratch.take<F>(n_rows * G);
    for (int64_t i = begin; i < end; i++) {
      const int64_t e0 = csr.offsets[i], n = csr.degree(i);
      weighted(n, e0, P, ld, x, A);
      const Gathered<F> neighbors{node, csr.neighbor + e0, G};
      if (conv) product<false>(P + 3, G, n, Strided<F>{A, 1, ld}, neighbors, X, G);
      else if (node_moment) product<false>(3, G, n, Strided<F>{A + P, 1, ld}, neighbors, X + P * G, G);
      if (conv) {
        F* out = conv + i * G;
        for (int64_t c = 0; c < G; c++) out[c] = 0;
        for (int64_t a = 0; a < P; a++)
          for (int64_t c = 0; c < G; c++) out[c] += X[a * G + c] * conv_weight[a * G + c];
        for (int64_t c = 0; c < G; c++) out[c] *= x.mean;
      }
      if (node_moment)
        for (int64_t c = 0; c < 3 * G; c++) node_moment[i * 3 * G + c] = x.moment * X[P * G + c];
      if (edge_moment) {
        F* out = edge_moment + i * 3 * P;
        product<false>(3, P, n, Strided<F>{A + P, 1, ld}, Rows<F>{x.g + e0 * P, P}, out, P);
        for (int64_t c = 0; c < 3 * P; c++) out[c] *= x.moment;
      }
    }
  });
}

// Edges of every chunk of centers sorted by neighbor: who receives which messages. Sizes: order (E), target (E),
// first (E + n_chunks), count (n_chunks). Receiver s of chunk k is atom target[e + s], with e the chunk's first edge, and
// its edges are order[first[e + k + s] .. first[e + k + s + 1]), ascending.
struct Receivers {
  int64_t *order, *target, *first, *count;
};

inline bool find_receivers(const Csr& csr, int64_t chunk, const Receivers& r, int threads) {
  const int64_t n_chunks = (csr.n_atoms + chunk - 1) / chunk;
  return parallel(n_chunks, 1, threads, [&](int64_t k0, int64_t k1, Scratch& scratch) {
    for (int64_t k = k0; k < k1; k++) {
      const int64_t begin = csr.offsets[k * chunk], end = csr.offsets[std::min((k + 1) * chunk, csr.n_atoms)];
      const int64_t* neighbor = csr.neighbor;
      if (csr.n_atoms <= 4 * (end - begin)) {  // counting sort
        scratch.begin(sizeof(int64_t) * (csr.n_atoms + 1));
        int64_t* next = scratch.take<int64_t>(csr.n_atoms + 1);
        std::memset(next, 0, sizeof(int64_t) * (csr.n_atoms + 1));
        for (int64_t e = begin; e < end; e++) next[neighbor[e] + 1]++;
        for (int64_t i = 0; i < csr.n_atoms; i++) next[i + 1] += next[i];
        for (int64_t e = begin; e < end; e++) r.order[begin + next[neighbor[e]]++] = e;
      } else {
        for (int64_t e = begin; e < end; e++) r.order[e] = e;
        std::sort(r.order + begin, r.order + end, [&](int64_t a, int64_t b) {
          return neighbor[a] != neighbor[b] ? neighbor[a] < neighbor[b] : a < b;
        });
      }
      int64_t found = 0;
      for (int64_t p = begin; p < end; p++)
        if (p == begin || neighbor[r.order[p]] != neighbor[r.order[p - 1]]) {
          r.target[begin + found] = neighbor[r.order[p]];
          r.first[begin + k + found++] = p;
        }
      r.first[begin + k + found] = end;
      r.count[k] = found;
    }
  });
}

// Of the gradient by what `aggregate` sums, what comes from conv: d_X (P, G), and its transpose with rows of length ld
template <class F>
inline void spread(int64_t P, int64_t G, int64_t ld, const F* d_conv, F mean, const F* weight, const F* weight_t, F* d_X,
                   F* d_Xt) {
  if (!d_conv) {
    std::memset(d_X, 0, sizeof(F) * P * G);
    std::memset(d_Xt, 0, sizeof(F) * G * ld);
    return;
  }
  for (int64_t a = 0; a < P; a++)
#pragma GCC ivdep
    for (int64_t c = 0; c < G; c++) d_X[a * G + c] = weight[a * G + c] * d_conv[c] * mean;
  for (int64_t c = 0; c < G; c++) {
    const F scale = d_conv[c] * mean;
#pragma GCC ivdep
    for (int64_t a = 0; a < P; a++) d_Xt[c * ld + a] = scale * weight_t[c * P + a];
  }
}

// Gradients of `aggregate`: d_g (E, P), d_direction (E, 3), d_weight (E,) and d_node (N, G) are added to; d_direction and
// d_weight are both null where the geometry's are not wanted.
// `messages` holds those of one chunk of centers, (edges of the largest chunk, G).
template <class F>
bool aggregate_backward(const Csr& csr, int64_t P, int64_t G, const EdgeArrays<F>& x, const F* node,
                        const F* conv_weight, const F* conv_weight_t, const F* d_conv, const F* d_node_moment,
                        const F* d_edge_moment, int64_t chunk, const Receivers& receivers, F* messages, F* d_g,
                        F* d_direction, F* d_weight, F* d_node, int threads) {
  const int64_t most = csr.max_degree(), ld = padded<F>(P + 3);
  const int64_t n_chunks = (csr.n_atoms + chunk - 1) / chunk;
  for (int64_t k = 0; k < n_chunks; k++) {
    const int64_t first_atom = k * chunk, last_atom = std::min(first_atom + chunk, csr.n_atoms);
    const int64_t first_edge = csr.offsets[first_atom];
    bool good = parallel(last_atom - first_atom, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
      scratch.begin(sizeof(F) * (2 * most * ld + 2 * ld * G + 3 * P));
      F *A = scratch.take<F>(most * ld), *d_A = scratch.take<F>(most * ld);
      F *d_X = scratch.take<F>(ld * G), *d_Xt = scratch.take<F>(ld * G), *d_H = scratch.take<F>(3 * P);
      for (int64_t i = first_atom + begin; i < first_atom + end; i++) {
        const int64_t e0 = csr.offsets[i], n = csr.degree(i);
        weighted(n, e0, P, ld, x, A);
        spread(P, G, ld, d_conv ? d_conv + i * G : nullptr, x.mean, conv_weight, conv_weight_t, d_X, d_Xt);
        for (int64_t c = 0; c < 3 * G; c++) d_X[P * G + c] = d_node_moment ? d_node_moment[i * 3 * G + c] * x.moment : 0;
        for (int64_t c = 0; c < G; c++) {
          F* row = d_Xt + c * ld + P;
          for (int64_t a = 0; a < 3; a++) row[a] = d_X[(P + a) * G + c];
          for (int64_t a = 3; a < ld - P; a++) row[a] = 0;
        }
        for (int64_t c = 0; c < 3 * P; c++) d_H[c] = d_edge_moment ? d_edge_moment[i * 3 * P + c] * x.moment : 0;
        product<false>(n, G, P + 3, Strided<F>{A, ld, 1}, Rows<F>{d_X, G}, messages + (e0 - first_edge) * G, G);
        product<false>(n, d_weight ? ld : padded<F>(P), G, Gathered<F>{node, csr.neighbor + e0, G}, Rows<F>{d_Xt, ld}, d_A,
                       ld);
        for (int64_t j = 0; j < n; j++) {
          const F w = x.weight[e0 + j], *d = d_A + j * ld, *g = x.g + (e0 + j) * P, *h = x.direction + (e0 + j) * x.stride;
          F* out = d_g + (e0 + j) * P;
          const F w0 = w * h[0], w1 = w * h[1], w2 = w * h[2];
          for (int64_t c = 0; c < P; c++) out[c] += w * d[c] + w0 * d_H[c] + w1 * d_H[P + c] + w2 * d_H[2 * P + c];
          if (!d_weight) continue;
          F by_weight = dot(d, g, P), by_direction[3];
          for (int a = 0; a < 3; a++) {
            by_direction[a] = d[P + a] + dot(d_H + a * P, g, P);
            by_weight += by_direction[a] * h[a];
            d_direction[(e0 + j) * x.stride + a] += w * by_direction[a];
          }
          d_weight[e0 + j] += by_weight;
        }
      }
    });
    if (!good) return false;
    good = parallel(receivers.count[k], 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
      scratch.begin(sizeof(F) * G);
      F* sum = scratch.take<F>(G);
      const int64_t *first = receivers.first + first_edge + k, *target = receivers.target + first_edge;
      for (int64_t s = begin; s < end; s++) {
        std::memset(sum, 0, sizeof(F) * G);
        for (int64_t p = first[s]; p < first[s + 1]; p++) {
          const F* message = messages + (receivers.order[p] - first_edge) * G;
          for (int64_t c = 0; c < G; c++) sum[c] += message[c];
        }
        for (int64_t c = 0; c < G; c++) d_node[target[s] * G + c] += sum[c];
      }
    });
    if (!good) return false;
  }
  return true;
}
