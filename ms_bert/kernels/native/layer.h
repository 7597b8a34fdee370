// A whole encoder layer for inference: what the other kernels do one after the other, with nothing kept for a gradient.
#pragma once

#include "attention.h"
#include "linear.h"

namespace ms_bert {
namespace MS_BERT_ISA {

struct Dense {
  const float *weight, *bias;
};

struct EncoderLayer {
  int64_t batch, tokens, heads, width, inner;
  bool causal;
  Dense query, key, value, output, widening, narrowing;
  Norm attention_norm, norm;

  int64_t rows() const { return batch * tokens; }

  // y (rows, width) from x (rows, width), ids (batch, tokens); memory: rows * (5 width + inner + 2 heads + 1) floats.
  template <typename Function>
  void forward(const float *x, const int32_t *ids, float *y, float *memory) const {
    const int64_t size = rows() * width;
    float *q = memory, *k = q + size, *v = k + size, *context = v + size, *attended = context + size;
    float *wide = attended + size, *statistics = wide + rows() * inner, *scales = statistics + 2 * rows() * heads;
    const Dropout none;
    const float *weights[] = {query.weight, key.weight, value.weight}, *biases[] = {query.bias, key.bias, value.bias};
    float *projected[] = {q, k, v};
    const Shape square{rows(), width, width};
    linear(square, x, 3, weights, biases, projected);
    Attention(batch, tokens, heads, width, {q, k, v, width}, ids, none, nullptr, nullptr, causal)
        .forward(context, statistics);
    linear_dropout_add_norm(square, context, output.weight, output.bias, x, attention_norm, none, nullptr, nullptr,
                            attended, q, scales);
    linear_activation<Function>({rows(), width, inner}, attended, widening.weight, widening.bias, wide, wide);
    linear_dropout_add_norm({rows(), inner, width}, wide, narrowing.weight, narrowing.bias, attended, norm, none,
                            nullptr, nullptr, y, q, scales);
  }
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
