// The whole encoder for inference: from token ids to hidden states in one call, for sequences of any lengths without
// padding. What it computes of a sequence depends neither on the others nor on the threads.
#pragma once

#include <vector>

#include "attention.h"
#include "embeddings.h"
#include "kernels.h"
#include "packed.h"

namespace ms_bert {
namespace MS_BERT_ISA {

class Encoder {
 public:
  Encoder(const EncoderShape &shape, const float *const *arrays)
      : shape_(shape), tables_{arrays[0], arrays[1], arrays[2]}, norm_(norm(arrays + 3)) {
    const int64_t width = shape_.width, inner = shape_.inner;
    layers_.reserve(shape_.layers);
    for (int64_t i = 0; i < shape_.layers; i++) {
      const float *const *a = arrays + 5 + 16 * i;
      layers_.push_back(Layer{{width, width, {a[0], a[2], a[4]}, {a[1], a[3], a[5]}},
                              {width, width, {a[6]}, {a[7]}},
                              {width, inner, {a[10]}, {a[11]}},
                              {inner, width, {a[12]}, {a[13]}},
                              norm(a + 8),
                              norm(a + 14)});
    }
  }

  void run(const Encoded &asked) const {
    // Sequences are computed some at a time: few enough that their rows stay in the caches, enough for all threads.
    const int64_t most = MOST_ROWS * std::max(2, threads());
    std::vector<int64_t> begins;
    int64_t tokens = 0, longest = 0;
    for (int64_t i = 0; i < asked.sequences; i++) {
      longest = std::max(longest, asked.starts[i + 1] - asked.starts[i]);
      if (begins.empty() || asked.starts[i + 1] - asked.starts[begins.back()] > most) begins.push_back(i);
      tokens = std::max(tokens, asked.starts[i + 1] - asked.starts[begins.back()]);
    }
    begins.push_back(asked.sequences);
    Work work(*this, tokens, longest);
    const int64_t *read = asked.read, *end = asked.read + asked.reads;
    float *found = asked.found;
    for (size_t i = 0; i + 1 < begins.size(); i++) {
      const int64_t *next = read;
      while (next < end && *next < asked.starts[begins[i + 1]]) next++;
      some(asked, begins[i], begins[i + 1], read, next, found, work);
      found += (next - read) * shape_.width;
      read = next;
    }
  }

 private:
#if defined(MS_BERT_INT8)
  using Linear = Packed<Bytes>;
#else
  using Linear = Packed<Plain>;
#endif
  struct Layer {
    Linear projections, output, widening, narrowing;
    Norm attention_norm, norm;
  };

  class Room {
   public:
    explicit Room(int64_t count) : memory_(floats_for(count)) {}
    Kept *get() const { return reinterpret_cast<Kept *>(memory_.get()); }

   private:
    Memory memory_;
  };

  // Arrays of rows, each with room for whole tiles; what is only multiplied with is rounded to what products read.
  struct Work {
    int64_t row, row_of_three, row_of_inner;
    Memory hidden, attended, statistics;
    Room projected, context, wide;
    std::vector<int32_t> ids;
    Work(const Encoder &e, int64_t tokens, int64_t longest)
        : row(in_tiles(e.shape_.width)), row_of_three(in_tiles(3 * e.shape_.width)),
          row_of_inner(in_tiles(e.shape_.inner)), hidden(tokens * row), attended(tokens * row),
          statistics(2 * tokens * e.shape_.heads), projected(tokens * row_of_three), context(tokens * row),
          wide(tokens * row_of_inner), ids(longest, 1) {}
  };

  Norm norm(const float *const *arrays) const { return {arrays[0], arrays[1], shape_.epsilon}; }

  // Sequences `first` to `last`, of whose tokens `read` to `end` are asked.
  void some(const Encoded &asked, int64_t first, int64_t last, const int64_t *read, const int64_t *end, float *found,
            Work &work) const {
    const int64_t begin = asked.starts[first], tokens = asked.starts[last] - begin;
    embed(asked, first, last, work);
    hand_over(asked, 0, begin, tokens, work);
    for (int64_t i = 0; i < shape_.layers; i++) {
      const Layer &layer = layers_[i];
      const bool all = i + 1 < shape_.layers || asked.states[shape_.layers] != nullptr;
      layer.projections.product(tokens, work.hidden.get(), work.row, into(work.projected.get(), work.row_of_three),
                                nothing);
      attend(asked, first, last, all ? nullptr : read, end, work);
      int64_t rows = tokens;
      if (!all) {
        rows = end - read;
        for (int64_t r = 0; r < rows; r++) {
          const int64_t to = r * work.row, from = (read[r] - begin) * work.row;
          memmove(work.hidden.get() + to, work.hidden.get() + from, shape_.width * sizeof(float));
          memmove(work.context.get() + to, work.context.get() + from, shape_.width * sizeof(Kept));
        }
      }
      finish(layer, rows, work);
      if (all) hand_over(asked, i + 1, begin, tokens, work);
    }
    const bool all = asked.states[shape_.layers] != nullptr || shape_.layers == 0;
    for (int64_t r = 0; r < end - read; r++) {
      const float *x = work.hidden.get() + (all ? read[r] - begin : r) * work.row;
      std::copy(x, x + shape_.width, found + r * shape_.width);
    }
  }

