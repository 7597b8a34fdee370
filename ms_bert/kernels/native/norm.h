// Layer normalisation of rows (Ba et al., 2016), biased variance.
#pragma once

#include <cmath>

#include "threads.h"
#include "units.h"

namespace ms_bert {
namespace MS_BERT_ISA {

struct Norm {
  const float *gamma, *beta;
  float epsilon;

  // y = gamma n + beta, where n is what z (width) is normalised to, and stays in `normalized`. z is overwritten and may
  // be y or `normalized`. Returns 1 / sqrt(variance + epsilon).
  template <typename T>
  float apply(int64_t width, float *z, float *y, T *normalized) const {
    Floats total{};
    along(width, [&](int64_t j, int k) { total += get(z + j, k); });
    const float mean = sum(total) / width;
    Floats squares{};
    along(width, [&](int64_t j, int k) {
      const Floats centred = get(z + j, k, mean) - mean;
      put(z + j, centred, k);
      squares += centred * centred;
    });
    const float scale = 1.0f / std::sqrt(sum(squares) / width + epsilon);
    along(width, [&](int64_t j, int k) {
      const Floats n = get(z + j, k) * scale;
      put(normalized + j, n, k);
      put(y + j, n * get(gamma + j, k) + get(beta + j, k), k);
    });
    return scale;
  }
};

// dz = scale (g - mean(g) - normalized mean(g normalized)) with g = dy gamma; dgamma and dbeta are summed over rows, in
// pieces of rows whose sums are then added, so that neither rounding errors pile up nor threads matter.
template <typename T>
inline void norm_gradient(int64_t rows, int64_t width, const float *dy, const T *normalized, const float *scale,
                          const float *gamma, float *dz, float *dgamma, float *dbeta) {
  constexpr int64_t piece = 32;
  const int64_t pieces = (rows + piece - 1) / piece;
  float *sums = scratch(pieces * 2 * width);
  parallel_pieces(rows, piece, [&](int64_t begin, int64_t end) {
    float *own_gamma = sums + begin / piece * 2 * width, *own_beta = own_gamma + width;
    std::fill(own_gamma, own_beta + width, 0.0f);
    for (int64_t i = begin; i < end; i++) {
      const float *d = dy + i * width;
      const T *n = normalized + i * width;
      Floats total{}, product{};
      along(width, [&](int64_t j, int k) {
        const Floats dj = get(d + j, k), nj = get(n + j, k), g = dj * get(gamma + j, k);
        total += g;
        product += g * nj;
        put(own_gamma + j, get(own_gamma + j, k) + dj * nj, k);
        put(own_beta + j, get(own_beta + j, k) + dj, k);
      });
      const float mean = sum(total) / width, mean_product = sum(product) / width;
      along(width, [&](int64_t j, int k) {
        const Floats g = get(d + j, k) * get(gamma + j, k);
        put(dz + i * width + j, (g - mean - get(n + j, k) * mean_product) * scale[i], k);
      });
    }
  });
  std::fill(dgamma, dgamma + width, 0.0f);
  std::fill(dbeta, dbeta + width, 0.0f);
  for (int64_t i = 0; i < pieces; i++)
    for (int64_t j = 0; j < width; j++) {
      dgamma[j] += sums[i * 2 * width + j];
      dbeta[j] += sums[(i * 2 + 1) * width + j];
    }
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
