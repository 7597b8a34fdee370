// The scores over a vocabulary and their cross-entropy, in one buffer.
#pragma once

#include <cmath>

#include "linear.h"

namespace ms_bert {
namespace MS_BERT_ISA {

// losses (rows) = -log softmax(x weight^T + bias)[label]; correct (rows): 1 where the label's score is the largest (the
// first of them); slopes (rows, outputs) = softmax - one-hot of the label, the gradient of a loss by the scores. A
// label that is none gives NaN.
inline void linear_cross_entropy(Shape s, const float *x, const float *weight, const float *bias, const int32_t *labels,
                                 float *losses, float *correct, Kept *slopes) {
  // Slopes that are floats take the place of their scores. Else scores are there for some rows only, for as many as are
  // worth the packing of the weight.
  constexpr bool in_place = std::is_same_v<Kept, float>;
  const int64_t some = in_place ? s.rows : std::min<int64_t>(s.rows, 256);
  float *memory = in_place ? nullptr : scratch(some * s.outputs, 1);
  for (int64_t first = 0; first < s.rows; first += some) {
    const int64_t count = std::min(some, s.rows - first);
    float *scores = in_place ? reinterpret_cast<float *>(slopes) : memory;
    linear({count, s.inputs, s.outputs}, x + first * s.inputs, 1, &weight, &bias, &scores);
    parallel(count, [&](int64_t i) {
      float *row = scores + i * s.outputs;
      Kept *slope = slopes + (first + i) * s.outputs;
      const int32_t label = labels[first + i];
      const float lowest = -__builtin_inff();
      Floats most = all(lowest);
      along(s.outputs, [&](int64_t j, int k) {
        const Floats v = get(row + j, k, lowest);
        most = select(v > most, v, most);
      });
      const float top = largest(most);
      const bool known = label >= 0 && label < s.outputs;
      const float score = known ? row[label] : __builtin_nanf("");
      correct[first + i] = score == top && std::find(row, row + s.outputs, top) - row == label;
      Floats total{};
      along(s.outputs, [&](int64_t j, int k) {
        const Floats e = exponential(get(row + j, k, lowest) - top);
        total += e;
        put(row + j, e, k);
      });
      const float all_of_it = sum(total), inverse = 1.0f / all_of_it;
      losses[first + i] = std::log(all_of_it) - (score - top);
      if (known) row[label] -= all_of_it;
      along(s.outputs, [&](int64_t j, int k) { put(slope + j, get(row + j, k) * inverse, k); });
    });
  }
}

inline void linear_cross_entropy_gradient(Shape s, const float *dlosses, const Kept *slopes, const float *x,
                                          const float *weight, float *dx, float *dweight, float *dbias) {
  multiply(s.rows, s.inputs, s.outputs, rows_of(slopes, s.outputs), rows_of(weight, s.inputs), dx, false,
           [&](int64_t m, int64_t high, int64_t n, int64_t wide) {
             for (int64_t i = m; i < m + high; i++) {
               float *row = dx + i * s.inputs + n;
               along(wide, [&](int64_t j, int k) { put(row + j, get(row + j, k) * dlosses[i], k); });
             }
           });
  // The rows of x are scaled rather than those of the slopes, which are longer.
  float *scaled = scratch(s.rows * s.inputs);
  for (int64_t i = 0; i < s.rows; i++)
    along(s.inputs,
          [&](int64_t j, int k) { put(scaled + i * s.inputs + j, get(x + i * s.inputs + j, k) * dlosses[i], k); });
  multiply(s.outputs, s.inputs, s.rows, transposed(slopes, s.outputs), rows_of<float>(scaled, s.inputs), dweight);
  parallel_pieces(s.outputs, 1024, [&](int64_t begin, int64_t end) {
    std::fill(dbias + begin, dbias + end, 0.0f);
    for (int64_t i = 0; i < s.rows; i++)
      along(end - begin, [&](int64_t j, int k) {
        const Floats more = get(slopes + i * s.outputs + begin + j, k) * dlosses[i];
        put(dbias + begin + j, get(dbias + begin + j, k) + more, k);
      });
  });
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
