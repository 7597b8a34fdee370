// A linear layer for inference: its weight is packed once, in the order in which products read it.
#pragma once

#include <initializer_list>
#include <vector>

#include "linear.h"

namespace ms_bert {
namespace MS_BERT_ISA {

// Rows of a block of the first factor: at most so many, which stay in a second-level cache while all panels pass; and
// at least so many, if there are more, so that each thread has some of its own.
constexpr int64_t MOST_ROWS = (192 + MR - 1) / MR * MR, FEWEST_ROWS = 64, BLOCK = 1 << 17;  // the last one: units

// In rows of so many columns all tiles are whole.
inline int64_t in_tiles(int64_t columns) { return (columns + NR - 1) / NR * NR; }

// x (rows, inputs) weight (outputs, inputs)^T. Panels of NR outputs one after the other; missing outputs are 0, in the
// bias too.
class Packed {
 public:
  // Several layers of one input, side by side.
  Packed(int64_t inputs, int64_t outputs, std::initializer_list<const float *> weights,
         std::initializer_list<const float *> biases)
      : inputs_(inputs), outputs_(outputs * weights.size()), units_(units_of(inputs)),
        weight_(in_tiles(outputs_) * units_), bias_(in_tiles(outputs_)) {
    std::vector<float> stacked;
    const float *all = *weights.begin();
    if (weights.size() > 1) {
      for (const float *weight : weights) stacked.insert(stacked.end(), weight, weight + outputs * inputs);
      all = stacked.data();
    }
    for (int64_t n = 0; n < outputs_; n += NR)
      pack_b(transposed(all + n * inputs, inputs), inputs, std::min<int64_t>(NR, outputs_ - n), panel(n / NR));
    float *bias = bias_.get();
    for (const float *own : biases) bias = std::copy(own, own + outputs, bias);
    std::fill(bias, bias_.get() + in_tiles(outputs_), 0.0f);
  }

  // Of x (rows, inputs), whose rows lie `row` apart, times the weight, and the bias: for each row and NR columns from
  // one on, finish(row, column, the first half of them, the second half); and for rows that are finished, while they
  // are near, done(first, end).
  template <typename T, typename F, typename D>
  void product(int64_t rows, const T *x, int64_t row, F finish, D done) const {
    if (rows == 0) return;
    const int64_t fitting = std::max<int64_t>(MR, BLOCK / (chunks() * STRIDE) / MR * MR);
    const int64_t most = std::min(MOST_ROWS, fitting);
    const int64_t wanted = threads(), panels = in_tiles(outputs_) / NR;
    const int64_t least = std::max((rows + most - 1) / most, std::clamp<int64_t>(rows / FEWEST_ROWS, 1, wanted));
    const int64_t down = least > wanted ? Cut::rounded(least, static_cast<int>(wanted)) : least;  // as many for each
    const int64_t high = (rows + down - 1) / down, blocks = (rows + high - 1) / high;
    const int64_t across = (wanted + blocks - 1) / blocks;
    const int64_t wide = (panels + across - 1) / across, pieces = (panels + wide - 1) / wide;
    parallel(blocks * pieces, [&](int64_t task) {
      const int64_t m = task / pieces * high, first = task % pieces * wide;
      part(std::min(high, rows - m), x + m * row, row, first, std::min(panels, first + wide),
           [&](int64_t i, int64_t n, Floats a, Floats b) { finish(m + i, n, a, b); });
      if (pieces == 1) done(m, std::min(rows, m + high));
    });
    if (pieces > 1) parallel_pieces(rows, 16, done);
  }

 private:
  template <typename T, typename F>
  void part(int64_t rows, const T *x, int64_t row, int64_t first, int64_t end, F finish) const {
    // The rows in pieces of a panel's depth, a piece of all rows after the other.
    Unit *block = reinterpret_cast<Unit *>(scratch(rows * chunks() * STRIDE));
    for (int64_t c = 0; c < chunks(); c++) {
      const int deep = static_cast<int>(std::min<int64_t>(KC, inputs_ - c * KC));
      for (int64_t i = 0; i < rows; i++) pack_row(x + i * row + c * KC, deep, block + (c * rows + i) * STRIDE);
    }
    for (int64_t j = first; j < end; j++) {
      const Unit *weight = panel(j);
      const Floats bias[] = {load(bias_.get() + j * NR), load(bias_.get() + j * NR + W)};
      // Tiles of about the same height, for one of few rows is no faster than a higher one.
      const int64_t tiles = (rows + MR - 1) / MR;
      for (int64_t t = 0; t < tiles; t++) {
        const int64_t m = t * rows / tiles;
        const int high = static_cast<int>((t + 1) * rows / tiles - m);
        alignas(64) float sums[MR * NR];
        for (int64_t c = 0; c < chunks(); c++) {
          // Weights come from memory, each once: the next panel is fetched while this one is computed with first.
          const Tile compute = t == 0 ? tile_of<STRIDE, 1, true>(high) : tile_of<STRIDE, 1>(high);
          compute(static_cast<int>(std::min<int64_t>(KU, units_ - c * KU)), block + (c * rows + m) * STRIDE,
                  weight + c * KU * NR, sums, NR, c > 0, weight + (units_ + c * KU) * NR);
        }
        for (int i = 0; i < high; i++)
          finish(m + i, j * NR, load(sums + i * NR) + bias[0], load(sums + i * NR + W) + bias[1]);
      }
    }
  }

  int64_t chunks() const { return (units_ + KU - 1) / KU; }
  Unit *panel(int64_t j) const { return reinterpret_cast<Unit *>(weight_.get()) + j * units_ * NR; }

  int64_t inputs_, outputs_, units_;
  Memory weight_, bias_;
};

// What becomes of a product: it is put into rows of x.
template <typename T>
auto into(T *x, int64_t row) {
  return [x, row](int64_t i, int64_t n, Floats a, Floats b) {
    store(x + i * row + n, a);
    store(x + i * row + n + W, b);
  };
}

inline void nothing(int64_t, int64_t) {}  // of rows that are finished

// The same, and a residual is added before.
inline auto onto(const float *residual, float *x, int64_t row) {
  return [residual, x, row](int64_t i, int64_t n, Floats a, Floats b) {
    const int64_t place = i * row + n;
    store(x + place, a + load(residual + place));
    store(x + place + W, b + load(residual + place + W));
  };
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
