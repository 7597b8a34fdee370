// Tiles of Intel's matrix extensions (AMX), which multiply sixteen rows of sixteen units by as many; or,
// MS_BERT_BY_HAND, the same by plain loops, so that what stands around them is tested on every processor.
#pragma once

#include "units.h"

#if defined(MS_BERT_AMX) && !defined(MS_BERT_BY_HAND)
#include <immintrin.h>
#endif

namespace ms_bert {
namespace MS_BERT_ISA {

#if defined(MS_BERT_AMX)

constexpr int SIDE = 16;  // rows of a tile, and units of a row

#if defined(MS_BERT_BY_HAND)

using OneTile = uint32_t[SIDE][SIDE];
inline OneTile &one_tile(int number) {
  static thread_local OneTile all[8];
  return all[number];
}

inline void load_tile(int number, const void *p, int64_t stride) {
  for (int i = 0; i < SIDE; i++) memcpy(one_tile(number)[i], static_cast<const char *>(p) + i * stride, 4 * SIDE);
}
inline void store_tile(int number, void *p, int64_t stride) {
  for (int i = 0; i < SIDE; i++) memcpy(static_cast<char *>(p) + i * stride, one_tile(number)[i], 4 * SIDE);
}
inline void clear_tile(int number) { memset(one_tile(number), 0, sizeof(OneTile)); }

inline void multiply_tiles(int to, int a, int b) {
  for (int m = 0; m < SIDE; m++)
    for (int n = 0; n < SIDE; n++) {
      uint32_t &cell = one_tile(to)[m][n];
#if defined(MS_BERT_INT8)
      for (int k = 0; k < SIDE; k++)
        for (int i = 0; i < 32; i += 8)
          cell += static_cast<uint8_t>(one_tile(a)[m][k] >> i) * static_cast<int8_t>(one_tile(b)[k][n] >> i);
#else
      const auto number = [](uint32_t bits) {
        float x;
        memcpy(&x, &bits, sizeof x);
        return x;
      };
      float first = 0.0f, second = 0.0f;  // of the units' halves, which the processor too adds up apart
      for (int k = 0; k < SIDE; k++) {
        first += number(one_tile(a)[m][k] << 16) * number(one_tile(b)[k][n] << 16);
        second += number(one_tile(a)[m][k] & 0xffff0000u) * number(one_tile(b)[k][n] & 0xffff0000u);
      }
      const float sum = number(cell) + (first + second);
      memcpy(&cell, &sum, sizeof sum);
#endif
    }
}

#define MS_BERT_LOAD_TILE load_tile
#define MS_BERT_STORE_TILE store_tile
#define MS_BERT_CLEAR_TILE clear_tile
#define MS_BERT_MULTIPLY_TILES multiply_tiles
inline void configure_tiles() {}
inline void release_tiles() {}
inline void fence() {}

#else

#define MS_BERT_LOAD_TILE _tile_loadd
#define MS_BERT_STORE_TILE _tile_stored
#define MS_BERT_CLEAR_TILE _tile_zero
#if defined(MS_BERT_INT8)
#define MS_BERT_MULTIPLY_TILES _tile_dpbusd
#else
#define MS_BERT_MULTIPLY_TILES _tile_dpbf16ps
#endif

// GCC does not know that tiles are read from memory and written to it.
MS_BERT_INLINE void fence() { __asm__ volatile("" ::: "memory"); }

inline void configure_tiles() {
  struct alignas(64) {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } shape{};
  shape.palette = 1;
  for (int i = 0; i < 8; i++) shape.bytes[i] = 4 * SIDE, shape.rows[i] = SIDE;
  fence();
  _tile_loadconfig(&shape);
}
inline void release_tiles() { _tile_release(); }

#endif

// See `tile` in gemm.h, for COLUMN = 1 and ROWS = SIDE or 2 SIDE. Where sums are added, they begin with what is there.
// It fetches nothing of `ahead`: what that gains is not measured yet.
template <typename P, int ROWS, int ROW, bool FETCHES>
inline __attribute__((noinline)) void matrix_tile(int depth, const typename P::Unit *a, const typename P::Unit *b,
                                                  typename P::Sum *c, int64_t ldc, bool add,
                                                  const typename P::Unit *next, const Ahead &) {
  using Unit = typename P::Unit;
  constexpr int WIDE = 2 * SIDE;  // columns
  constexpr bool two = ROWS > SIDE;
  const int64_t stride = ldc * static_cast<int64_t>(sizeof *c);
  typename P::Sum *lower = c + SIDE * ldc;
  // The rest of the depth, and units of 0; before tiles are in use, for a function that is called may use them too.
  alignas(64) Unit of_a[2 * SIDE * SIDE], of_b[SIDE * WIDE];
  if (const int rest = depth % SIDE) {
    memset(of_a, 0, sizeof of_a);
    memset(of_b, 0, sizeof of_b);
    for (int i = 0; i < ROWS; i++) memcpy(of_a + i * SIDE, a + i * ROW + depth - rest, rest * sizeof(Unit));
    memcpy(of_b, b + (depth - rest) * WIDE, rest * WIDE * sizeof(Unit));
  }
  fence();
  if (add) {
    MS_BERT_LOAD_TILE(0, c, stride);
    MS_BERT_LOAD_TILE(1, c + SIDE, stride);
    if (two) {
      MS_BERT_LOAD_TILE(2, lower, stride);
      MS_BERT_LOAD_TILE(3, lower + SIDE, stride);
    }
  } else {
    MS_BERT_CLEAR_TILE(0);
    MS_BERT_CLEAR_TILE(1);
    if (two) {
      MS_BERT_CLEAR_TILE(2);
      MS_BERT_CLEAR_TILE(3);
    }
  }
  const auto add_products = [](const Unit *a, int64_t bytes, const Unit *b) {
    MS_BERT_LOAD_TILE(4, a, bytes);
    MS_BERT_LOAD_TILE(6, b, WIDE * sizeof(Unit));
    MS_BERT_LOAD_TILE(7, b + SIDE, WIDE * sizeof(Unit));
    MS_BERT_MULTIPLY_TILES(0, 4, 6);
    MS_BERT_MULTIPLY_TILES(1, 4, 7);
    if (two) {
      MS_BERT_LOAD_TILE(5, a + SIDE * bytes / sizeof(Unit), bytes);
      MS_BERT_MULTIPLY_TILES(2, 5, 6);
      MS_BERT_MULTIPLY_TILES(3, 5, 7);
    }
  };
  int k = 0;
  for (; k + SIDE <= depth; k += SIDE) {
    if (FETCHES)
      for (int i = 0; i < SIDE * WIDE; i += 16) __builtin_prefetch(next + k * WIDE + i, 0, 2);
    add_products(a + k, ROW * sizeof(Unit), b + k * WIDE);
  }
  if (k < depth) add_products(of_a, SIDE * sizeof(Unit), of_b);
  MS_BERT_STORE_TILE(0, c, stride);
  MS_BERT_STORE_TILE(1, c + SIDE, stride);
  if (two) {
    MS_BERT_STORE_TILE(2, lower, stride);
    MS_BERT_STORE_TILE(3, lower + SIDE, stride);
  }
  fence();
}

#undef MS_BERT_LOAD_TILE
#undef MS_BERT_STORE_TILE
#undef MS_BERT_CLEAR_TILE
#undef MS_BERT_MULTIPLY_TILES

#endif

// Within its life this thread's tiles have the shape that `matrix_tile` needs, where P multiplies by it.
template <typename P>
class Tiles {
 public:
  Tiles() {
#if defined(MS_BERT_AMX)
    if (P::MATRIX) configure_tiles();
#endif
  }
  ~Tiles() {
#if defined(MS_BERT_AMX)
    if (P::MATRIX) release_tiles();
#endif
  }
  Tiles(const Tiles &) = delete;
  Tiles &operator=(const Tiles &) = delete;
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
