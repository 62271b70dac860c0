// The plain C interface: raw pointers and sizes, one function per kernel and precision, 0 on success.
//
// Compiled once per instruction set; `library.py` loads the best one that runs here. No PyTorch headers are needed, so
// the libraries work with any version of it.
#include "attention_backward.hpp"
#include "descriptor.hpp"
#include "edge_features.hpp"
#include "forces.hpp"
#include "near.hpp"
#include "three_body_gradients.hpp"

#if defined(__GNUC__)
#define API extern "C" __attribute__((visibility("default")))
#else
#define API extern "C"
#endif

API int dpa2_interface() { return 6; }  // raised when a signature changes
API int dpa2_vector_bytes() { return DPA2_BYTES; }

API int dpa2_find_near(int64_t n_atoms, const Listed* list, double cutoff, double inner, uint8_t* kinds, Near* all,
                       Near* close, int threads) {
  return !find_near(n_atoms, *list, cutoff, inner, kinds, *all, *close, threads);
}
API int dpa2_pull_back(int64_t n_atoms, int64_t n_structures, const int64_t* offsets, const int64_t* neighbor,
                       const int64_t* structure, const double* vectors, const double* gradient, double* forces,
                       double* virials, int) {
  pull_back(Csr{n_atoms, offsets, neighbor}, n_structures, structure, vectors, gradient, forces, virials);
  return 0;
}

#define KERNELS(F, NAME)                                                                                               \
  API int dpa2_environment_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* types,                       \
                                  const double* vectors, const EnvironmentOptions* options, F* rows, F* weight,        \
                                  double* argument, int threads) {                                                     \
    return !environment<F>(n_atoms, offsets, types, vectors, *options, rows, weight, argument, threads);               \
  }                                                                                                                    \
  API int dpa2_environment_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* types,              \
                                           const double* vectors, const EnvironmentOptions* options,                   \
                                           const F* d_rows, const F* d_weight, double* gradient, int threads) {        \
    return !environment_backward<F>(n_atoms, offsets, types, vectors, *options, d_rows, d_weight, nullptr, gradient,   \
                                    threads);                                                                          \
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
                                       const F* d_moment, F* d_rows, F* d_weight, int threads) {                       \
    return !moments_backward<F>(Csr{n_atoms, offsets, neighbor}, types, *features, n_rows, rows, argument, weight,     \
                                scale, d_moment, d_rows, d_weight, threads);                                           \
  }                                                                                                                    \
  API int dpa2_three_body_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,                     \
                                 const int64_t* types, const ThreeBodyOptions<F>* options, const F* angular,           \
                                 int64_t stride, const F* weight, double scale, F* out, int64_t* outside,              \
                                 int threads) {                                                                        \
    return !sum_triples<F>(Csr{n_atoms, offsets, neighbor}, types, *options, angular, stride, weight, scale, out,        \
                           outside, threads);                                                                          \
  }                                                                                                                    \
  API int dpa2_three_body_backward_##NAME(int64_t n_atoms, const int64_t* offsets, const int64_t* neighbor,            \
                                          const int64_t* types, const ThreeBodyOptions<F>* options, const F* angular,  \
                                          int64_t stride, const F* weight, double scale, const F* d_out,               \
                                          F* d_angular, F* d_weight, int threads) {                                    \
    return !sum_triples_backward<F>(Csr{n_atoms, offsets, neighbor}, types, *options, angular, stride, weight, scale,    \
                                    d_out, d_angular, d_weight, threads);                                              \
  }                                                                                                                    \
  API int dpa2_repformer_##NAME(const Edges* edges, const RepformerWeights<F>* weights, int64_t keep, Arena* kept,       \
                                Arena* work, const F* start, F* node, F* moment, int threads) {                        \
    return !repformer_alone<F>(*edges, *weights, keep, *kept, *work, start, node, moment, threads);                    \
  }                                                                                                                    \
  API int dpa2_repformer_backward_##NAME(const Edges* edges, const RepformerWeights<F>* weights, int64_t keep,         \
                                         Arena* kept, Arena* work, const RepformerGradients<F>* gradients,             \
                                         int64_t chunk, int threads) {                                                 \
    return !repformer_alone_backward<F>(*edges, *weights, keep, *kept, *work, *gradients, chunk, threads);             \
  }                                                                                                                    \
  API int dpa2_descriptor_##NAME(const DescriptorEdges* edges, const InitializerWeights<F>* initializer,               \
                                 const RepformerWeights<F>* weights, int64_t keep, Arena* kept, Arena* work, F* node,  \
                                 F* moment, int64_t* outside, int threads) {                                           \
    return !descriptor<F>(*edges, *initializer, *weights, keep, *kept, *work, node, moment, outside, threads);         \
  }                                                                                                                    \
  API int dpa2_descriptor_backward_##NAME(const DescriptorEdges* edges, const InitializerWeights<F>* initializer,      \
                                          const RepformerWeights<F>* weights, int64_t keep, Arena* kept, Arena* work,  \
                                          const F* d_node, const F* d_moment, double* gradient, int64_t chunk,         \
                                          int threads) {                                                               \
    return !descriptor_backward<F>(*edges, *initializer, *weights, keep, *kept, *work, d_node, d_moment, gradient,     \
                                   chunk, threads);                                                                    \
  }                                                                                                                    \
  API int dpa2_dense_##NAME(int64_t n_rows, const DenseWeights<F>* weights, const F* x, F* active, F* out,             \
                            int threads) {                                                                             \
    return !dense<F>(n_rows, *weights, x, active, out, threads);                                                       \
  }                                                                                                                    \
  API int dpa2_dense_backward_##NAME(int64_t n_rows, const DenseWeights<F>* weights, const F* active, const F* d_out,  \
                                     F* d_x, int threads) {                                                            \
    return !dense_backward<F>(n_rows, *weights, active, d_out, d_x, threads);                                          \
  }                                                                                                                    \
  API int dpa2_net_##NAME(int64_t n_rows, int64_t n_layers, const DenseWeights<F>* layers, const F* x, F* out,          \
                          F* slope, int threads) {                                                                     \
    return !net<F>(n_rows, n_layers, layers, x, out, slope, threads);                                                  \
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
