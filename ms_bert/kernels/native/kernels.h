// The kernels by name, and how MindSpore hands them their arrays.
#pragma once

#include <cstdint>

// clang-format off: a kernel and its gradient stand on one line
// Every kernel of the library; `MS_BERT_KERNELS(X)` expands X(name) for each.
#define MS_BERT_KERNELS(X)                                             \
  X(linear) X(linear_gradient)                                         \
  X(projections) X(projections_gradient)                               \
  X(linear_gelu) X(linear_gelu_gradient)                               \
  X(linear_gelu_new) X(linear_gelu_new_gradient)                       \
  X(linear_relu) X(linear_relu_gradient)                               \
  X(linear_dropout_add_norm) X(linear_dropout_add_norm_gradient)       \
  X(layer_norm) X(layer_norm_gradient)                                 \
  X(embed) X(embed_gradient)                                           \
  X(attention) X(attention_gradient)                                   \
  X(linear_cross_entropy) X(linear_cross_entropy_gradient)             \
  X(sums_of_squares) X(adam) X(lamb_moments) X(lamb_update)
// clang-format on

namespace ms_bert {

// The arrays of one call, inputs first, then outputs, in the order that `ms_bert/kernels/fused.py` gives them.
struct Arrays {
  void **data;
  const int *ranks;
  int64_t **shapes;
  const float *floats(int i) const { return static_cast<const float *>(data[i]); }
  const int32_t *ints(int i) const { return static_cast<const int32_t *>(data[i]); }
  float *out(int i) const { return static_cast<float *>(data[i]); }
  int64_t size(int i, int axis) const { return shapes[i][axis]; }
  int64_t count(int i) const {
    int64_t n = 1;
    for (int axis = 0; axis < ranks[i]; axis++) n *= shapes[i][axis];
    return n;
  }
};

// Of an encoder; its arrays stand in the order that `native/encoder.py` gives them.
struct EncoderShape {
  int64_t layers, heads, width, inner;
  int64_t entries[3];  // of the tables of words, token types and positions
  int64_t activation;  // 0: gelu, 1: gelu_new, 2: relu
  bool causal;
  float epsilon;
};

// What an encoder is asked.
struct Encoded {
  int64_t sequences;
  const int64_t *starts;       // (sequences + 1): where each begins
  const int32_t *ids, *types;  // (tokens)
  const int32_t *positions;    // (tokens); null for 0, 1, ... in each sequence
  float *const *states;        // (layers + 1): (tokens, width) each, the embeddings first; null where nobody asks
  int64_t reads;
  const int64_t *read;  // (reads): tokens, ascending, whose last hidden states are asked
  float *found;         // (reads, width)
};

struct Kernels {
  void *(*make_encoder)(const EncoderShape &, const float *const *arrays);
  void (*encode)(const void *encoder, const Encoded &);
  void (*free_encoder)(void *encoder);
  double (*product_seconds)();  // of a row of one that stays in the nearest caches, the shortest of some
#define MS_BERT_DECLARE(name) void (*name)(const Arrays &);
  MS_BERT_KERNELS(MS_BERT_DECLARE)
#undef MS_BERT_DECLARE
};

// For each instruction set that the library was built for. The products of those on bf16 multiply bfloat16, and those
// on vnni and int8 have nothing but an encoder, which multiplies bytes.
namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace baseline { extern const Kernels kernels; }
namespace avx512_bf16 { extern const Kernels kernels; }
namespace baseline_bf16 { extern const Kernels kernels; }
namespace amx_bf16 { extern const Kernels kernels; }
namespace tiles_by_hand_bf16 { extern const Kernels kernels; }
namespace avx512_vnni { extern const Kernels kernels; }
namespace baseline_int8 { extern const Kernels kernels; }
namespace amx_int8 { extern const Kernels kernels; }
namespace tiles_by_hand_int8 { extern const Kernels kernels; }

}  // namespace ms_bert
