// One pass over a parameter for each thing that an optimizer does to it.
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

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

// The tiles of an array, as ms_bert/tiles.py has them, and in them pieces, each of which some thread takes: what is
// summed over a piece is added up in double in the order of the pieces, whatever the threads.
class ParameterTiles {
 public:
  ParameterTiles(int64_t count, int64_t row)
      : count_(count), size_(std::max<int64_t>(1, VALUES / row) * row), pieces_((size_ + PIECE - 1) / PIECE) {}

  // f(number, begin, end) for each piece, some of which are empty: begin is at end then.
  template <typename F>
  void run(F f) const {
    parallel(tiles() * pieces_, [&](int64_t i) {
      const int64_t first = i / pieces_ * size_, end = std::min(count_, first + size_);
      const int64_t begin = std::min(end, first + i % pieces_ * PIECE);
      f(i, begin, std::min(end, begin + PIECE));
    });
  }

  int64_t tiles() const { return (count_ + size_ - 1) / size_; }
  std::vector<double> sums() const { return std::vector<double>(tiles() * pieces_); }  // one for each piece
  float of_tile(int64_t tile, const std::vector<double> &sums) const {
    const double *own = sums.data() + tile * pieces_;
    return static_cast<float>(std::accumulate(own, own + pieces_, 0.0));
  }

 private:
  static constexpr int64_t VALUES = 1 << 20;
  int64_t count_, size_, pieces_;
};

// Of each tile of x, rows of so many values, to `out`.
inline void sums_of_squares(int64_t count, int64_t row, const float *x, float *out) {
  const ParameterTiles tiles(count, row);
  std::vector<double> sums = tiles.sums();
  tiles.run([&](int64_t i, int64_t begin, int64_t end) { sums[i] = squares(end - begin, x + begin); });
  for (int64_t t = 0; t < tiles.tiles(); t++) out[t] = tiles.of_tile(t, sums);
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

  // m and v in place: see `stock.lamb_moments`. The squares of p and of its direction, of each tile, to `norms`.
  void moments(int64_t count, int64_t row, const float *p, float *m, float *v, const float *gradient,
               float *norms) const {
    const Lamb a = *this;
    const ParameterTiles tiles(count, row);
    std::vector<double> of_p = tiles.sums(), of_direction = tiles.sums();
    tiles.run([&](int64_t piece, int64_t begin, int64_t end) {
      Floats squares_of_p{}, squares_of_direction{};
      along(end - begin, [&](int64_t i, int k) {
        const int64_t j = begin + i;
        const Floats g = get(gradient + j, k) * a.factor, before = get(p + j, k);
        const Floats new_m = a.beta1 * get(m + j, k) + a.rest1 * g, new_v = a.beta2 * get(v + j, k) + a.rest2 * g * g;
        put(m + j, new_m, k);
        put(v + j, new_v, k);
        const Floats direction = a.direction(before, new_m, new_v);
        squares_of_p += before * before;
        squares_of_direction += direction * direction;
      });
      of_p[piece] = sum(squares_of_p);
      of_direction[piece] = sum(squares_of_direction);
    });
    for (int64_t t = 0; t < tiles.tiles(); t++) {
      norms[2 * t] = tiles.of_tile(t, of_p);
      norms[2 * t + 1] = tiles.of_tile(t, of_direction);
    }
  }

  // p in place: see `stock.lamb_update`. The direction is computed once more: that is less work than to write it down
  // and to read it. Norms: of all tiles of the parameter, of which p may be one; none: its rate is not adapted.
  void update(int64_t count, float *p, const float *m, const float *v, int64_t tiles, const float *norms) const {
    double of_p = 0.0, of_direction = 0.0;
    for (int64_t t = 0; t < tiles; t++) {
      of_p += norms[2 * t];
      of_direction += norms[2 * t + 1];
    }
    const float norm = std::sqrt(of_p), other = std::sqrt(of_direction);
    const float step = norm > 0.0f && other > 0.0f ? rate * (norm / other) : rate;
    const Lamb a = *this;
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
