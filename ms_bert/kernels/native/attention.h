// softmax(Q K^T / sqrt(d) + mask) V on rows (batch * tokens, heads * d), without transposes; a token attends to its own
// sequence only and, where that is causal, to none after itself. Scores exist for a few queries of one head at a time,
// with the keys of their sequence, so that a packed row costs what its sequences cost alone; the backward pass computes
// them anew from two numbers a row (after Dao et al., 2022).
#pragma once

#include <cmath>

#include "functions.h"
#include "linear.h"

namespace ms_bert {
namespace MS_BERT_ISA {

template <typename T>
struct Projected {
  const T *query, *key, *value;
  int64_t row;  // numbers from a row of them to the next
};

template <typename T>
class Attention {
 public:
  Attention(int64_t batch, int64_t tokens, int64_t heads, int64_t width, Projected<T> x, const int32_t *ids,
            Dropout dropout, const int32_t *row_keys, const int32_t *column_keys, bool causal)
      : tokens_(tokens), heads_(heads), width_(width), size_(width / heads), tasks_(batch * heads),
        scale_(1.0f / std::sqrt(static_cast<float>(width / heads))), x_(x), ids_(ids), dropout_(dropout),
        row_keys_(row_keys), column_keys_(column_keys), causal_(causal) {
    // A block of scores takes 128 KiB, so that it stays in a second-level cache; no two rows share a set of the first.
    stride_ = (tokens + 15) / 16 * 16 + 16;
    block_ = std::min(tokens, std::max<int64_t>(2 * MR, (1 << 15) / stride_ / MR * MR));
  }

  // context (batch * tokens, width), 0 at padding; statistics (batch, heads, tokens, 2): of each row of scores the
  // largest, and 1 / the sum of e^(score - largest).
  void forward(float *context, float *statistics) const {
    parallel(tasks_, [&](int64_t task) { forward(task, tokens_, context, width_, statistics); });
  }

  // A part of it: head `task % heads` of row `task / heads`, of which the first `queries` tokens ask.
  template <typename C>
  void forward(int64_t task, int64_t queries, C *context, int64_t context_row, float *statistics) const {
    const int64_t row = task / heads_ * tokens_, column = task % heads_ * size_;
    const int64_t wide = (size_ + NR - 1) / NR * NR;  // room for whole tiles
    float *statistic = statistics + task * tokens_ * 2, *scores = scratch((block_ + 2) * stride_ + block_ * wide);
    float *sums = scores + (block_ + 2) * stride_;
    for (int64_t first = 0, high; first < queries; first += high) {
      const Block block(*this, task, first, queries, scores + block_ * stride_);
      high = block.queries;
      C *out = context + (row + first) * context_row + column;
      if (block.keys == 0) {
        clear(high, out, context_row);
        std::fill(statistic + 2 * first, statistic + 2 * (first + high), 0.0f);
        continue;
      }
      gemm(high, block.keys, size_, at(x_.query, row + first, column), across(x_.key, row + block.key, column), scores,
           stride_, false, workspace(), true);
      for (int64_t i = 0; i < high; i++) block.softmax(i, scores + i * stride_, statistic + 2 * (first + i));
      gemm(high, size_, block.keys, rows_of<float>(scores, stride_), at(x_.value, row + block.key, column), sums, wide,
           false, workspace(), true);
      for (int64_t i = 0; i < high; i++) {
        const float inverse = statistic[2 * (first + i) + 1];
        along(size_,
              [&](int64_t j, int n) { put(out + i * context_row + j, get(sums + i * wide + j, n) * inverse, n); });
      }
    }
  }

  void backward(const float *dcontext, const float *statistics, float *dquery, float *dkey, float *dvalue) const {
    parallel(tasks_, [&](int64_t task) {
      const int64_t row = task / heads_ * tokens_, column = task % heads_ * size_;
      const float *statistic = statistics + task * tokens_ * 2;
      float *scores = scratch((2 * block_ + 2) * stride_), *slopes = scores + block_ * stride_;
      clear(tokens_, dkey + row * width_ + column, width_);
      clear(tokens_, dvalue + row * width_ + column, width_);
      for (int64_t first = 0, high; first < tokens_; first += high) {
        const Block block(*this, task, first, tokens_, slopes + block_ * stride_);
        high = block.queries;
        float *dq = dquery + (row + first) * width_ + column;
        if (block.keys == 0) {
          clear(high, dq, width_);
          continue;
        }
        const Matrix<T> q = at(x_.query, row + first, column), k = at(x_.key, row + block.key, column);
        const Matrix<float> dc = {dcontext + (row + first) * width_ + column, width_, 1};
        float *dk = dkey + (row + block.key) * width_ + column, *dv = dvalue + (row + block.key) * width_ + column;
        Workspace &ws = workspace();
        gemm(high, block.keys, size_, q, across(x_.key, row + block.key, column), scores, stride_, false, ws, true);
        gemm(high, block.keys, size_, dc, across(x_.value, row + block.key, column), slopes, stride_, false, ws, true);
        for (int64_t i = 0; i < high; i++)
          block.slopes(i, scores + i * stride_, slopes + i * stride_, statistic + 2 * (first + i));
        gemm(block.keys, size_, high, transposed<float>(scores, stride_), dc, dv, width_, true, ws);
        gemm(high, size_, block.keys, rows_of<float>(slopes, stride_), k, dq, width_, false, ws);
        gemm(block.keys, size_, high, transposed<float>(slopes, stride_), q, dk, width_, true, ws);
      }
    });
  }

