// The plain C interface: raw pointers and sizes, one function per kernel and precision, 0 on success.
//
// Compiled once per instruction set; `library.py` loads the best one that runs here. No PyTorch headers are needed, so
// the libraries work with any version of it.
#include "attention_backward.hpp"
#include "dense.hpp"
#include "edge_features.hpp"
#include "environment.hpp"
#include "near.hpp"
#include "tables.hpp"
#include "three_body_gradients.hpp"
#include "weight_gradients.hpp"

#if defined(__GNUC__)
#define API extern "C" __attribute__((visibility("default")))
#else
#define API extern "C"
#endif

API int dpa2_interface() { return 4; }  // raised when a signature changes
API int dpa2_vector_bytes() { return DPA2_BYTES; }

API int dpa2_find_receivers(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor, int64_t chunk,
                            const Receivers* receivers, int threads) {
  return !find_receivers(Csr{n_atoms, offsets, neighbor}, chunk, *receivers, threads);
}

API int dpa2_find_near(int64_t n_atoms, const Listed* list, double cutoff, double inner, double* lengths,
                       const Near* all, const Near* close, int threads) {
  return !find_near(n_atoms, *list, cutoff, inner, lengths, *all, *close, threads);
}

// A three-body table of few functions is evaluated with half vectors where they suffice
template <class F> inline bool narrow(int64_t R) { return R % Simd<F>::lanes != 0; }

