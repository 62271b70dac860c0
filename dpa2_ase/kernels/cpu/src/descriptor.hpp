// The whole representation of DPA-2 from tables, there and back: repinit, three-body terms, repformer.
//
//   start = [S(M), B] W + T,  S(M)[c, a] = sum_q M[q, c] M[q, a], a < axis
//
// with the moments M of repinit, the three-body terms B and a row T for the type of the atom.
#pragma once

#include "dense.hpp"
#include "repformer.hpp"
#include "three_body.hpp"

template <class F> struct InitializerWeights {
  int64_t n_slots, axis;           // of repinit: length of the lists in training, columns of the moments in `a`
  int64_t n_triple, three_slots;   // three-body terms, 0 without; length of their lists
  EnvironmentOptions environment, three_environment;
  Features<F> features;
  ThreeBodyOptions<F> three_body;
  DenseWeights<F> to_node;
  const F* type_rows;              // (T, G), null for none
  int64_t width() const { return features.C * axis + n_triple; }
};

// A three-body table of few functions is evaluated with half vectors where they suffice.
template <class F> inline bool narrow(int64_t R) { return R % Simd<F>::lanes != 0; }

template <class F>
bool sum_triples(const Csr& csr, const int64_t* types, const ThreeBodyOptions<F>& y, const F* angular, int64_t stride,
                 const F* weight, double scale, F* out, int64_t* outside, int threads) {
  const auto run = narrow<F>(y.table.R) ? three_body<F, typename Simd<F>::Half> : three_body<F, Full<F>>;
  return run(csr, types, y, angular, stride, weight, scale, out, outside, threads);
}
template <class F>
bool sum_triples_backward(const Csr& csr, const int64_t* types, const ThreeBodyOptions<F>& y, const F* angular,
                          int64_t stride, const F* weight, double scale, const F* d_out, F* d_angular, F* d_weight,
                          int threads) {
  const auto run =
      narrow<F>(y.table.R) ? three_body_backward<F, typename Simd<F>::Half> : three_body_backward<F, Full<F>>;
  return run(csr, types, y, angular, stride, weight, scale, d_out, d_angular, d_weight, threads);
}

struct DescriptorEdges {
  const Edges *repinit, *three_body, *repformer;  // the second is not read where there are no such terms
};

template <class F> struct KeptDescriptor {
  double* argument;                             // (E,) of the tables
  F *rows, *weight, *moment;                    // (E, 4), (E,), (N, 4, C)
  F *three_rows, *three_weight;
  KeptRepformer<F> repformer;

  KeptDescriptor(Arena& kept, Arena& work, const DescriptorEdges& edges, const InitializerWeights<F>& y,
                 const RepformerWeights<F>& z, int64_t keep)
      : argument(kept.take<double>(edges.repinit->count())), rows(kept.take<F>(4 * edges.repinit->count())),
        weight(kept.take<F>(edges.repinit->count())),
        moment(kept.take<F>(edges.repinit->n_atoms * 4 * y.features.C)),
        three_rows(y.n_triple ? kept.take<F>(4 * edges.three_body->count()) : nullptr),
        three_weight(y.n_triple ? kept.take<F>(edges.three_body->count()) : nullptr),
        repformer(kept, work, *edges.repformer, z, keep) {}
};

// `joined` (N, I) is [S(M), B]; `triple` (N, R) receives the three-body terms in whole vectors.
template <class F>
bool initialize(const DescriptorEdges& edges, const InitializerWeights<F>& y, const KeptDescriptor<F>& kept,
                F* joined, F* triple, int64_t* outside, int threads) {
  const Edges &far = *edges.repinit, &near = *edges.three_body;
  const int64_t N = far.n_atoms, C = y.features.C, I = y.width(), R = y.three_body.table.R;
  int64_t missed = 0;
  bool good = environment<F>(N, far.offsets, far.types, far.vectors, y.environment, kept.rows, kept.weight,
                             kept.argument, threads) &&
              moments<F>(far.csr(), far.types, y.features, 4, kept.rows, kept.argument, kept.weight, 1.0 / y.n_slots,
                         kept.moment, outside, threads);
  if (good && y.n_triple)
    good = environment<F>(N, near.offsets, near.types, near.vectors, y.three_environment, kept.three_rows,
                          kept.three_weight, nullptr, threads) &&
           sum_triples<F>(near.csr(), near.types, y.three_body, kept.three_rows + 1, 4, kept.three_weight,
                          1.0 / (double(y.three_slots) * y.three_slots), triple, &missed, threads);
  *outside += missed;
  F* start = kept.repformer.layers[0].node;
  good = good && parallel(N, 4, threads, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t i = begin; i < end; i++) {
      const F* M = kept.moment + i * 4 * C;
      product<false>(C, y.axis, 4, Strided<F>{M, 1, C}, Rows<F>{M, C}, joined + i * I, y.axis);
      std::memcpy(joined + i * I + C * y.axis, triple + i * R, sizeof(F) * y.n_triple);
    }
  }) && dense<F>(N, y.to_node, joined, nullptr, start, threads);
  const int64_t G = y.to_node.n_out;
  for (int64_t i = 0; y.type_rows && i < N; i++)
    for (int64_t c = 0; c < G; c++) start[i * G + c] += y.type_rows[far.types[i] * G + c];
  return good;
}

