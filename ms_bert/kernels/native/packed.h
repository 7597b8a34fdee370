// A linear layer for inference: its weight is packed once, in the order in which products read it.
#pragma once

#include <initializer_list>
#include <vector>

#include "gemm.h"
#include "threads.h"

namespace ms_bert {
namespace MS_BERT_ISA {

// Rows of a block of the first factor: at most so many, which stay in a second-level cache while all panels pass; and
// at least so many, if there are more, so that each thread has some of its own.
constexpr int64_t ROWS = (192 + MR - 1) / MR * MR, FEWEST_ROWS = 64;
static_assert(ROWS / MR * MR * STRIDE <= NC * KU, "a block lies in the workspace of the other factor");

// In rows of so many columns all tiles are whole.
inline int64_t in_tiles(int64_t columns) { return (columns + NR - 1) / NR * NR; }

// x (rows, inputs) weight (outputs, inputs)^T. Panels of NR outputs, of KC inputs each, one after the other; missing
// outputs are 0, in the bias too.
class Packed {
 public:
  // Several layers of one input, side by side.
  Packed(int64_t inputs, int64_t outputs, std::initializer_list<const float *> weights,
         std::initializer_list<const float *> biases)
      : inputs_(inputs), outputs_(outputs * weights.size()), weight_(in_tiles(outputs_) * units_of(inputs)),
        bias_(in_tiles(outputs_)) {
    std::vector<float> stacked;
    const float *all = *weights.begin();
    if (weights.size() > 1) {
      for (const float *weight : weights) stacked.insert(stacked.end(), weight, weight + outputs * inputs);
      all = stacked.data();
    }
    for (int64_t k = 0; k < inputs; k += KC)
      pack_b(Matrix<float>{all + k, 1, inputs}, std::min<int64_t>(KC, inputs - k), outputs_, from(k));
    float *bias = bias_.get();
    for (const float *own : biases) bias = std::copy(own, own + outputs, bias);
    std::fill(bias, bias_.get() + in_tiles(outputs_), 0.0f);
  }

  // y (rows, outputs), whose rows lie `y_row` apart and have room for whole tiles, from x, `x_row` apart; for each part
  // of y, while it is near, finish(row, column, product and bias): of NR columns from one on.
  template <typename F>
  void product(int64_t rows, const float *x, int64_t x_row, float *y, int64_t y_row, F finish) const {
    if (rows == 0) return;
    const int64_t wanted = threads() == 1 ? 1 : 2 * threads(), panels = in_tiles(outputs_) / NR;
    const int64_t down = std::max((rows + ROWS - 1) / ROWS, std::clamp<int64_t>(rows / FEWEST_ROWS, 1, wanted));
    const int64_t high = Cut::rounded((rows + down - 1) / down, MR), blocks = (rows + high - 1) / high;
    const int64_t across = (wanted + blocks - 1) / blocks;
    const int64_t wide = (panels + across - 1) / across, pieces = (panels + wide - 1) / wide;
    parallel(blocks * pieces, [&](int64_t task) {
      const int64_t m = task / pieces * high, panel = task % pieces * wide;
      part(std::min(high, rows - m), x + m * x_row, x_row, panel, std::min(panels, panel + wide), y + m * y_row, y_row,
           [&](int64_t i, int64_t n, float *out) { finish(m + i, n, out); });
    });
  }

 private:
  template <typename F>
  void part(int64_t rows, const float *x, int64_t x_row, int64_t panel, int64_t end, float *y, int64_t y_row,
            F finish) const {
    Unit *block = workspace().b;
    for (int64_t k = 0; k < inputs_; k += KC) {
      const int deep = static_cast<int>(std::min<int64_t>(KC, inputs_ - k)), units = units_of(deep);
      for (int64_t i = 0; i < rows; i++) pack_row(x + i * x_row + k, deep, block + i * STRIDE);
      const Unit *weight = from(k);
      for (int64_t j = panel; j < end; j++)
        for (int64_t m = 0; m < rows; m += MR) {
          const int high = static_cast<int>(std::min<int64_t>(MR, rows - m));
          // Weights come from memory, each once: what is next is fetched while this is computed with.
          const Unit *next = weight + (j + 1) * NR * units;
          for (int64_t l = m * NR * units / rows / 16; l < (m + high) * NR * units / rows / 16; l++)
            __builtin_prefetch(next + l * 16, 0, 2);
          float *out = y + m * y_row + j * NR;
          tile_of<STRIDE, 1>(high)(units, block + m * STRIDE, weight + j * NR * units, out, y_row, k > 0);
          if (k + deep < inputs_) continue;
          for (int i = 0; i < high; i++, out += y_row) {
            const float *bias = bias_.get() + j * NR;
            store(out, load(out) + load(bias));
            store(out + W, load(out + W) + load(bias + W));
            finish(m + i, j * NR, out);
          }
        }
    }
  }

  // The panels of inputs k to k + KC.
  Unit *from(int64_t k) const { return reinterpret_cast<Unit *>(weight_.get()) + units_of(k) * in_tiles(outputs_); }

  int64_t inputs_, outputs_;
  Memory weight_, bias_;
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