#define KERNELS(F, NAME)                                                                                               \
  API int dpa2_environment_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* types,                       \
                                  const double* vectors, const EnvironmentOptions* options, F* rows, F* weight,        \
                                  double* argument, int threads) {                                                     \
    return !environment<F>(n_atoms, offsets, types, vectors, *options, rows, weight, argument, threads);               \
  }                                                                                                                    \
  API int dpa2_environment_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* types,              \
                                           const double* vectors, const EnvironmentOptions* options,                   \
                                           const F* d_rows, const F* d_weight, double* gradient, int threads) {        \
    return !environment_backward<F>(n_atoms, offsets, types, vectors, *options, d_rows, d_weight, gradient, threads);  \
  }                                                                                                                    \
  API int dpa2_moments_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor, const int64_t* types,  \
                              const Features<F>* features, int64_t n_rows, const F* rows, const double* argument,      \
                              const F* weight, double scale, F* moment, int64_t* outside, int threads) {               \
    return !moments<F>(Csr{n_atoms, offsets, neighbor}, types, *features, n_rows, rows, argument, weight, scale,       \
                       moment, outside, threads);                                                                      \
  }                                                                                                                    \
  API int dpa2_moments_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,               \
                                       const int64_t* types, const Features<F>* features, int64_t n_rows,              \
                                       const F* rows, const double* argument, const F* weight, double scale,           \
                                       const F* d_moment, F* d_rows, F* d_argument, F* d_weight, int threads) {        \
    return !moments_backward<F>(Csr{n_atoms, offsets, neighbor}, types, *features, n_rows, rows, argument, weight,     \
                                scale, d_moment, d_rows, d_argument, d_weight, threads);                               \
  }                                                                                                                    \
  API int dpa2_three_body_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,                     \
                                 const int64_t* types, const ThreeBodyOptions<F>* options, const F* angular,           \
                                 int64_t stride, const F* weight, double scale, F* out, int64_t* outside,              \
                                 int threads) {                                                                        \
    const Csr csr{n_atoms, offsets, neighbor};                                                                         \
    return !(narrow<F>(options->table.R)                                                                               \
                 ? three_body<F, Simd<F>::Half>(csr, types, *options, angular, stride, weight, scale, out, outside,    \
                                                threads)                                                               \
                 : three_body<F, Full<F>>(csr, types, *options, angular, stride, weight, scale, out, outside, threads));\
  }                                                                                                                    \
  API int dpa2_three_body_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,            \
                                          const int64_t* types, const ThreeBodyOptions<F>* options, const F* angular,  \
                                          int64_t stride, const F* weight, double scale, const F* d_out,               \
                                          F* d_angular, F* d_weight, int threads) {                                    \
    const Csr csr{n_atoms, offsets, neighbor};                                                                         \
    return !(narrow<F>(options->table.R)                                                                               \
                 ? three_body_backward<F, Simd<F>::Half>(csr, types, *options, angular, stride, weight, scale, d_out,  \
                                                         d_angular, d_weight, threads)                                 \
                 : three_body_backward<F, Full<F>>(csr, types, *options, angular, stride, weight, scale, d_out,        \
                                                   d_angular, d_weight, threads));                                     \
  }                                                                                                                    \
  API int dpa2_embed_##NAME(int64_t n_edges, int64_t P, const F* x, int64_t stride, const F* weight, const F* bias,    \
                            F* g, int threads) {                                                                       \
    return !embed<F>(n_edges, P, x, stride, weight, bias, g, threads);                                                 \
  }                                                                                                                    \
  API int dpa2_embed_backward_##NAME(int64_t n_edges, int64_t P, const F* g, const F* d_g, const F* weight, F* d_x,    \
                                     int64_t stride, int threads) {                                                    \
    return !embed_backward<F>(n_edges, P, g, d_g, weight, d_x, stride, threads);                                       \
  }                                                                                                                    \
  API int dpa2_aggregate_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor, int64_t P,           \
                                int64_t G, const EdgeArrays<F>* edges, const F* node, const F* conv_weight, F* conv,   \
                                F* node_moment, F* edge_moment, int threads) {                                         \
    return !aggregate<F>(Csr{n_atoms, offsets, neighbor}, P, G, *edges, node, conv_weight, conv, node_moment,          \
                         edge_moment, threads);                                                                        \
  }                                                                                                                    \
  API int dpa2_aggregate_backward_##NAME(                                                                              \
      int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor, int64_t P, int64_t G,                          \
      const EdgeArrays<F>* edges, const F* node, const F* conv_weight, const F* conv_weight_t, const F* d_conv,        \
      const F* d_node_moment, const F* d_edge_moment, int64_t chunk, const Receivers* receivers, F* messages, F* d_g,  \
      F* d_direction, F* d_weight, F* d_node, int threads) {                                                           \
    return !aggregate_backward<F>(Csr{n_atoms, offsets, neighbor}, P, G, *edges, node, conv_weight, conv_weight_t,     \
                                  d_conv, d_node_moment, d_edge_moment, chunk, *receivers, messages, d_g,              \
                                  d_direction, d_weight, d_node, threads);                                             \
  }                                                                                                                    \
  API int dpa2_pair_update_##NAME(int64_t n_atoms, const int64_t* offsets, const PairWeights<F>* weights, const F* g,  \
                                  const F* direction, int64_t stride, const F* weight, const F* n_dead, F* out,        \
                                  F* kept_z, F* kept_rstd, int threads) {                                              \
    return !pair_update<F>(Csr{n_atoms, offsets, nullptr}, *weights, g, direction, stride, weight, n_dead, out,        \
                           kept_z, kept_rstd, threads);                                                                \
  }                                                                                                                    \
  API int dpa2_pair_update_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const PairWeights<F>* weights,     \
                                           const F* g, const F* direction, int64_t stride, const F* weight,            \
                                           const F* n_dead, const F* kept_z, const F* kept_rstd, F* d,                 \
                                           F* d_direction, F* d_weight, int threads) {                                 \
    const PairArrays<F> x{g, direction, stride, weight, n_dead, kept_z, kept_rstd, d, d_direction, d_weight};          \
    return !pair_update_backward<F>(Csr{n_atoms, offsets, nullptr}, *weights, x, threads);                             \
  }                                                                                                                    \
  API int dpa2_node_update_##NAME(int64_t n_atoms, const NodeWeights<F>* weights, const F* node, const F* conv,        \
                                  const F* edge_moment, const F* node_moment, F* update, F* self, F* out,              \
                                  int threads) {                                                                       \
    return !node_update<F>(n_atoms, *weights, node, conv, edge_moment, node_moment, update, self, out, threads);       \
  }                                                                                                                    \
  API int dpa2_node_update_backward_##NAME(int64_t n_atoms, const NodeWeights<F>* weights, const F* node,              \
                                           const F* edge_moment, const F* node_moment, const F* update, const F* self, \
                                           F* d, F* d_conv, F* d_edge_moment, F* d_node_moment, int threads) {         \
    return !node_update_backward<F>(n_atoms, *weights, node, edge_moment, node_moment, update, self, d, d_conv,              \
                                    d_edge_moment, d_node_moment, threads);                                            \
  }                                                                                                                    \
  API int dpa2_embed_weights_##NAME(int64_t n_edges, int64_t P, const F* x, int64_t stride, const F* g, const F* d_g,  \
                                    const BlockSums<F>* sums, int threads) {                                           \
    return !embed_weights<F>(n_edges, P, x, stride, g, d_g, *sums, threads);                                           \
  }                                                                                                                    \
  API int dpa2_conv_weights_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor, int64_t P,        \
                                   int64_t G, const EdgeArrays<F>* edges, const F* node, const F* d_conv,              \
                                   const BlockSums<F>* sums, int threads) {                                            \
    return !conv_weights<F>(Csr{n_atoms, offsets, neighbor}, P, G, *edges, node, d_conv, *sums, threads);              \
  }                                                                                                                    \
  API int dpa2_pair_update_weights_##NAME(int64_t n_atoms, const int64_t* offsets, const PairWeights<F>* weights,      \
                                          const PairArrays<F>* arrays, const BlockSums<F>* sums, int threads) {        \
    return !pair_update_weights<F>(Csr{n_atoms, offsets, nullptr}, *weights, *arrays, *sums, threads);                 \
  }                                                                                                                    \
  API int dpa2_node_update_weights_##NAME(int64_t n_atoms, const NodeWeights<F>* weights, const F* node,               \
                                          const F* conv, const F* edge_moment, const F* node_moment, const F* update,  \
                                          const F* self, const F* d, const NodeWeightGradients<F>* to, int threads) {  \
    return !node_update_weights<F>(n_atoms, *weights, node, conv, edge_moment, node_moment, update, self, d, *to,      \
                                   threads);                                                                           \
  }                                                                                                                    \
  API int dpa2_dense_##NAME(int64_t n_rows, const DenseWeights<F>* weights, const F* x, F* active, F* out,             \
                            int threads) {                                                                             \
    return !dense<F>(n_rows, *weights, x, active, out, threads);                                                       \
  }                                                                                                                    \
  API int dpa2_dense_backward_##NAME(int64_t n_rows, const DenseWeights<F>* weights, const F* active, const F* d_out,  \
                                     F* d_x, int threads) {                                                            \
    return !dense_backward<F>(n_rows, *weights, active, d_out, d_x, threads);                                          \
  }                                                                                                                    \
  API int dpa2_tanh_##NAME(int64_t n, F* x) {                                                                          \
    tanh_in_place(x, n);                                                                                               \
    return 0;                                                                                                          \
  }                                                                                                                    \
  API int dpa2_exp_##NAME(int64_t n, F* x) {                                                                           \
    exp_in_place(x, n);                                                                                                \
    return 0;                                                                                                          \
  }

