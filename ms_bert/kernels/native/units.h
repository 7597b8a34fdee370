// What products multiply: floats, or, where this translation unit is compiled for them, bfloat16. Sums are floats.
//
// The factors of a product are packed in units of 32 bits: a float, or two bfloat16 that follow each other in depth,
// the first in the lower half, for that is what vdpbf16ps reads. What a gradient will read is kept in the same type,
// `Kept`.
#pragma once

#include "simd.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace ms_bert {
namespace MS_BERT_ISA {

#if !defined(MS_BERT_BFLOAT16)

using Kept = float;
using Unit = float;
using Units = Floats;
constexpr int DEPTH = 1;  // numbers in a unit

MS_BERT_INLINE Units units(const float *p) { return load(p); }
MS_BERT_INLINE Units units_across(const float *p, int64_t) { return load(p); }
MS_BERT_INLINE Floats add_product(Floats sum, Units x, Units y) { return sum + x * y; }

#else

using Kept = uint16_t;  // the upper half of a float's bits
using Unit = uint32_t;
using Units = Words;
typedef Kept Halves __attribute__((vector_size(2 * W)));
constexpr int DEPTH = 2;

// W bfloat16, each in the lower half of 32 bits.
MS_BERT_INLINE Units lower(const Kept *p) {
  Halves v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Units);
}

#if defined(__AVX512BF16__)

// The nearest of both, even ones at ties; the first of a unit stands in `low`.
MS_BERT_INLINE Units rounded(Floats low, Floats high) {
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  Units v;
  memcpy(&v, &both, sizeof v);
  return v;
}

// W units from 2 W numbers that follow each other.
MS_BERT_INLINE Units units(const float *p) { return rounded(load(p), load(p + W)); }

// W units from two rows of W numbers, `row` apart.
MS_BERT_INLINE Units units_across(const float *p, int64_t row) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Units)_mm512_permutexvar_epi16(order, (__m512i)rounded(load(p), load(p + row)));
}

// It takes what is denormal as 0.
MS_BERT_INLINE Floats add_product(Floats sum, Units x, Units y) {
  __m512bh a, b;  // whose type differs between compilers
  memcpy(&a, &x, sizeof a);
  memcpy(&b, &y, sizeof b);
  return (Floats)_mm512_dpbf16_ps((__m512)sum, a, b);
}

MS_BERT_INLINE void store(Kept *p, Floats v) {
  const __m256bh nearest = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &nearest, sizeof nearest);
}

#else  // by hand: as exact, and slow

// The bits of the nearest bfloat16, even ones at ties, in the upper half; NaN stays NaN.
MS_BERT_INLINE Units upper(Floats x) {
  Units bits;
  memcpy(&bits, &x, sizeof bits);
  const Units nearest = bits + 0x7fff + (bits >> 16 & 1);
  return (Units)(x == x ? (Ints)nearest : (Ints)(bits | 0x400000)) & 0xffff0000u;
}
MS_BERT_INLINE Units units_across(const float *p, int64_t row) { return upper(load(p)) >> 16 | upper(load(p + row)); }
MS_BERT_INLINE Units units(const float *p) {
  float low[W], high[W];
  for (int i = 0; i < W; i++) low[i] = p[2 * i], high[i] = p[2 * i + 1];
  return upper(load(low)) >> 16 | upper(load(high));
}
MS_BERT_INLINE Floats add_product(Floats sum, Units x, Units y) {
  const auto floats = [](Units bits) { return bits_as_floats((Ints)bits); };
  sum += floats(x << 16) * floats(y << 16);
  return sum + floats(x & 0xffff0000u) * floats(y & 0xffff0000u);
}
MS_BERT_INLINE void store(Kept *p, Floats v) {
  const Halves nearest = __builtin_convertvector(upper(v) >> 16, Halves);
  memcpy(p, &nearest, sizeof nearest);
}

#endif

MS_BERT_INLINE Floats load(const Kept *p) { return bits_as_floats((Ints)(lower(p) << 16)); }

