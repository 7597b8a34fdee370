// A linear layer for inference: its weight is packed once, in the order in which products read it.
#pragma once

#include <cmath>
#include <initializer_list>
#include <vector>

#include "linear.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace ms_bert {
namespace MS_BERT_ISA {

// Rows of a block of the first factor: at most so many, which stay in a second-level cache while all panels pass; and
// at least so many, if there are more, so that each thread has some of its own.
constexpr int64_t MOST_ROWS = 192, FEWEST_ROWS = 64, BLOCK = 1 << 17;  // the last one: units

// Numbers are multiplied as units.h says.
class Plain {
 public:
  using P = Products;
  static constexpr int UNITS = KU, PER_UNIT = DEPTH, ROW = STRIDE;  // of a piece of the depth; numbers; of a packed row
  struct Row {};  // what belongs to a piece of a row of the first factor

  Plain(int64_t, int64_t) {}
  void pack(const float *weight, int64_t inputs, int count, Unit *panel, int64_t) {
    pack_b(transposed(weight, inputs), static_cast<int>(inputs), count, panel);
  }
  template <typename T>
  static Row pack_row(const T *x, int depth, Unit *to) {
    MS_BERT_ISA::pack_row(x, depth, to);
    return {};
  }
  // sums (high, NR) += block panel.
  template <bool FETCHES>
  void multiply(int high, int units, const Unit *block, const Unit *panel, const Unit *next, float *sums, const Row *,
                int64_t piece, int64_t) const {
    tile_of<ROW, 1, FETCHES>(high)(units, block, panel, sums, NR, piece > 0, next, {});
  }
};

// Bytes are multiplied, the depth in pieces of 128: there a weight is rounded to -127 ... 127 times a scale of its
// output, and an input to 0 ... 255, less a number that stands for 0, times a scale of its row. (Pieces of the depth
// have scales of their own after Dettmers et al., 2022, 2110.02861: an outlier costs its neighbours digits, and no
// others.)
class Bytes {
 public:
  struct P {
    using Unit = uint32_t;  // four bytes that follow each other in depth
    using Sum = int32_t;
#if defined(MS_BERT_AMX)
    static constexpr bool MATRIX = true;
    static constexpr int HIGH = 32;
#else
    static constexpr bool MATRIX = false;
    static constexpr int HIGH = Products::HIGH;
#endif
    static MS_BERT_INLINE Ints add(Ints sum, Words x, Words y) {
#if defined(__AVX512VNNI__)
      return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)y);
#else  // by hand: as exact, and slow
      for (int i = 0; i < 4; i++) sum += (Ints)(x >> 8 * i & 255u) * ((Ints)(y << (24 - 8 * i)) >> 24);
      return sum;
#endif
    }
  };
  static constexpr int UNITS = 32, PER_UNIT = 4, ROW = UNITS + 16;
  struct Row {
    float scale;
    int32_t zero;
  };

  Bytes(int64_t inputs, int64_t outputs)
      : outputs_(outputs), scales_(pieces(inputs) * outputs), sums_(pieces(inputs) * outputs) {}

  void pack(const float *weight, int64_t inputs, int count, uint32_t *panel, int64_t first) {
    constexpr int64_t deep = UNITS * PER_UNIT;
    std::fill(panel, panel + (inputs + PER_UNIT - 1) / PER_UNIT * NR, 0);
    for (int64_t piece = 0; piece < pieces(inputs); piece++)
      for (int j = 0; j < count; j++) {
        const int64_t begin = piece * deep, end = std::min(inputs, begin + deep);
        const float *own = weight + j * inputs;
        float most = 0.0f;
        for (int64_t k = begin; k < end; k++) most = std::max(most, std::abs(own[k]));
        const float scale = most > 0.0f ? most / 127.0f : 1.0f;
        int32_t sum = 0;
        for (int64_t k = begin; k < end; k++) {
          const auto rounded = static_cast<int32_t>(std::nearbyint(own[k] / scale));
          sum += rounded;
          panel[k / PER_UNIT * NR + j] |= (static_cast<uint32_t>(rounded) & 255u) << k % PER_UNIT * 8;
        }
        scales_[piece * outputs_ + first + j] = scale;
        sums_[piece * outputs_ + first + j] = sum;
      }
  }

  static Row pack_row(const float *x, int depth, uint32_t *to) {
    typedef uint8_t Octets __attribute__((vector_size(W)));
    Floats least{}, most{}, broken{};
    along(depth, [&](int64_t j, int k) {
      const Floats v = get(x + j, k);
      least = select(v < least, v, least);
      most = select(v > most, v, most);
      broken += v - v;  // 0, or NaN
    });
    const float low = -largest(-least), range = largest(most) - low + sum(broken);
    const float scale = range == 0.0f ? 1.0f : range / 255.0f, zero = std::nearbyint(-low / scale);
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: added, an integer stands in the lower bits
    auto *bytes = reinterpret_cast<unsigned char *>(to);
    along(depth, [&](int64_t j, int k) {
      Floats v = get(x + j, k) * (1.0f / scale) + zero;
      v = select(v > 0.0f, v, Floats{});
      const Floats shifted = select(v < 255.0f, v, all(255.0f)) + magic;
      Ints bits;
      memcpy(&bits, &shifted, sizeof bits);
      const Octets octets = __builtin_convertvector(bits & 255, Octets);
      memcpy(bytes + j, &octets, k);
    });
    for (int j = depth; j % PER_UNIT != 0; j++) bytes[j] = 0;
    return {scale, zero == zero ? static_cast<int32_t>(zero) : 0};
  }

  template <bool FETCHES>
  void multiply(int high, int units, const uint32_t *block, const uint32_t *panel, const uint32_t *next, float *sums,
                const Row *rows, int64_t piece, int64_t n) const {
    alignas(64) int32_t exact[P::HIGH * NR];
    tile_of<ROW, 1, FETCHES, P>(high)(units, block, panel, exact, NR, false, next, {});
    for (int half = 0; half < NR; half += W) {
      const Floats scale = load(&scales_[piece * outputs_ + n + half]);
      const Ints sum = load(&sums_[piece * outputs_ + n + half]);
      for (int i = 0; i < high; i++) {
        const Ints less = load(exact + i * NR + half) - sum * rows[i].zero;
        const Floats v = __builtin_convertvector(less, Floats) * (scale * rows[i].scale);
        float *to = sums + i * NR + half;
        store(to, piece > 0 ? load(to) + v : v);
      }
    }
  }

 private:
  static int64_t pieces(int64_t inputs) { return (inputs + UNITS * PER_UNIT - 1) / (UNITS * PER_UNIT); }

  int64_t outputs_;  // in tiles
  std::vector<float> scales_;
  std::vector<int32_t> sums_;  // of the rounded weights
};