KERNELS(double, float64)
KERNELS(float, float32)

#define ATTENTION(F, NAME)                                                                                             \
  API int dpa2_pair_features_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,                   \
                                    const int64_t* types, const Features<F>* features, const double* argument,         \
                                    const F* weight, F* out, int64_t* outside, int threads) {                          \
    return !pair_features<F>(Csr{n_atoms, offsets, neighbor}, types, *features, argument, weight, out, outside,        \
                             threads);                                                                                 \
  }                                                                                                                    \
  API int dpa2_pair_features_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,         \
                                             const int64_t* types, const Features<F>* features,                        \
                                             const double* argument, const F* weight, const F* d_out, F* d_argument,   \
                                             F* d_weight, int threads) {                                               \
    return !pair_features_backward<F>(Csr{n_atoms, offsets, neighbor}, types, *features, argument, weight, d_out,      \
                                      d_argument, d_weight, threads);                                                  \
  }                                                                                                                    \
  API int dpa2_edge_moments_##NAME(int64_t n_atoms, const int64_t* offsets, int64_t C, const F* rows, const F* g,      \
                                   F* moment, int threads) {                                                           \
    return !edge_moments<F>(Csr{n_atoms, offsets, nullptr}, C, rows, g, moment, threads);                              \
  }                                                                                                                    \
  API int dpa2_edge_moments_backward_##NAME(int64_t n_atoms, const int64_t* offsets, int64_t C, const F* rows,         \
                                            const F* g, const F* d_moment, F* d_rows, F* d_g, int threads) {           \
    return !edge_moments_backward<F>(Csr{n_atoms, offsets, nullptr}, C, rows, g, d_moment, d_rows, d_g, threads);      \
  }                                                                                                                    \
  API int dpa2_attend_neighbors_##NAME(int64_t n_atoms, const int64_t* offsets, const AttentionWeights<F>* weights,    \
                                       const AttentionArrays<F>* arrays, F* out, int threads) {                        \
    return !attend_neighbors<F>(Csr{n_atoms, offsets, nullptr}, *weights, *arrays, out, threads);                      \
  }                                                                                                                    \
  API int dpa2_attend_neighbors_backward_##NAME(int64_t n_atoms, const int64_t* offsets,                               \
                                                const AttentionWeights<F>* weights, const AttentionArrays<F>* arrays,  \
                                                const AttentionGradients<F>* gradients, int threads) {                 \
    return !attend_neighbors_backward<F>(Csr{n_atoms, offsets, nullptr}, *weights, *arrays, *gradients, threads);      \
  }

