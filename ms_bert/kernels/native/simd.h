// Vectors of float as wide as the instruction set that this translation unit is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

// MS_BERT_ISA, the namespace of what is compiled, is given by the build. MS_BERT_BFLOAT16: products multiply bfloat16,
// see units.h; MS_BERT_INT8: those of an encoder multiply bytes, see packed.h; MS_BERT_AMX: both by tiles, see amx.h.
#if defined(MS_BERT_WIDTH)
#elif defined(__AVX512F__)
#define MS_BERT_WIDTH 16
#elif defined(__AVX2__) && defined(__FMA__)
#define MS_BERT_WIDTH 8
#else
#define MS_BERT_WIDTH 4
#endif

#define MS_BERT_INLINE inline __attribute__((always_inline))

namespace ms_bert {
namespace MS_BERT_ISA {

constexpr int W = MS_BERT_WIDTH;
typedef float Floats __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef uint32_t Words __attribute__((vector_size(4 * W)));

MS_BERT_INLINE Floats load(const float *p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}

MS_BERT_INLINE void store(float *p, Floats v) { memcpy(p, &v, sizeof v); }

MS_BERT_INLINE Floats all(float x) { return x - Floats{}; }
MS_BERT_INLINE Words all(uint32_t x) { return x - Words{}; }

template <int... I>
MS_BERT_INLINE Ints counted(std::integer_sequence<int, I...>) {
  return Ints{I...};
}
MS_BERT_INLINE Ints lanes() { return counted(std::make_integer_sequence<int, W>{}); }  // 0, 1, ... W - 1

MS_BERT_INLINE Floats select(Ints which, Floats a, Floats b) { return which ? a : b; }

MS_BERT_INLINE Floats bits_as_floats(Ints x) {
  Floats y;
  memcpy(&y, &x, sizeof y);
  return y;
}

MS_BERT_INLINE Ints load(const int32_t *p) {
  Ints v;
  memcpy(&v, p, sizeof v);
  return v;
}

MS_BERT_INLINE void store(int32_t *p, Ints v) { memcpy(p, &v, sizeof v); }

MS_BERT_INLINE Words load(const uint32_t *p) {
  Words v;
  memcpy(&v, p, sizeof v);
  return v;
}

MS_BERT_INLINE void store(uint32_t *p, Words v) { memcpy(p, &v, sizeof v); }

// The first n < W floats; the others are `rest`.
MS_BERT_INLINE Floats load_first(const float *p, int n, float rest = 0.0f) {
  Floats v = all(rest);
  memcpy(&v, p, n * sizeof(float));
  return v;
}

MS_BERT_INLINE Ints load_first(const int32_t *p, int n) {
  Ints v{};
  memcpy(&v, p, n * sizeof(int32_t));
  return v;
}

MS_BERT_INLINE void store_first(float *p, Floats v, int n) { memcpy(p, &v, n * sizeof(float)); }

MS_BERT_INLINE float sum(Floats v) {
  float x[W];
  store(x, v);
  for (int n = W / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) x[i] += x[i + n];
  return x[0];
}

MS_BERT_INLINE float largest(Floats v) {
  float x = v[0];
  for (int i = 1; i < W; i++) x = v[i] > x ? v[i] : x;
  return x;
}

// f(j, n) for each vector of a row: n = W elements from j, at the end of the row fewer.
template <typename F>
MS_BERT_INLINE void along(int64_t width, F f) {
  int64_t j = 0;
  for (; j + W <= width; j += W) f(j, W);
  if (j < width) f(j, static_cast<int>(width - j));
}

MS_BERT_INLINE Floats get(const float *p, int n, float rest = 0.0f) {
  return n == W ? load(p) : load_first(p, n, rest);
}
MS_BERT_INLINE Ints get(const int32_t *p, int n) { return n == W ? load(p) : load_first(p, n); }
MS_BERT_INLINE void put(float *p, Floats v, int n) { n == W ? store(p, v) : store_first(p, v, n); }

// One step of a transpose: the first or second half of a and b, their elements taking turns.
template <int HALF, typename V, int... I>
MS_BERT_INLINE V interleave(V a, V b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (HALF * W / 2 + I / 2 + I % 2 * W)...);
#else
  return __builtin_shuffle(a, b, Ints{(HALF * W / 2 + I / 2 + I % 2 * W)...});
#endif
}

// Transpose W vectors of W in place: log2(W) perfect shuffles.
template <typename V>
MS_BERT_INLINE void transpose(V (&rows)[W]) {
  constexpr std::make_integer_sequence<int, W> all_of;
  for (int step = 1; step < W; step *= 2) {
    V next[W];
#pragma GCC unroll 16
    for (int i = 0; i < W / 2; i++) {
      next[2 * i] = interleave<0>(rows[i], rows[i + W / 2], all_of);
      next[2 * i + 1] = interleave<1>(rows[i], rows[i + W / 2], all_of);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) rows[i] = next[i];
  }
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
