// One pass over a parameter for each thing that an optimizer does to it.
#pragma once

#include <cmath>

#include "simd.h"
#include "threads.h"

namespace ms_bert {
namespace MS_BERT_ISA {

constexpr int64_t PIECE = 1 << 14;

// The sum of squares of x, in pieces whose sums are added in double, whatever the threads.
inline float sum_of_squares(int64_t count, const float *x) {
  const int64_t pieces = (count + PIECE - 1) / PIECE;
  std::unique_ptr<double[]> sums(new double[pieces]);
  parallel_pieces(count, PIECE, [&](int64_t begin, int64_t end) {
    Floats total[4]{};
    int64_t j = begin;
    for (; j + 4 * W <= end; j += 4 * W)
      for (int i = 0; i < 4; i++) {
        const Floats v = load(x + j + i * W);
        total[i] += v * v;
      }
    along(end - j, [&](int64_t i, int k) {
      const Floats v = get(x + j + i, k);
      total[0] += v * v;
    });
    sums[begin / PIECE] = sum((total[0] + total[1]) + (total[2] + total[3]));
  });
  double total = 0.0;
  for (int64_t i = 0; i < pieces; i++) total += sums[i];
  return static_cast<float>(total);
}

struct Adam {
  float rate, beta1, rest1, beta2, rest2, epsilon, decay, factor;  // rest: 1 - beta

  // p, m and v in place: see `stock.adam_update`; the gradient is multiplied by `factor`.
  void update(int64_t count, float *p, float *m, float *v, const float *gradient) const {
    parallel_pieces(count, PIECE, [&](int64_t begin, int64_t end) {
      const Adam a = *this;
      for (int64_t j = begin; j < end; j++) {
        const float g = gradient[j] * a.factor;
        const float new_m = a.beta1 * m[j] + a.rest1 * g, new_v = a.beta2 * v[j] + a.rest2 * g * g;
        m[j] = new_m;
        v[j] = new_v;
        p[j] -= a.rate * (new_m / (std::sqrt(new_v) + a.epsilon) + a.decay * p[j]);
      }
    });
  }
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
