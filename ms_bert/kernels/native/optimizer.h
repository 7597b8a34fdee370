// One pass over a parameter for each thing that an optimizer does to it.
#pragma once

#include <cmath>
#include <numeric>

#include "simd.h"
#include "threads.h"

namespace ms_bert {
namespace MS_BERT_ISA {

constexpr int64_t PIECE = 1 << 14;

inline float squares(int64_t count, const float *x) {
  Floats total[4]{};
  int64_t j = 0;
  for (; j + 4 * W <= count; j += 4 * W)
    for (int i = 0; i < 4; i++) {
      const Floats v = load(x + j + i * W);
      total[i] += v * v;
    }
  along(count - j, [&](int64_t i, int k) {
    const Floats v = get(x + j + i, k);
    total[0] += v * v;
  });
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

// Sums of pieces, which are added in double in their order, whatever the threads.
class Sums {
 public:
  explicit Sums(int64_t count) : pieces_((count + PIECE - 1) / PIECE), sums_(new double[pieces_]) {}
  double &of(int64_t begin) { return sums_[begin / PIECE]; }
  double total() const { return std::accumulate(sums_.get(), sums_.get() + pieces_, 0.0); }

 private:
  int64_t pieces_;
  std::unique_ptr<double[]> sums_;
};

inline float sum_of_squares(int64_t count, const float *x) {
  Sums sums(count);
  parallel_pieces(count, PIECE, [&](int64_t begin, int64_t end) { sums.of(begin) = squares(end - begin, x + begin); });
  return static_cast<float>(sums.total());
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

struct Lamb {
  float rate, beta1, rest1, beta2, rest2, epsilon, decay, factor;  // rest: 1 - beta
  float inverse1, root2;  // by which the first moment and the root of the second are multiplied, for their bias
  bool adapted;           // whether the rate is multiplied by the trust ratio

  // p, m and v in place: see `stock.lamb_update`. The direction is computed twice, for its norm and for the update:
  // that is less work than to write it down and to read it.
  void update(int64_t count, float *p, float *m, float *v, const float *gradient) const {
    const Lamb a = *this;
    Sums of_p(count), of_direction(count);
    parallel_pieces(count, PIECE, [&](int64_t begin, int64_t end) {
      Floats squares_of_p{}, squares_of_direction{};
      along(end - begin, [&](int64_t i, int k) {
        const int64_t j = begin + i;
        const Floats g = get(gradient + j, k) * a.factor, before = get(p + j, k);
        const Floats new_m = a.beta1 * get(m + j, k) + a.rest1 * g, new_v = a.beta2 * get(v + j, k) + a.rest2 * g * g;
        put(m + j, new_m, k);
        put(v + j, new_v, k);
        const Floats direction = a.direction(before, new_m, new_v);
        if (!a.adapted) put(p + j, before - a.rate * direction, k);
        squares_of_p += before * before;
        squares_of_direction += direction * direction;
      });
      of_p.of(begin) = sum(squares_of_p);
      of_direction.of(begin) = sum(squares_of_direction);
    });
    if (!adapted) return;
    const float norm = std::sqrt(of_p.total()), other = std::sqrt(of_direction.total());
    const float step = norm > 0.0f && other > 0.0f ? rate * (norm / other) : rate;
    parallel_pieces(count, PIECE, [&](int64_t begin, int64_t end) {
      along(end - begin, [&](int64_t i, int k) {
        const int64_t j = begin + i;
        const Floats before = get(p + j, k);
        put(p + j, before - step * a.direction(before, get(m + j, k), get(v + j, k)), k);
      });
    });
  }

 private:
  // Beyond the end of a row all are 0, and so is the direction, for epsilon is not.
  MS_BERT_INLINE Floats direction(Floats p, Floats m, Floats v) const {
    Floats root;
    for (int i = 0; i < W; i++) root[i] = std::sqrt(v[i]);
    return m * inverse1 / (root * root2 + epsilon) + decay * p;
  }
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