// The same of numbers that are bfloat16 already.
MS_BERT_INLINE Units units(const Kept *p) {
  Units v;
  memcpy(&v, p, sizeof v);
  return v;
}
MS_BERT_INLINE Units units_across(const Kept *p, int64_t row) { return lower(p) | lower(p + row) << 16; }

MS_BERT_INLINE Floats get(const Kept *p, int n) {
  if (n == W) return load(p);
  Kept all[W] = {};
  memcpy(all, p, n * sizeof(Kept));
  return load(all);
}
MS_BERT_INLINE void put(Kept *p, Floats v, int n) {
  if (n == W) return store(p, v);
  Kept all[W];
  store(all, v);
  memcpy(p, all, n * sizeof(Kept));
}

#endif

// What a tile computes with.
struct Products {
  using Unit = MS_BERT_ISA::Unit;
  using Sum = float;
#if defined(MS_BERT_AMX) && defined(MS_BERT_BFLOAT16)
  static constexpr bool MATRIX = true;  // by the processor's own tiles, see amx.h
  static constexpr int HIGH = 32;       // the most rows of a tile
#else
  static constexpr bool MATRIX = false;
  static constexpr int HIGH = W == 16 ? 14 : 6;  // with two vectors a row it fills the registers
#endif
  static constexpr int STEP = MATRIX ? 16 : 1;  // a tile of `gemm` has a multiple of so many rows
  static MS_BERT_INLINE Floats add(Floats sum, Units x, Units y) { return add_product(sum, x, y); }
};

constexpr int LINE = 64;                // bytes that a cache takes from memory at a time
constexpr int GROUPS = Products::HIGH;  // of lines that a tile fetches: one for each row

// A place in memory, or beyond what is there, for a line that is not there is not fetched.
using Address = uintptr_t;
template <typename T>
MS_BERT_INLINE Address address(const T *p) {
  return reinterpret_cast<Address>(p);
}
template <int LEVEL>  // 3: to the first-level cache; 2: to the second
MS_BERT_INLINE void fetch(Address line) {
  __builtin_prefetch(reinterpret_cast<const void *>(line), 0, LEVEL);
}

// What is needed after a tile, and fetched while it is computed: GROUPS groups of `count` lines, `between` bytes apart,
// each group `step` bytes after the one before; and the next tile of C. Few lines at a time, for a first-level cache
// waits for few at once, and what the tile itself reads from the second-level cache must not queue behind them.
struct Ahead {
  Address lines = 0, c = 0;
  int64_t between = 0, step = 0;
  int count = 0;
};

// Units for so many numbers in depth.
constexpr int units_of(int depth) { return (depth + DEPTH - 1) / DEPTH; }
constexpr int64_t units_of(int64_t depth) { return (depth + DEPTH - 1) / DEPTH; }

// As `units`, of the first n numbers only, if they are fewer than that takes; the others are 0.
template <typename T>
MS_BERT_INLINE Units units_first(const T *p, int n) {
  if (n >= W * DEPTH) return units(p);
  T all[W * DEPTH] = {};
  memcpy(all, p, n * sizeof(T));
  return units(all);
}

// As `units_across`, of the first `deep` rows and n columns only.
template <typename T>
MS_BERT_INLINE Units units_across_first(const T *p, int64_t row, int deep, int n) {
  if (deep >= DEPTH && n >= W) return units_across(p, row);
  T all[DEPTH * W] = {};
  for (int i = 0; i < deep && i < DEPTH; i++) memcpy(all + i * W, p + i * row, (n < W ? n : W) * sizeof(T));
  return units_across(all, W);
}

// A row of numbers in units.
template <typename T>
inline void pack_row(const T *row, int depth, Unit *to) {
  if (sizeof(T) * DEPTH == sizeof(Unit) && depth % DEPTH == 0) {
    memcpy(to, row, depth * sizeof(T));
    return;
  }
  for (int k = 0; k < units_of(depth); k += W) {
    const Units v = units_first(row + k * DEPTH, depth - k * DEPTH);
    const int n = units_of(depth) - k;
    n >= W ? store(to + k, v) : (void)memcpy(to + k, &v, n * sizeof(Unit));
  }
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