// x (rows, inputs) weight (outputs, inputs)^T. Panels of NR outputs one after the other; missing outputs are 0, in the
// bias too.
template <typename Arithmetic>
class Packed {
 public:
  // Several layers of one input, side by side.
  Packed(int64_t inputs, int64_t outputs, std::initializer_list<const float *> weights,
         std::initializer_list<const float *> biases)
      : inputs_(inputs), outputs_(outputs * weights.size()),
        units_((inputs + Arithmetic::PER_UNIT - 1) / Arithmetic::PER_UNIT), arithmetic_(inputs, in_tiles(outputs_)),
        weight_(in_tiles(outputs_) * units_), bias_(side_by_side(outputs, biases)) {
    bias_.resize(in_tiles(outputs_), 0.0f);
    const std::vector<float> weight = side_by_side(inputs * outputs, weights);
    for (int64_t n = 0; n < outputs_; n += NR)
      arithmetic_.pack(&weight[n * inputs], inputs, static_cast<int>(std::min<int64_t>(NR, outputs_ - n)),
                       panel(n / NR), n);
  }

  // Of x (rows, inputs), whose rows lie `row` apart, times the weight, and the bias: for each row and NR columns from
  // one on, finish(row, column, the first half of them, the second half); and for rows that are finished, while they
  // are near, done(first, end).
  template <typename T, typename F, typename D>
  void product(int64_t rows, const T *x, int64_t row, F finish, D done) const {
    if (rows == 0) return;
    const int64_t fitting = std::max<int64_t>(HIGH, BLOCK / (pieces() * Arithmetic::ROW) / HIGH * HIGH);
    const int64_t most = std::min((MOST_ROWS + HIGH - 1) / HIGH * HIGH, fitting);
    const int64_t wanted = threads(), panels = in_tiles(outputs_) / NR;
    const int64_t least = std::max((rows + most - 1) / most, std::clamp<int64_t>(rows / FEWEST_ROWS, 1, wanted));
    const int64_t down = least > wanted ? Cut::rounded(least, static_cast<int>(wanted)) : least;  // as many for each
    const int64_t high = (rows + down - 1) / down, blocks = (rows + high - 1) / high;
    const int64_t across = (wanted + blocks - 1) / blocks;
    const int64_t wide = (panels + across - 1) / across, parts = (panels + wide - 1) / wide;
    parallel(blocks * parts, [&](int64_t task) {
      const int64_t m = task / parts * high, first = task % parts * wide;
      part(std::min(high, rows - m), x + m * row, row, first, std::min(panels, first + wide),
           [&](int64_t i, int64_t n, Floats a, Floats b) { finish(m + i, n, a, b); });
      if (parts == 1) done(m, std::min(rows, m + high));
    });
    if (parts > 1) parallel_pieces(rows, 16, done);
  }

