// The kernels for one instruction set; the build compiles this file once for each.
#include "kernels.h"

#include <chrono>

#include "attention.h"
#include "cross_entropy.h"
#include "embeddings.h"
#include "encoder.h"
#include "linear.h"
#include "norm.h"
#include "optimizer.h"

namespace ms_bert {
namespace MS_BERT_ISA {
namespace {

Shape shape_of(const Arrays &a, int x, int weight) { return {a.size(x, 0), a.size(weight, 1), a.size(weight, 0)}; }

namespace entry {

void linear(const Arrays &a) {
  MS_BERT_ISA::linear(shape_of(a, 0, 1), a.floats(0), a.floats(1), a.floats(2), a.out(3));
}

void projections(const Arrays &a) {
  const float *weights[] = {a.floats(1), a.floats(3), a.floats(5)}, *biases[] = {a.floats(2), a.floats(4), a.floats(6)};
  float *y[] = {a.out(7), a.out(8), a.out(9)};
  MS_BERT_ISA::linear(shape_of(a, 0, 1), a.floats(0), 3, weights, biases, y);
}

void projections_gradient(const Arrays &a) {
  const Shape s = shape_of(a, 3, 4);
  for (int i = 0; i < 3; i++)
    MS_BERT_ISA::linear_gradient(s, a.floats(i), a.floats(3), a.floats(4 + i), a.out(7), a.out(8 + 2 * i),
                                 a.out(9 + 2 * i), i > 0);
}

void linear_gradient(const Arrays &a) {
  MS_BERT_ISA::linear_gradient(shape_of(a, 1, 2), a.floats(0), a.floats(1), a.floats(2), a.out(3), a.out(4), a.out(5));
}

template <typename Function>
void activation(const Arrays &a) {
  linear_activation<Function>(shape_of(a, 0, 1), a.floats(0), a.floats(1), a.floats(2), a.out(3), a.out(4));
}

template <typename Function>
void activation_gradient(const Arrays &a) {
  linear_activation_gradient<Function>(shape_of(a, 2, 3), a.floats(0), a.floats(1), a.floats(2), a.floats(3), a.out(4),
                                       a.out(5), a.out(6));
}

constexpr auto linear_gelu = activation<Gelu>;
constexpr auto linear_gelu_gradient = activation_gradient<Gelu>;
constexpr auto linear_gelu_new = activation<GeluNew>;
constexpr auto linear_gelu_new_gradient = activation_gradient<GeluNew>;
constexpr auto linear_relu = activation<Relu>;
constexpr auto linear_relu_gradient = activation_gradient<Relu>;

void linear_dropout_add_norm(const Arrays &a) {
  const float *settings = a.floats(8);
  MS_BERT_ISA::linear_dropout_add_norm(shape_of(a, 0, 1), a.floats(0), a.floats(1), a.floats(2), a.floats(3),
                                       Norm{a.floats(4), a.floats(5), settings[3]}, Dropout(settings), a.ints(6),
                                       a.ints(7), a.out(9), a.out(10), a.out(11));
}

void linear_dropout_add_norm_gradient(const Arrays &a) {
  MS_BERT_ISA::linear_dropout_add_norm_gradient(shape_of(a, 3, 4), a.floats(0), a.floats(1), a.floats(2), a.floats(3),
                                                a.floats(4), a.floats(5), Dropout(a.floats(8)), a.ints(6), a.ints(7),
                                                a.out(9), a.out(10), a.out(11), a.out(12), a.out(13), a.out(14));
}

void layer_norm(const Arrays &a) {
  const int64_t width = a.size(0, 1);
  const Norm norm{a.floats(1), a.floats(2), a.floats(3)[0]};
  parallel_pieces(a.size(0, 0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      std::copy(a.floats(0) + i * width, a.floats(0) + (i + 1) * width, a.out(5) + i * width);
      a.out(6)[i] = norm.apply(width, a.out(5) + i * width, a.out(4) + i * width);
    }
  });
}

void layer_norm_gradient(const Arrays &a) {
  norm_gradient(a.size(0, 0), a.size(0, 1), a.floats(0), a.floats(1), a.floats(2), a.floats(3), a.out(4), a.out(5),
                a.out(6));
}

void embed(const Arrays &a) {
  const Table tables[] = {{a.ints(0), a.size(3, 0)}, {a.ints(1), a.size(4, 0)}, {a.ints(2), a.size(5, 0)}};
  const float *settings = a.floats(10);
  MS_BERT_ISA::embed(a.count(0), a.size(3, 1), tables, {a.floats(3), a.floats(4), a.floats(5)},
                     Norm{a.floats(6), a.floats(7), settings[3]}, Dropout(settings), a.ints(8), a.ints(9), a.out(11),
                     a.out(12), a.out(13));
}

void embed_gradient(const Arrays &a) {
  const Table tables[] = {{a.ints(3), a.size(10, 0)}, {a.ints(4), a.size(11, 0)}, {a.ints(5), a.size(12, 0)}};
  MS_BERT_ISA::embed_gradient(a.size(0, 0), a.size(0, 1), a.floats(0), a.floats(1), a.floats(2), tables, a.floats(6),
                              Dropout(a.floats(9)), a.ints(7), a.ints(8), {a.out(13), a.out(14), a.out(15)}, a.out(16),
                              a.out(17));
}

Attention attention_of(const Arrays &a, int query, int ids, int keys) {
  const float *settings = a.floats(keys + 2);
  const Projected x{a.floats(query), a.floats(query + 1), a.floats(query + 2), a.size(query, 1)};
  return Attention(a.size(ids, 0), a.size(ids, 1), static_cast<int64_t>(settings[3]), a.size(query, 1), x, a.ints(ids),
                   Dropout(settings), a.ints(keys), a.ints(keys + 1), settings[4] != 0.0f);
}

void attention(const Arrays &a) { attention_of(a, 0, 3, 4).forward(a.out(7), a.out(8)); }

void attention_gradient(const Arrays &a) {
  attention_of(a, 1, 4, 6).backward(a.floats(0), a.floats(5), a.out(9), a.out(10), a.out(11));
}

void linear_cross_entropy(const Arrays &a) {
  MS_BERT_ISA::linear_cross_entropy(shape_of(a, 0, 1), a.floats(0), a.floats(1), a.floats(2), a.ints(3), a.out(4),
                                    a.out(5), a.out(6));
}

void linear_cross_entropy_gradient(const Arrays &a) {
  MS_BERT_ISA::linear_cross_entropy_gradient(shape_of(a, 2, 3), a.floats(0), a.floats(1), a.floats(2), a.floats(3),
                                             a.out(4), a.out(5), a.out(6));
}

void sum_of_squares(const Arrays &a) { *a.out(1) = MS_BERT_ISA::sum_of_squares(a.count(0), a.floats(0)); }

void adam(const Arrays &a) {
  const float *s = a.floats(4);
  const Adam adam{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]};
  adam.update(a.count(0), a.out(0), a.out(1), a.out(2), a.floats(3));
  *a.out(5) = 1.0f;
}

void lamb(const Arrays &a) {
  const float *s = a.floats(4);
  const Lamb lamb{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10] != 0.0f};
  lamb.update(a.count(0), a.out(0), a.out(1), a.out(2), a.floats(3));
  *a.out(5) = 1.0f;
}

}  // namespace entry

