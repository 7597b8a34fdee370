// The kernels for one instruction set; the build compiles this file once for each, and, of int8, only the encoder.
#include "kernels.h"

#include <chrono>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "encoder.h"
#if !defined(MS_BERT_INT8)
#include "cross_entropy.h"
#include "optimizer.h"
#endif

namespace ms_bert {
namespace MS_BERT_ISA {
namespace {

#if !defined(MS_BERT_INT8)

// Of a linear layer; rows: of array `x`.
Shape shape_of(const Arrays &a, int x, int weight) { return {a.size(x, 0), a.size(weight, 1), a.size(weight, 0)}; }

// A user's own model may bring arrays together that do not fit; the forward pass sees them first, and before it reads
// or writes any.
void require_equal(const char *what, int64_t found, int64_t expected) {
  if (found != expected)
    throw std::invalid_argument(std::string(what) + ": " + std::to_string(found) + " where " +
                                std::to_string(expected) + " were expected");
}

// The same of x (rows, inputs) and its weight.
Shape fitting(const Arrays &a, int x, int weight) {
  const Shape s = shape_of(a, x, weight);
  if (s.rows > 0) require_equal("numbers in a row", a.count(x) / s.rows, s.inputs);
  return s;
}

namespace entry {

// What a gradient reads: in float32 inputs of the forward pass, else outputs of its own.
const Kept *kept(const Arrays &a, int i) { return static_cast<const Kept *>(a.data[i]); }
Kept *kept_out(const Arrays &a, int i) { return static_cast<Kept *>(a.data[i]); }

// An input as it is kept, in output i where that is not the input itself.
const Kept *keep(const Arrays &a, int input, int i) {
  constexpr bool itself = std::is_same_v<Kept, float>;
  return MS_BERT_ISA::keep(a.count(input), a.floats(input), itself ? nullptr : static_cast<Kept *>(a.data[i]));
}

void linear(const Arrays &a) { MS_BERT_ISA::linear(fitting(a, 0, 1), a.floats(0), a.floats(1), a.floats(2), a.out(3)); }

void linear_gradient(const Arrays &a) {
  const Shape s = shape_of(a, 0, 2);
  const float *x = a.floats(1);
  std::unique_ptr<Kept[]> own(std::is_same_v<Kept, float> ? nullptr : new Kept[s.rows * s.inputs]);
  MS_BERT_ISA::linear_gradient(s, rounded(s.rows * s.outputs, a.floats(0)),
                               MS_BERT_ISA::keep(s.rows * s.inputs, x, own.get()), a.floats(2), a.out(3), a.out(4),
                               a.out(5));
}

void projections(const Arrays &a) {
  const float *weights[] = {a.floats(1), a.floats(3), a.floats(5)}, *biases[] = {a.floats(2), a.floats(4), a.floats(6)};
  float *y[] = {a.out(7), a.out(8), a.out(9)};
  const Shape s = fitting(a, 0, 1);
  MS_BERT_ISA::linear(s, keep(a, 0, 10), 3, weights, biases, y);
}

void projections_gradient(const Arrays &a) {
  const Shape s = shape_of(a, 0, 4);
  for (int i = 0; i < 3; i++)
    MS_BERT_ISA::linear_gradient(s, rounded(s.rows * s.outputs, a.floats(i)), kept(a, 3), a.floats(4 + i), a.out(7),
                                 a.out(8 + 2 * i), a.out(9 + 2 * i), i > 0);
}

template <typename Function>
void activation(const Arrays &a) {
  const Shape s = fitting(a, 0, 1);
  linear_activation<Function>(s, keep(a, 0, 5), a.floats(1), a.floats(2), a.out(3), kept_out(a, 4));
}

template <typename Function>
void activation_gradient(const Arrays &a) {
  linear_activation_gradient<Function>(shape_of(a, 0, 3), a.floats(0), kept(a, 1), kept(a, 2), a.floats(3), a.out(4),
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
  const Shape s = fitting(a, 0, 1);
  require_equal("numbers of the residual", a.count(3), s.rows * s.outputs);
  MS_BERT_ISA::linear_dropout_add_norm(s, keep(a, 0, 12), a.floats(1), a.floats(2), a.floats(3),
                                       Norm{a.floats(4), a.floats(5), settings[3]}, Dropout(settings), a.ints(6),
                                       a.ints(7), a.out(9), kept_out(a, 10), a.out(11));
}

void linear_dropout_add_norm_gradient(const Arrays &a) {
  MS_BERT_ISA::linear_dropout_add_norm_gradient(shape_of(a, 0, 4), a.floats(0), kept(a, 1), a.floats(2), kept(a, 3),
                                                a.floats(4), a.floats(5), Dropout(a.floats(8)), a.ints(6), a.ints(7),
                                                a.out(9), a.out(10), a.out(11), a.out(12), a.out(13), a.out(14));
}

void layer_norm(const Arrays &a) {
  const int64_t width = a.size(0, 1);
  const Norm norm{a.floats(1), a.floats(2), a.floats(3)[0]};
  parallel_pieces(a.size(0, 0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      std::copy(a.floats(0) + i * width, a.floats(0) + (i + 1) * width, a.out(5) + i * width);
      a.out(6)[i] = norm.apply(width, a.out(5) + i * width, a.out(4) + i * width, a.out(5) + i * width);
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
  require_equal("token types", a.count(1), a.count(0));
  require_equal("positions", a.count(2), a.count(0));
  for (int t = 0; t < 3; t++)
    for (int64_t i = 0; i < a.count(0); i++)
      if (!tables[t].has(i)) {
        const char *names[] = {"an id", "a token type", "a position"};
        throw std::invalid_argument(std::string(names[t]) + " is " + std::to_string(tables[t].ids[i]) +
                                    ", but its table has the entries 0 to " + std::to_string(tables[t].entries - 1));
      }
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

// x: from the rows of queries, keys and values. ids, keys: the first of these arrays; context: one of its shape.
Attention<Kept> attention_of(const Arrays &a, Projected<Kept> x, int context, int ids, int keys) {
  const float *settings = a.floats(keys + 2);
  x.row = a.size(context, 1);
  return Attention<Kept>(a.size(ids, 0), a.size(ids, 1), static_cast<int64_t>(settings[3]), x.row, x, a.ints(ids),
                         Dropout(settings), a.ints(keys), a.ints(keys + 1), settings[4] != 0.0f);
}

void attention(const Arrays &a) {
  require_equal("sequence ids (the attention mask)", a.count(3), a.size(0, 0));
  require_equal("numbers of the keys", a.count(1), a.count(0));
  require_equal("numbers of the values", a.count(2), a.count(0));
  const Projected<Kept> x{keep(a, 0, 9), keep(a, 1, 10), keep(a, 2, 11), 0};
  attention_of(a, x, 7, 3, 4).forward(a.out(7), a.out(8));
}

void attention_gradient(const Arrays &a) {
  const Projected<Kept> x{kept(a, 1), kept(a, 2), kept(a, 3), 0};
  attention_of(a, x, 0, 4, 6).backward(a.floats(0), a.floats(5), a.out(9), a.out(10), a.out(11));
}

void linear_cross_entropy(const Arrays &a) {
  require_equal("labels", a.count(3), a.size(0, 0));
  MS_BERT_ISA::linear_cross_entropy(fitting(a, 0, 1), a.floats(0), a.floats(1), a.floats(2), a.ints(3), a.out(4),
                                    a.out(5), kept_out(a, 6));
}

void linear_cross_entropy_gradient(const Arrays &a) {
  MS_BERT_ISA::linear_cross_entropy_gradient(shape_of(a, 2, 3), a.floats(0), kept(a, 1), a.floats(2), a.floats(3),
                                             a.out(4), a.out(5), a.out(6));
}

// Values of a row of an array: all its axes but the first.
int64_t row_of(const Arrays &a, int i) { return a.count(i) / std::max<int64_t>(1, a.size(i, 0)); }

void sums_of_squares(const Arrays &a) { MS_BERT_ISA::sums_of_squares(a.count(0), row_of(a, 0), a.floats(0), a.out(1)); }

void adam(const Arrays &a) {
  const float *s = a.floats(4);
  const Adam adam{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]};
  adam.update(a.count(0), a.out(0), a.out(1), a.out(2), a.floats(3));
  *a.out(5) = 1.0f;
}

Lamb lamb_of(const float *s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9]}; }

void lamb_moments(const Arrays &a) {
  const Lamb lamb = lamb_of(a.floats(4));
  lamb.moments(a.count(0), row_of(a, 0), a.floats(0), a.out(1), a.out(2), a.floats(3), a.out(5));
}

void lamb_update(const Arrays &a) {
  const float *settings = a.floats(4);
  const bool adapted = settings[10] != 0.0f;
  lamb_of(settings).update(a.count(0), a.out(0), a.floats(1), a.floats(2), adapted ? a.size(3, 0) : 0, a.floats(3));
  *a.out(5) = 1.0f;
}

}  // namespace entry

using OfEncoders = Plain;
#else
using OfEncoders = Bytes;
#endif

// For each row of a tile; the depth is the same for all precisions, and so is the work.
double product_seconds() {
  using P = OfEncoders::P;
  constexpr int depth = 512 / OfEncoders::PER_UNIT, columns = 4 * NR;
  static P::Unit a[P::HIGH * STRIDE], b[columns * depth];
  P::Sum c[P::HIGH * columns];
  const Tiles<P> tiles;
  double least = 1e9;
  for (int attempt = 0; attempt < 20; attempt++) {
    const auto begin = std::chrono::steady_clock::now();
    for (int j = 0; j < columns; j += NR)
      for (int k = 0; k < depth; k += KU)
        tile_of<STRIDE, 1, false, P>(P::HIGH)(std::min(KU, depth - k), a, b + j * depth + k * NR, c + j, columns, k > 0,
                                              nullptr, {});
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    least = std::min(least, took.count() / P::HIGH);
  }
  return least;
}

}  // namespace

extern const Kernels kernels = {
    [](const EncoderShape &shape, const float *const *arrays) -> void * { return new Encoder(shape, arrays); },
    [](const void *encoder, const Encoded &asked) { static_cast<const Encoder *>(encoder)->run(asked); },
    [](void *encoder) { delete static_cast<Encoder *>(encoder); }, product_seconds,
#if !defined(MS_BERT_INT8)
#define MS_BERT_NAME(name) entry::name,
    MS_BERT_KERNELS(MS_BERT_NAME)
#undef MS_BERT_NAME
#endif
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
