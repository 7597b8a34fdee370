// LayerNorm(word + token type + position) and dropout, and the gradients of the three tables.
#pragma once

#include "functions.h"
#include "norm.h"

namespace ms_bert {
namespace MS_BERT_ISA {

struct Table {
  const int32_t *ids;
  int64_t entries;
  bool has(int64_t row) const { return ids[row] >= 0 && ids[row] < entries; }
};

// Each id is one that its table has.
inline void embed(int64_t rows, int64_t width, const Table (&tables)[3], const float *const (&weights)[3], Norm norm,
                  Dropout dropout, const int32_t *row_keys, const int32_t *column_keys, float *y, float *normalized,
                  float *scale) {
  parallel_pieces(rows, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      float *z = normalized + i * width, *out = y + i * width;
      std::fill(z, z + width, 0.0f);
      for (int t = 0; t < 3; t++) {
        const float *entry = weights[t] + tables[t].ids[i] * width;
        along(width, [&](int64_t j, int k) { put(z + j, get(z + j, k) + get(entry + j, k), k); });
      }
      scale[i] = norm.apply(width, z, out, z);
      if (dropout.on)
        along(width, [&](int64_t j, int k) {
          put(out + j, get(out + j, k) * dropout.factors(row_keys[i], get(column_keys + j, k)), k);
        });
    }
  });
}

inline void embed_gradient(int64_t rows, int64_t width, const float *dy, const float *normalized, const float *scale,
                           const Table (&tables)[3], const float *gamma, Dropout dropout, const int32_t *row_keys,
                           const int32_t *column_keys, float *const (&dweights)[3], float *dgamma, float *dbeta) {
  std::unique_ptr<float[]> kept, dz(new float[rows * width]);
  if (dropout.on) {
    kept.reset(new float[rows * width]);
    parallel_pieces(rows, 32, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        along(width, [&](int64_t j, int k) {
          const Floats factors = dropout.factors(row_keys[i], get(column_keys + j, k));
          put(&kept[i * width + j], get(dy + i * width + j, k) * factors, k);
        });
    });
    dy = kept.get();
  }
  norm_gradient(rows, width, dy, normalized, scale, gamma, dz.get(), dgamma, dbeta);
  for (int t = 0; t < 3; t++)
    parallel_pieces(tables[t].entries * width, 1 << 16,
                    [&](int64_t begin, int64_t end) { std::fill(dweights[t] + begin, dweights[t] + end, 0.0f); });
  // Each thread has columns of its own: rows may share an entry, and their sum must not depend on the threads.
  parallel_pieces(width, 4 * W, [&](int64_t begin, int64_t end) {
    for (int t = 0; t < 3; t++)
      for (int64_t i = 0; i < rows; i++) {
        float *to = dweights[t] + tables[t].ids[i] * width + begin;
        const float *from = &dz[i * width + begin];
        along(end - begin, [&](int64_t j, int k) { put(to + j, get(to + j, k) + get(from + j, k), k); });
      }
  });
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