// The depth is the same for all precisions, and so is the work.
double product_seconds() {
  constexpr int depth = 512, columns = 4 * NR;
  float c[MR * columns];
  Workspace &ws = workspace();
  std::fill(ws.b, ws.b + columns * units_of(depth), Unit{});
  std::fill(ws.a, ws.a + MR * STRIDE, Unit{});
  double least = 1e9;
  for (int attempt = 0; attempt < 20; attempt++) {
    const auto begin = std::chrono::steady_clock::now();
    for (int j = 0; j < columns; j += NR)
      for (int k = 0; k < units_of(depth); k += KU)
        tile_of<STRIDE, 1>(MR)(std::min(KU, units_of(depth) - k), ws.a, ws.b + j * units_of(depth) + k * NR, c + j,
                               columns, k > 0);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    least = std::min(least, took.count());
  }
  return least;
}

}  // namespace

extern const Kernels kernels = {
    [](const EncoderShape &shape, const float *const *arrays) -> void * { return new Encoder(shape, arrays); },
    [](const void *encoder, const Encoded &asked) { static_cast<const Encoder *>(encoder)->run(asked); },
    [](void *encoder) { delete static_cast<Encoder *>(encoder); }, product_seconds,
#define MS_BERT_NAME(name) entry::name,
    MS_BERT_KERNELS(MS_BERT_NAME)
#undef MS_BERT_NAME
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