  void embed(const Encoded &asked, int64_t first, int64_t last, Work &work) const {
    const int64_t begin = asked.starts[first];
    parallel(last - first, [&](int64_t s) {
      for (int64_t t = asked.starts[first + s]; t < asked.starts[first + s + 1]; t++) {
        float *x = work.hidden.get() + (t - begin) * work.row;
        const int64_t position = asked.positions ? asked.positions[t] : t - asked.starts[first + s];
        const int64_t entries[] = {asked.ids[t], asked.types[t], position};
        std::fill(x, x + shape_.width, 0.0f);
        for (int i = 0; i < 3; i++) {
          if (entries[i] < 0 || entries[i] >= shape_.entries[i]) continue;
          const float *entry = tables_[i] + entries[i] * shape_.width;
          along(shape_.width, [&](int64_t j, int n) { put(x + j, get(x + j, n) + get(entry + j, n), n); });
        }
        norm_.apply(shape_.width, x, x, x);
      }
    });
  }

  // The context of the tokens that are read, or without any of all.
  void attend(const Encoded &asked, int64_t first, int64_t last, const int64_t *read, const int64_t *end,
              Work &work) const {
    const int64_t begin = asked.starts[first], width = shape_.width;
    parallel((last - first) * shape_.heads, [&](int64_t task) {
      const int64_t *bounds = asked.starts + first + task / shape_.heads, tokens = bounds[1] - bounds[0];
      const int64_t place = bounds[0] - begin;
      int64_t queries = tokens;
      if (read) {
        const int64_t *after = std::lower_bound(read, end, bounds[1]);
        queries = after > read && after[-1] >= bounds[0] ? after[-1] - bounds[0] + 1 : 0;
      }
      const Kept *x = work.projected.get() + place * work.row_of_three;
      const Attention<Kept> attention(1, tokens, shape_.heads, width, {x, x + width, x + 2 * width, work.row_of_three},
                                      work.ids.data(), Dropout(), nullptr, nullptr, shape_.causal);
      attention.forward(task % shape_.heads, queries, work.context.get() + place * work.row, work.row,
                        work.statistics.get() + 2 * place * shape_.heads);
    });
  }

  // What follows the attention of a layer.
  void finish(const Layer &layer, int64_t rows, Work &work) const {
    float *hidden = work.hidden.get(), *attended = work.attended.get();
    const int64_t row = work.row;
    const auto normalized = [width = shape_.width, row](const Norm &norm, float *x) {
      return [=](int64_t begin, int64_t end) {
        for (float *own = x + begin * row; own < x + end * row; own += row) norm.apply(width, own, own, own);
      };
    };
    layer.output.product(rows, work.context.get(), row, onto(hidden, attended, row),
                         normalized(layer.attention_norm, attended));
    switch (shape_.activation) {
      case 0:
        widen<Gelu>(layer, rows, work);
        break;
      case 1:
        widen<GeluNew>(layer, rows, work);
        break;
      default:
        widen<Relu>(layer, rows, work);
    }
    layer.narrowing.product(rows, work.wide.get(), work.row_of_inner, onto(attended, hidden, row),
                            normalized(layer.norm, hidden));
  }

  template <typename Function>
  void widen(const Layer &layer, int64_t rows, Work &work) const {
    const auto put = into(work.wide.get(), work.row_of_inner);
    const auto activate = [put](int64_t i, int64_t n, Floats a, Floats b) {
      put(i, n, Function::value(a), Function::value(b));
    };
    layer.widening.product(rows, work.attended.get(), work.row, activate, nothing);
  }

  // The hidden states of a layer, if they are asked.
  void hand_over(const Encoded &asked, int64_t layer, int64_t begin, int64_t tokens, const Work &work) const {
    if (!asked.states[layer]) return;
    for (int64_t t = 0; t < tokens; t++) {
      const float *x = work.hidden.get() + t * work.row;
      std::copy(x, x + shape_.width, asked.states[layer] + (begin + t) * shape_.width);
    }
  }

  EncoderShape shape_;
  const float *tables_[3];
  Norm norm_;
  std::vector<Layer> layers_;
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
