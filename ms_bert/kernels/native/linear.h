// Linear layers: x (rows, in) weight (out, in)^T + bias, and what follows them, each with its gradient.
#pragma once

#include <type_traits>

#include "functions.h"
#include "gemm.h"
#include "norm.h"
#include "threads.h"

namespace ms_bert {
namespace MS_BERT_ISA {

template <typename T>
Matrix<T> rows_of(const T *data, int64_t width) {
  return {data, width, 1};
}
template <typename T>
Matrix<T> transposed(const T *data, int64_t width) {
  return {data, 1, width};
}

// x as products read it and a gradient finds it: itself, or rounded to `kept`.
template <typename K>
const K *keep(int64_t count, const float *x, K *kept) {
  if constexpr (std::is_same_v<K, float>) {
    return x;
  } else {
    parallel_pieces(count, 1 << 14, [&](int64_t begin, int64_t end) {
      along(end - begin, [&](int64_t j, int k) { put(kept + begin + j, get(x + begin + j, k), k); });
    });
    return kept;
  }
}

// Floats that take as much memory as so many numbers that are kept.
constexpr int64_t floats_for(int64_t count) { return (count * sizeof(Kept) + sizeof(float) - 1) / sizeof(float); }

inline Kept *kept_scratch(int64_t count) { return reinterpret_cast<Kept *>(scratch(floats_for(count))); }

// The same for this call alone.
inline const Kept *rounded(int64_t count, const float *x) {
  return keep(count, x, std::is_same_v<Kept, float> ? nullptr : kept_scratch(count));
}

constexpr int64_t FEW_ROWS = 512;       // more of them are worth the packing of the other factor
constexpr int64_t FEW_UNITS = 1 << 18;  // packed, they share a second-level cache with the tiles

// Whether x (rows, depth) is to be packed rather than the weight (columns, depth) that it is multiplied with: not of
// floats, which are packed almost as fast as they are read, while units of bfloat16 are rounded and paired too.
inline bool few(int64_t rows, int64_t columns, int64_t depth) {
  return DEPTH > 1 && rows <= FEW_ROWS && columns >= rows && (rows + NR - 1) / NR * NR * units_of(depth) <= FEW_UNITS;
}

// For each i of `layers`, y[i] (rows, columns) = x weight[i]^T of few rows, and for each part of it, while it is near,
// finish(i, first row, rows, first column, columns). x is packed once for all.
template <typename T, typename F>
void multiply_few(int64_t rows, int64_t columns, int64_t depth, const T *x, int layers, const float *const *weight,
                  float *const *y, F finish) {
  const int64_t panels = (rows + NR - 1) / NR;
  Unit *packed = reinterpret_cast<Unit *>(scratch(panels * NR * units_of(depth)));
  parallel(panels, [&](int64_t p) {
    const int count = static_cast<int>(std::min<int64_t>(NR, rows - p * NR));
    pack_b(transposed(x + p * NR * depth, depth), depth, count, packed + p * NR * units_of(depth));
  });
  const int64_t wanted = threads() == 1 ? 1 : 2 * threads();
  const int64_t wide = Cut::rounded((columns + wanted - 1) / wanted, MR), pieces = (columns + wide - 1) / wide;
  parallel(layers * pieces, [&](int64_t task) {
    const int64_t i = task / pieces, begin = task % pieces * wide, end = std::min(columns, begin + wide);
    gemm_few_rows(rows, begin, end, depth, packed, transposed(weight[i], depth), y[i], columns, workspace());
    finish(i, 0, rows, begin, end - begin);
  });
}

constexpr int64_t MANY_ROWS = 512;   // of A, which are divided between the threads; they share a packed B
constexpr int64_t SHARED = 1 << 22;  // units of B that are packed at a time

// y = A B, then for each part of y, while it is near, finish(first row, rows, first column, columns).
template <typename A, typename B, typename F>
void multiply(int64_t rows, int64_t columns, int64_t depth, Matrix<A> a, Matrix<B> b, float *y, bool add, F finish) {
  if (threads() == 1 || rows < MANY_ROWS) {
    Cut::by_columns(rows, columns, NR).run([&](int64_t m, int64_t high, int64_t n, int64_t wide) {
      gemm(high, wide, depth, a.at(m, 0), b.at(0, n), y + m * columns + n, columns, add, workspace(),
           [&](int64_t i, int64_t rows, int64_t j, int64_t columns) { finish(m + i, rows, n + j, columns); });
    });
    return;
  }
  const int64_t deepest = std::min<int64_t>(Cut::rounded(depth, KC), SHARED / NC / KU * KC);
  const int64_t widest = std::min(in_tiles(columns), SHARED / units_of(deepest) / NR * NR);
  Unit *memory = reinterpret_cast<Unit *>(scratch(units_of(deepest) * widest, 2));
  for (int64_t n = 0; n < columns; n += widest)
    for (int64_t k = 0; k < depth; k += deepest) {
      const int64_t wide = std::min(widest, columns - n), deep = std::min(deepest, depth - k);
      const bool last = k + deep == depth;
      const Panels panels = Panels::of(b.at(k, n), deep, wide, memory);
      Cut::by_rows(rows, wide, NR).run([&](int64_t m, int64_t high, int64_t j, int64_t part) {
        gemm(high, part, deep, a.at(m, k), panels.from(j), y + m * columns + n + j, columns, add || k > 0, workspace(),
             [&](int64_t i, int64_t rows, int64_t first, int64_t columns) {
               if (last) finish(m + i, rows, n + j + first, columns);
             });
      });
    }
}

template <typename A, typename B>
void multiply(int64_t rows, int64_t columns, int64_t depth, Matrix<A> a, Matrix<B> b, float *y, bool add = false) {
  multiply(rows, columns, depth, a, b, y, add, as_it_is);
}

struct Shape {
  int64_t rows, inputs, outputs;
};

// y[i] = x weight[i]^T for some layers of one shape; finish(i, first row, rows, first column, columns) for its parts.
template <typename T, typename F>
void products(Shape s, const T *x, int layers, const float *const *weight, float *const *y, F finish) {
  if (few(s.rows, s.outputs, s.inputs)) {
    multiply_few(s.rows, s.outputs, s.inputs, x, layers, weight, y, finish);
    return;
  }
  for (int i = 0; i < layers; i++)
    multiply(s.rows, s.outputs, s.inputs, rows_of(x, s.inputs), transposed(weight[i], s.inputs), y[i], false,
             [&](int64_t m, int64_t high, int64_t n, int64_t wide) { finish(i, m, high, n, wide); });
}

// y[i] = x weight[i]^T + bias[i]
template <typename T>
void linear(Shape s, const T *x, int layers, const float *const *weight, const float *const *bias, float *const *y) {
  products(s, x, layers, weight, y, [&](int64_t which, int64_t m, int64_t high, int64_t n, int64_t wide) {
    for (int64_t i = m; i < m + high; i++) {
      float *row = y[which] + i * s.outputs + n;
      along(wide, [&](int64_t j, int k) { put(row + j, get(row + j, k) + get(bias[which] + n + j, k), k); });
    }
  });
}

inline void linear(Shape s, const float *x, const float *weight, const float *bias, float *y) {
  linear(s, x, 1, &weight, &bias, &y);
}

// y = f(x weight^T + bias), and what f was applied to.
template <typename Function>
void linear_activation(Shape s, const Kept *x, const float *weight, const float *bias, float *y, Kept *before) {
  products(s, x, 1, &weight, &y, [&](int64_t, int64_t m, int64_t high, int64_t n, int64_t wide) {
    for (int64_t i = m; i < m + high; i++) {
      Kept *z = before + i * s.outputs + n;
      float *row = y + i * s.outputs + n;
      along(wide, [&](int64_t j, int k) {
        const Floats v = get(row + j, k) + get(bias + n + j, k);
        put(z + j, v, k);
        put(row + j, Function::value(v), k);
      });
    }
  });
}

// sums (width) = the column sums of x (rows, width); in pieces of rows, so that rounding errors do not pile up.
inline void column_sums(int64_t rows, int64_t width, const Kept *x, float *sums) {
  parallel_pieces(width, 4 * NR, [&](int64_t begin, int64_t end) {
    const int64_t wide = end - begin;
    float piece[4 * NR];
    std::fill(sums + begin, sums + end, 0.0f);
    for (int64_t first = 0; first < rows; first += 64) {
      std::fill(piece, piece + wide, 0.0f);
      for (int64_t i = first; i < std::min(rows, first + 64); i++)
        along(wide,
              [&](int64_t j, int k) { put(piece + j, get(piece + j, k) + get(x + i * width + begin + j, k), k); });
      for (int64_t j = 0; j < wide; j++) sums[begin + j] += piece[j];
    }
  });
}

// dx = (or, where told, is added) dy weight, dweight = dy^T x, dbias = the column sums of dy
inline void linear_gradient(Shape s, const Kept *dy, const Kept *x, const float *weight, float *dx, float *dweight,
                            float *dbias, bool add = false) {
  multiply(s.rows, s.inputs, s.outputs, rows_of(dy, s.outputs), rows_of(weight, s.inputs), dx, add);
  multiply(s.outputs, s.inputs, s.rows, transposed(dy, s.outputs), rows_of(x, s.inputs), dweight);
  column_sums(s.rows, s.outputs, dy, dbias);
}

template <typename Function>
void linear_activation_gradient(Shape s, const float *dy, const Kept *before, const Kept *x, const float *weight,
                                float *dx, float *dweight, float *dbias) {
  Kept *dz = kept_scratch(s.rows * s.outputs);
  parallel_pieces(s.rows * s.outputs, 1 << 14, [&](int64_t begin, int64_t end) {
    along(end - begin, [&](int64_t j, int k) {
      put(dz + begin + j, get(dy + begin + j, k) * Function::slope(get(before + begin + j, k)), k);
    });
  });
  linear_gradient(s, dz, x, weight, dx, dweight, dbias);
}

// y = LayerNorm(residual + dropout(x weight^T + bias))
inline void linear_dropout_add_norm(Shape s, const Kept *x, const float *weight, const float *bias,
                                    const float *residual, Norm norm, Dropout dropout, const int32_t *row_keys,
                                    const int32_t *column_keys, float *y, Kept *normalized, float *scale) {
  const int64_t width = s.outputs;
  products(s, x, 1, &weight, &y, [](int64_t, int64_t, int64_t, int64_t, int64_t) {});
  parallel_pieces(s.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      float *z = y + i * width;
      along(width, [&](int64_t j, int k) {
        Floats v = get(z + j, k) + get(bias + j, k);
        if (dropout.on) v *= dropout.factors(row_keys[i], get(column_keys + j, k));
        put(z + j, v + get(residual + i * width + j, k), k);
      });
      scale[i] = norm.apply(width, z, z, normalized + i * width);
    }
  });
}

inline void linear_dropout_add_norm_gradient(Shape s, const float *dy, const Kept *normalized, const float *scale,
                                             const Kept *x, const float *weight, const float *gamma, Dropout dropout,
                                             const int32_t *row_keys, const int32_t *column_keys, float *dx,
                                             float *dweight, float *dbias, float *dresidual, float *dgamma,
                                             float *dbeta) {
  const int64_t width = s.outputs;
  norm_gradient(s.rows, width, dy, normalized, scale, gamma, dresidual, dgamma, dbeta);
  if (!dropout.on) {
    linear_gradient(s, rounded(s.rows * width, dresidual), x, weight, dx, dweight, dbias);
    return;
  }
  Kept *dz = kept_scratch(s.rows * width);
  parallel_pieces(s.rows, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      along(width, [&](int64_t j, int k) {
        const Floats factors = dropout.factors(row_keys[i], get(column_keys + j, k));
        put(dz + i * width + j, get(dresidual + i * width + j, k) * factors, k);
      });
  });
  linear_gradient(s, dz, x, weight, dx, dweight, dbias);
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
