// All layers of the repformer, there and back.
//
// The way back goes through the layers in step: the gradient of the pair channel is one array that every layer changes
// in place, and messages to neighbors exist for a chunk of centers at a time. So memory is what the layers keep (pair
// channel, moments, activations) and little else.
#pragma once

#include <vector>

#include "arena.hpp"
#include "environment.hpp"
#include "weight_gradients.hpp"

template <class F> struct LayerWeights {
  NodeWeights<F> node;
  PairWeights<F> pair;      // P = 0 where the layer leaves the pair channel as it is
  const F *conv, *conv_t;   // (P, G) and (G, P), null without convolution
};

template <class F> struct RepformerWeights {
  int64_t n_layers, P, G, n_slots, root;  // length of the lists in training; whether moments are divided by its root
  EnvironmentOptions environment;
  const F *embedding_weight, *embedding_bias;  // (P,) each
  const LayerWeights<F>* layers;
};

// The edges of a block. `index` (E,) are their places in the list of the model, null where there is no other list.
struct Edges {
  int64_t n_atoms;
  const int64_t *offsets, *neighbor, *types;
  const double* vectors;
  const int64_t* index;
  Csr csr() const { return {n_atoms, offsets, neighbor}; }
  int64_t count() const { return offsets[n_atoms]; }
};

// What a pass keeps for the way back: nothing; all but some intermediates that are computed again; all; what gradients
// by the weights need beside.
enum Keep : int64_t { kNothing, kLittle, kInference, kTraining };

template <class F> struct KeptLayer {  // null where it is not kept
  F *edge, *node, *node_moment, *edge_moment;  // (E, P), (N, G), (N, 3, G), (N, 3, P)
  F *update, *self, *conv;                     // (N, G) each
  F *z, *rstd;                                 // (E, P), (E,)
};

template <class F> struct KeptRepformer {
  F *rows, *weight;  // (E, 4) and (E,)
  std::vector<KeptLayer<F>> layers;

  // The first pair channel is quickly made again: it is kept for training only, otherwise in `work`.
  KeptRepformer(Arena& kept, Arena& work, const Edges& edges, const RepformerWeights<F>& y, int64_t keep)
      : layers(y.n_layers) {
    const int64_t N = edges.n_atoms, E = edges.count();
    rows = kept.take<F>(4 * E), weight = kept.take<F>(E);
    F* conv = work.take<F>(N * y.G);  // of any layer
    for (int64_t l = 0; l < y.n_layers; l++) {
      if (keep == kNothing && l > 1) {  // two layers take turns
        layers[l] = layers[l - 2];
        continue;
      }
      KeptLayer<F>& x = layers[l] = {};
      if (l > 0 && !y.layers[l - 1].pair.P) x.edge = layers[l - 1].edge;
      else x.edge = (l || keep == kTraining ? kept : work).template take<F>(E * y.P);
      x.node = kept.take<F>(N * y.G);
      x.node_moment = kept.take<F>(N * 3 * y.G), x.edge_moment = kept.take<F>(N * 3 * y.P);
      if (keep >= kInference) x.update = kept.take<F>(N * y.G), x.self = kept.take<F>(N * y.G);
      if (keep >= kInference && y.layers[l].pair.H) x.z = kept.take<F>(E * y.P), x.rstd = kept.take<F>(E);
      if (y.layers[l].conv) x.conv = keep == kTraining ? kept.take<F>(N * y.G) : conv;
    }
  }
};

template <class F> EdgeArrays<F> edge_arrays(const RepformerWeights<F>& y, const KeptRepformer<F>& kept, const F* g) {
  const double mean = 1.0 / y.n_slots;
  return {g, kept.rows + 1, 4, kept.weight, F(mean), F(y.root ? std::sqrt(mean) : mean)};
}

template <class F>
bool embed_edges(const RepformerWeights<F>& y, const F* rows, int64_t n_edges, F* edge, int threads) {
  return embed<F>(n_edges, y.P, rows, 4, y.embedding_weight, y.embedding_bias, edge, threads);
}

// From layers[0].node, before its activation, to the final channel `node` (N, G) and moment (N, 3, P).
template <class F>
bool repformer(const Edges& edges, const RepformerWeights<F>& y, const KeptRepformer<F>& kept, F* node, F* moment,
               int threads) {
  const int64_t N = edges.n_atoms;
  const Csr csr = edges.csr();
  bool good = environment<F>(N, edges.offsets, edges.types, edges.vectors, y.environment, kept.rows, kept.weight,
                             nullptr, threads) &&
              embed_edges(y, kept.rows, edges.count(), kept.layers[0].edge, threads);
  tanh_in_place(kept.layers[0].node, N * y.G);
  for (int64_t l = 0; good && l < y.n_layers; l++) {
    const LayerWeights<F>& w = y.layers[l];
    const KeptLayer<F>& x = kept.layers[l];
    const bool last = l + 1 == y.n_layers;
    good = aggregate<F>(csr, y.P, y.G, edge_arrays(y, kept, x.edge), x.node, w.conv, x.conv, x.node_moment,
                        x.edge_moment, threads) &&
           node_update<F>(N, w.node, x.node, x.conv, x.edge_moment, x.node_moment, x.update, x.self,
                          last ? node : kept.layers[l + 1].node, threads) &&
           (!w.pair.P || pair_update<F>(csr, w.pair, x.edge, kept.rows + 1, 4, kept.weight, y.n_slots,
                                        kept.layers[l + 1].edge, x.z, x.rstd, threads));
    if (last) std::memcpy(moment, x.edge_moment, sizeof(F) * N * 3 * y.P);
  }
  return good;
}

template <class F> struct LayerGradients {  // by the weights of a layer
  BlockSums<F> pair, conv;
  NodeWeightGradients<F> node;
};