// `gradient` (E, 3), by the vectors of the model's list, is added to.
template <class F>
bool initialize_backward(const DescriptorEdges& edges, const InitializerWeights<F>& y,
                         const KeptDescriptor<F>& kept, const F* d_start, double* gradient, Arena& work, int threads) {
  const Edges &far = *edges.repinit, &near = *edges.three_body;
  const int64_t N = far.n_atoms, E = far.count(), C = y.features.C, I = y.width(), R = y.three_body.table.R;
  F *d_joined = work.take<F>(N * I), *d_moment = work.take<F>(N * 4 * C), *d_rows = work.take<F>(4 * E);
  F *d_weight = work.zeros<F>(E), *d_triple = nullptr, *d_three_rows = nullptr, *d_three_weight = nullptr;
  if (y.n_triple) {
    d_triple = work.zeros<F>(N * R), d_three_rows = work.zeros<F>(4 * near.count());
    d_three_weight = work.zeros<F>(near.count());
  }
  if (!work.data) return true;  // measured
  bool good = dense_backward<F>(N, y.to_node, nullptr, d_start, d_joined, threads) &&
              parallel(N, 4, threads, [&](int64_t begin, int64_t end, Scratch& scratch) {
    scratch.begin(sizeof(F) * C * y.axis);
    F* transposed = scratch.take<F>(C * y.axis);
    for (int64_t i = begin; i < end; i++) {
      const F *M = kept.moment + i * 4 * C, *d = d_joined + i * I;
      F* d_M = d_moment + i * 4 * C;
      std::memset(d_M, 0, sizeof(F) * 4 * C);
      product<true>(4, y.axis, C, Rows<F>{M, C}, Rows<F>{d, y.axis}, d_M, C);
      transpose(C, y.axis, d, y.axis, transposed, C);
      product<true>(4, C, y.axis, Rows<F>{M, C}, Rows<F>{transposed, C}, d_M, C);
      std::memcpy(d_triple + i * R, d + C * y.axis, sizeof(F) * y.n_triple);
    }
  }) && moments_backward<F>(far.csr(), far.types, y.features, 4, kept.rows, kept.argument, kept.weight,
                            1.0 / y.n_slots, d_moment, d_rows, d_weight, threads) &&
         environment_backward<F>(N, far.offsets, far.types, far.vectors, y.environment, d_rows, d_weight, far.index,
                                 gradient, threads);
  if (good && y.n_triple)
    good = sum_triples_backward<F>(near.csr(), near.types, y.three_body, kept.three_rows + 1, 4, kept.three_weight,
                                   1.0 / (double(y.three_slots) * y.three_slots), d_triple, d_three_rows + 1,
                                   d_three_weight, threads) &&
           environment_backward<F>(N, near.offsets, near.types, near.vectors, y.three_environment, d_three_rows,
                                   d_three_weight, near.index, gradient, threads);
  return good;
}

// Final channel `node` (N, G) and moment (N, 3, P) of a graph whose edges the tables cover: it stops after the
// initializer if some are `outside`. Without memory, measures what it needs.
template <class F>
bool descriptor(const DescriptorEdges& edges, const InitializerWeights<F>& y, const RepformerWeights<F>& z,
                int64_t keep, Arena& kept, Arena& work, F* node, F* moment, int64_t* outside, int threads) {
  const int64_t N = edges.repinit->n_atoms;
  kept.used = work.used = 0;
  const KeptDescriptor<F> x(kept, work, edges, y, z, keep);
  const int64_t most = work.used;
  work.used = 0;  // the initializer is done before the repformer needs its place
  F *joined = work.take<F>(N * y.width()), *triple = work.take<F>(N * y.three_body.table.R);
  work.used = std::max(work.used, most);
  if (!kept.data) return true;
  return initialize<F>(edges, y, x, joined, triple, outside, threads) &&
         (*outside || repformer<F>(*edges.repformer, z, x.repformer, node, moment, threads));
}

template <class F>
bool descriptor_backward(const DescriptorEdges& edges, const InitializerWeights<F>& y, const RepformerWeights<F>& z,
                         int64_t keep, Arena& kept, Arena& work, const F* d_node, const F* d_moment, double* gradient,
                         int64_t chunk, int threads) {
  kept.used = work.used = 0;
  const KeptDescriptor<F> x(kept, work, edges, y, z, keep);
  F* d_start = work.take<F>(edges.repinit->n_atoms * z.G);
  const RepformerGradients<F> to{d_node, d_moment, d_start, gradient, nullptr, {}};
  const int64_t common = work.used;
  bool good = repformer_backward<F>(*edges.repformer, z, x.repformer, to, chunk, work, threads);
  const int64_t most = work.used;
  work.used = common;  // what follows takes the place of what is not needed any more
  good = good && initialize_backward<F>(edges, y, x, d_start, gradient, work, threads);
  work.used = std::max(work.used, most);
  return good;
}