ATTENTION(double, float64)
ATTENTION(float, float32)

// by the width of the features and whether they have factors
#define CHOSEN(F, KERNEL)                                                                                              \
  (narrow<F>(features->R) ? (features->factor ? KERNEL<F, Simd<F>::Half, true> : KERNEL<F, Simd<F>::Half, false>)      \
                          : (features->factor ? KERNEL<F, Full<F>, true> : KERNEL<F, Full<F>, false>))

#define TRAINED_TABLES(F, NAME)                                                                                        \
  API int dpa2_trained_moments_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,                \
                                      const int64_t* types, const TrainedFeatures<F>* features, const F* rows,         \
                                      const double* argument, const F* weight, F* moment, int threads) {               \
    const auto run = features->factor ? trained_moments<F, true> : trained_moments<F, false>;                          \
    return !run(Csr{n_atoms, offsets, neighbor}, types, *features, rows, argument, weight, moment, threads);           \
  }                                                                                                                    \
  API int dpa2_trained_moments_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,       \
                                               const int64_t* types, const TrainedFeatures<F>* features,               \
                                               const F* rows, const double* argument, const F* weight,                 \
                                               const F* d_moment, F* d_rows, F* d_weight, int threads) {               \
    const auto run = features->factor ? trained_moments_backward<F, true> : trained_moments_backward<F, false>;        \
    return !run(Csr{n_atoms, offsets, neighbor}, types, *features, rows, argument, weight, d_moment, d_rows, d_weight, \
                threads);                                                                                              \
  }                                                                                                                    \
  API int dpa2_trained_moments_by_table_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,       \
                                               const int64_t* types, const TrainedFeatures<F>* features,               \
                                               const F* rows, const double* argument, const F* weight,                 \
                                               const F* d_moment, const BlockSums<F>* sums, int threads) {             \
    const auto run = features->factor ? trained_moments_by_table<F, true> : trained_moments_by_table<F, false>;        \
    return !run(Csr{n_atoms, offsets, neighbor}, types, *features, rows, argument, weight, d_moment, *sums, threads);  \
  }                                                                                                                    \
  API int dpa2_trained_three_body_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,             \
                                         const int64_t* types, const TrainedFeatures<F>* features, const F* angular,   \
                                         int64_t stride, const F* weight, double scale, F* out, int threads) {         \
    const auto run = CHOSEN(F, trained_three_body);                                                                    \
    return !run(Csr{n_atoms, offsets, neighbor}, types, *features, angular, stride, weight, scale, out, threads);      \
  }                                                                                                                    \
  API int dpa2_trained_three_body_backward_##NAME(                                                                     \
      int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor, const int64_t* types,                          \
      const TrainedFeatures<F>* features, const F* angular, int64_t stride, const F* weight, double scale,             \
      const F* d_out, F* d_angular, F* d_weight, int threads) {                                                        \
    const auto run = CHOSEN(F, trained_three_body_backward);                                                           \
    return !run(Csr{n_atoms, offsets, neighbor}, types, *features, angular, stride, weight, scale, d_out, d_angular,   \
                d_weight, threads);                                                                                    \
  }                                                                                                                    \
  API int dpa2_trained_three_body_by_table_##NAME(                                                                     \
      int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor, const int64_t* types,                          \
      const TrainedFeatures<F>* features, const F* angular, int64_t stride, const F* weight, double scale,             \
      const F* d_out, const BlockSums<F>* sums, int threads) {                                                         \
    const auto run = CHOSEN(F, trained_three_body_by_table);                                                           \
    return !run(Csr{n_atoms, offsets, neighbor}, types, *features, angular, stride, weight, scale, d_out, *sums,       \
                threads);                                                                                              \
  }

TRAINED_TABLES(double, float64)
TRAINED_TABLES(float, float32)