template <class F> struct RepformerGradients {
  const F *d_node, *d_moment;         // (N, G) by the final channel; (N, 3, P), null for zero
  F* d_start;                         // (N, G) by what the first activation is applied to
  double* vectors;                    // (E, 3) of the list of the model; null: not wanted
  const LayerGradients<F>* layers;    // null: not wanted
  BlockSums<F> embedding;
};

// `work` is for intermediates.
template <class F>
bool repformer_backward(const Edges& edges, const RepformerWeights<F>& y, const KeptRepformer<F>& kept,
                        const RepformerGradients<F>& to, int64_t chunk, Arena& work, int threads) {
  const int64_t N = edges.n_atoms, E = edges.count(), P = y.P, G = y.G, n_chunks = (N + chunk - 1) / chunk;
  const Csr csr = edges.csr();
  int64_t most = 0;  // edges of a chunk
  for (int64_t i = 0; i < N; i += chunk) most = std::max(most, csr.offsets[std::min(i + chunk, N)] - csr.offsets[i]);
  const bool by_geometry = to.vectors;
  F *d_node = to.d_start, *d_edge = work.zeros<F>(E * P);
  F *d_rows = by_geometry ? work.zeros<F>(4 * E) : nullptr, *d_weight = by_geometry ? work.zeros<F>(E) : nullptr;
  F* d_direction = by_geometry ? d_rows + 1 : nullptr;
  F *d_node_moment = work.zeros<F>(N * 3 * G), *d_edge_moment = work.zeros<F>(N * 3 * P);
  F *d_conv = work.take<F>(N * G), *messages = work.take<F>(most * G);
  const Receivers receivers{work.take<int64_t>(E), work.take<int64_t>(E), work.take<int64_t>(E + n_chunks),
                            work.take<int64_t>(n_chunks)};
  if (!work.data) return true;  // measured
  F* first_edge = kept.layers[0].edge;
  bool good = (to.layers || embed_edges(y, kept.rows, E, first_edge, threads)) &&
              find_receivers(csr, chunk, receivers, threads);
  std::memcpy(d_node, to.d_node, sizeof(F) * N * G);
  for (int64_t l = y.n_layers - 1; good && l >= 0; l--) {
    const LayerWeights<F>& w = y.layers[l];
    const KeptLayer<F>& x = kept.layers[l];
    const LayerGradients<F>* sums = to.layers ? to.layers + l : nullptr;
    const EdgeArrays<F> arrays = edge_arrays(y, kept, x.edge);
    F* conv = w.conv ? d_conv : nullptr;
    if (w.pair.P) {
      const PairArrays<F> pair{x.edge, kept.rows + 1, 4, kept.weight, y.n_slots, x.z, x.rstd, d_edge, d_direction,
                               d_weight};
      good = sums ? pair_update_weights<F>(csr, w.pair, pair, sums->pair, threads)
                  : pair_update_backward<F>(csr, w.pair, pair, threads);
    }
    good = good &&
           (!sums || node_update_weights<F>(N, w.node, x.node, x.conv, x.edge_moment, x.node_moment, x.update, x.self,
                                            d_node, sums->node, threads)) &&
           node_update_backward<F>(N, w.node, x.node, x.edge_moment, x.node_moment, x.update, x.self, d_node, conv,
                                   d_edge_moment, d_node_moment, threads);
    if (l + 1 == y.n_layers && to.d_moment)
      for (int64_t c = 0; c < N * 3 * P; c++) d_edge_moment[c] += to.d_moment[c];
    good = good &&
           (!sums || !conv || conv_weights<F>(csr, P, G, arrays, x.node, conv, sums->conv, threads)) &&
           aggregate_backward<F>(csr, P, G, arrays, x.node, w.conv, w.conv_t, conv, d_node_moment, d_edge_moment,
                                 chunk, receivers, messages, d_edge, d_direction, d_weight, d_node, threads);
    if (l + 1 == y.n_layers && !w.node.has_edge_moment) std::memset(d_edge_moment, 0, sizeof(F) * N * 3 * P);
  }
  for (int64_t c = 0; c < N * G; c++) d_node[c] *= 1 - kept.layers[0].node[c] * kept.layers[0].node[c];
  if (good && to.layers) good = embed_weights<F>(E, P, kept.rows, 4, first_edge, d_edge, to.embedding, threads);
  return good && (!by_geometry ||
                  (embed_backward<F>(E, P, first_edge, d_edge, y.embedding_weight, d_rows, 4, threads) &&
                   environment_backward<F>(N, edges.offsets, edges.types, edges.vectors, y.environment, d_rows,
                                           d_weight, edges.index, to.vectors, threads)));
}

// The block by itself, from `start` (N, G). Without memory, measures what it needs.
template <class F>
bool repformer_alone(const Edges& edges, const RepformerWeights<F>& y, int64_t keep, Arena& kept, Arena& work,
                     const F* start, F* node, F* moment, int threads) {
  kept.used = work.used = 0;
  const KeptRepformer<F> x(kept, work, edges, y, keep);
  if (!kept.data) return true;
  std::memcpy(x.layers[0].node, start, sizeof(F) * edges.n_atoms * y.G);
  return repformer<F>(edges, y, x, node, moment, threads);
}

template <class F>
bool repformer_alone_backward(const Edges& edges, const RepformerWeights<F>& y, int64_t keep, Arena& kept, Arena& work,
                              const RepformerGradients<F>& to, int64_t chunk, int threads) {
  kept.used = work.used = 0;
  const KeptRepformer<F> x(kept, work, edges, y, keep);
  return repformer_backward<F>(edges, y, x, to, chunk, work, threads);
}