 private:
  // Neighbouring queries of one sequence, and the keys from the first to the last that some of them see; none where the
  // queries are padding. A row of scores has room for whole vectors, and so have the two rows of memory that it needs.
  struct Block {
    const Attention &whole;
    int64_t begin;           // the row of x at which the row of tokens begins
    int64_t query, queries;  // the first one's place in the row of tokens, and how many
    int64_t key, keys;
    int32_t *seen;     // of the keys: -1; 0 for those of other sequences and beyond the last one
    int32_t *columns;  // their keys of dropout

    Block(const Attention &attention, int64_t task, int64_t first, int64_t last, float *memory)
        : whole(attention), begin(task / whole.heads_ * whole.tokens_), query(first), queries(1), key(0), keys(0),
          seen(reinterpret_cast<int32_t *>(memory)), columns(seen + whole.stride_) {
      const int32_t *ids = whole.ids_ + begin, own = ids[first];
      const int64_t most = std::min(whole.block_, last - first);
      while (queries < most && ids[first + queries] == own) queries++;
      if (own == 0) return;
      int64_t end = whole.causal_ ? first + queries : whole.tokens_;
      while (ids[key] != own) key++;
      while (ids[end - 1] != own) end--;
      keys = end - key;
      for (int64_t j = 0; j < keys; j++) seen[j] = ids[key + j] == own ? -1 : 0;
      std::fill(seen + keys, seen + keys + W, 0);
      if (!whole.dropout_.on) return;
      const int32_t *from = whole.column_keys_ + task % whole.heads_ * whole.tokens_ + key;
      std::copy(from, from + keys, columns);
      std::fill(columns + keys, columns + keys + W, 0);
    }

    // The keys of query i are among the first so many.
    int64_t reach(int64_t i) const { return whole.causal_ ? std::min(keys, query + i + 1 - key) : keys; }
    MS_BERT_INLINE Ints visible(int64_t reach, int64_t j) const {
      const Ints own = load(seen + j);
      return whole.causal_ ? own & (lanes() < static_cast<int32_t>(reach - j)) : own;
    }
    MS_BERT_INLINE Floats factors(int64_t i, int64_t j) const {
      return whole.dropout_.factors(whole.row_keys_[begin + query + i], load(columns + j));
    }

    // scores become e^(score - largest) times dropout's factors; the division by their sum is left to the context.
    void softmax(int64_t i, float *scores, float *statistic) const {
      const int64_t end = reach(i);
      const Floats least = all(-__builtin_inff());
      Floats most = least;
      int64_t j = 0;
      for (; j < end; j += W) {
        const Floats x = select(visible(end, j), load(scores + j) * whole.scale_, least);
        store(scores + j, x);
        most = select(x > most, x, most);
      }
      const float top = largest(most);
      Floats total{};
      for (j = 0; j < end; j += W) {
        const Floats e = exponential(load(scores + j) - top);
        total += e;
        store(scores + j, whole.dropout_.on ? e * factors(i, j) : e);
      }
      for (; j < keys; j += W) store(scores + j, Floats{});
      statistic[0] = top;
      statistic[1] = 1.0f / sum(total);
    }

    // scores become the probabilities times dropout's factors, slopes (of the probabilities after dropout) those of the
    // scores: p (dp - sum(p dp)) / sqrt(d).
    void slopes(int64_t i, float *scores, float *slopes, const float *statistic) const {
      const int64_t end = reach(i);
      const bool drops = whole.dropout_.on;
      Floats total{};
      int64_t j = 0;
      for (; j < end; j += W) {
        const Floats e = exponential(load(scores + j) * whole.scale_ - statistic[0]) * statistic[1];
        const Floats p = select(visible(end, j), e, Floats{});
        const Floats dp = drops ? load(slopes + j) * factors(i, j) : load(slopes + j);
        total += p * dp;
        store(scores + j, p);
        store(slopes + j, dp);
      }
      const float mean = sum(total);
      for (j = 0; j < end; j += W) {
        const Floats p = load(scores + j);
        store(slopes + j, p * (load(slopes + j) - mean) * whole.scale_);
        if (drops) store(scores + j, p * factors(i, j));
      }
      for (; j < keys; j += W) {
        store(scores + j, Floats{});
        store(slopes + j, Floats{});
      }
    }
  };

  Matrix<T> at(const T *x, int64_t row, int64_t column) const { return {x + row * x_.row + column, x_.row, 1}; }
  Matrix<T> across(const T *x, int64_t row, int64_t column) const { return {x + row * x_.row + column, 1, x_.row}; }
  template <typename C>
  void clear(int64_t rows, C *x, int64_t row) const {
    for (int64_t i = 0; i < rows; i++) std::fill(x + i * row, x + i * row + size_, C{});
  }

  int64_t tokens_, heads_, width_, size_, tasks_, stride_, block_;
  float scale_;
  Projected<T> x_;
  const int32_t *ids_;
  Dropout dropout_;
  const int32_t *row_keys_, *column_keys_;
  bool causal_;
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