 private:
  using Own = typename Arithmetic::P::Unit;
  static constexpr int64_t UNITS = Arithmetic::UNITS, DEEP = UNITS * Arithmetic::PER_UNIT, ROW = Arithmetic::ROW;
  static constexpr int64_t HIGH = Arithmetic::P::HIGH;

  template <typename T, typename F>
  void part(int64_t rows, const T *x, int64_t row, int64_t first, int64_t end, F finish) const {
    // The depth in pieces, of each all rows; tiles may read as many rows beyond the last.
    Own *block = reinterpret_cast<Own *>(scratch((pieces() * rows + HIGH) * ROW));
    const Tiles<typename Arithmetic::P> shaped;
    std::vector<typename Arithmetic::Row> of_rows(pieces() * rows);
    for (int64_t piece = 0; piece < pieces(); piece++) {
      const int64_t from = piece * DEEP;
      const int deep = static_cast<int>(std::min(DEEP, inputs_ - from));
      for (int64_t i = piece * rows; i < (piece + 1) * rows; i++)
        of_rows[i] = Arithmetic::pack_row(x + (i - piece * rows) * row + from, deep, block + i * ROW);
    }
    for (int64_t j = first; j < end; j++) {
      const Floats bias[] = {load(&bias_[j * NR]), load(&bias_[j * NR + W])};
      // Tiles of about the same height, for one of few rows is no faster than a higher one.
      const int64_t tiles = (rows + HIGH - 1) / HIGH;
      for (int64_t t = 0; t < tiles; t++) {
        const int64_t m = t * rows / tiles;
        const int high = static_cast<int>((t + 1) * rows / tiles - m);
        alignas(64) float sums[HIGH * NR];
        for (int64_t piece = 0; piece < pieces(); piece++) {
          const int units = static_cast<int>(std::min(UNITS, units_ - piece * UNITS));
          const int64_t i = piece * rows + m;
          const Own *weight = panel(j) + piece * UNITS * NR, *next = weight + units_ * NR;
          // Weights come from memory, each once: the next panel is fetched while this one is computed with first.
          if (t == 0) {
            arithmetic_.template multiply<true>(high, units, block + i * ROW, weight, next, sums, &of_rows[i], piece,
                                                j * NR);
          } else {
            arithmetic_.template multiply<false>(high, units, block + i * ROW, weight, next, sums, &of_rows[i], piece,
                                                 j * NR);
          }
        }
        for (int i = 0; i < high; i++)
          finish(m + i, j * NR, load(sums + i * NR) + bias[0], load(sums + i * NR + W) + bias[1]);
      }
    }
  }

  static std::vector<float> side_by_side(int64_t count, std::initializer_list<const float *> arrays) {
    std::vector<float> all;
    for (const float *array : arrays) all.insert(all.end(), array, array + count);
    return all;
  }

  int64_t pieces() const { return (units_ + UNITS - 1) / UNITS; }
  Own *panel(int64_t j) const { return reinterpret_cast<Own *>(weight_.get()) + j * units_ * NR; }

  int64_t inputs_, outputs_, units_;
  Arithmetic arithmetic_;
  Memory weight_;
  std::vector<float> bias_;
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
