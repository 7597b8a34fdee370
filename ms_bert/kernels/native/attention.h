// softmax(Q K^T / sqrt(d) + mask) V on rows (batch * tokens, heads * d), without transposes; a token attends to its own
// sequence only and, where that is causal, to none after itself. Scores exist for a few queries of one head at a time;
// the backward pass computes them anew from two numbers a row (after Dao et al., 2022).
#pragma once

#include <cmath>

#include "functions.h"
#include "linear.h"

namespace ms_bert {
namespace MS_BERT_ISA {

class Attention {
 public:
  Attention(int64_t batch, int64_t tokens, int64_t heads, int64_t width, const float *query, const float *key,
            const float *value, const int32_t *ids, Dropout dropout, const int32_t *row_keys,
            const int32_t *column_keys, bool causal)
      : tokens_(tokens), heads_(heads), width_(width), size_(width / heads), tasks_(batch * heads),
        scale_(1.0f / std::sqrt(static_cast<float>(width / heads))), query_(query), key_(key), value_(value), ids_(ids),
        dropout_(dropout), row_keys_(row_keys), column_keys_(column_keys), causal_(causal) {
    // A block of scores takes 128 KiB, so that it stays in a second-level cache; no two rows share a set of the first.
    stride_ = (tokens + 15) / 16 * 16 + 16;
    block_ = std::min(tokens, std::max<int64_t>(2 * MR, (1 << 15) / stride_ / MR * MR));
  }

  // context (batch * tokens, width), 0 at padding; statistics (batch, heads, tokens, 2): of each row of scores the
  // largest, and 1 / the sum of e^(score - largest).
  void forward(float *context, float *statistics) const {
    parallel(tasks_, [&](int64_t task) {
      const int64_t row = task / heads_ * tokens_, column = task % heads_ * size_;
      const int32_t *ids = ids_ + row;
      float *statistic = statistics + task * tokens_ * 2, *scores = scratch(block_ * stride_);
      for (int64_t first = 0; first < tokens_; first += block_) {
        const int64_t high = std::min(block_, tokens_ - first);
        float *out = context + (row + first) * width_ + column;
        const Range keys = keys_of(ids, first, high);
        if (keys.count == 0) {
          clear(high, out);
          std::fill(statistic + 2 * first, statistic + 2 * (first + high), 0.0f);
          continue;
        }
        gemm(high, keys.count, size_, at(query_, row + first, column), across(key_, row + keys.first, column), scores,
             stride_, false, workspace());
        for (int64_t i = 0; i < high; i++) {
          const Row r{*this, task, row, first + i, ids, keys, seen_by(first + i, keys)};
          float *own = statistic + 2 * (first + i);
          r.softmax(scores + i * stride_, own);
        }
        gemm(high, size_, keys.count, rows_of(scores, stride_), at(value_, row + keys.first, column), out, width_,
             false, workspace());
        for (int64_t i = 0; i < high; i++) {
          if (ids[first + i] == 0) {
            clear(1, out + i * width_);
            continue;
          }
          const float inverse = statistic[2 * (first + i) + 1];
          along(size_, [&](int64_t j, int n) { put(out + i * width_ + j, get(out + i * width_ + j, n) * inverse, n); });
        }
      }
    });
  }

  void backward(const float *dcontext, const float *statistics, float *dquery, float *dkey, float *dvalue) const {
    parallel(tasks_, [&](int64_t task) {
      const int64_t row = task / heads_ * tokens_, column = task % heads_ * size_;
      const int32_t *ids = ids_ + row;
      const float *statistic = statistics + task * tokens_ * 2;
      float *scores = scratch(2 * block_ * stride_), *slopes = scores + block_ * stride_;
      clear(tokens_, dkey + row * width_ + column);
      clear(tokens_, dvalue + row * width_ + column);
      for (int64_t first = 0; first < tokens_; first += block_) {
        const int64_t high = std::min(block_, tokens_ - first);
        const Range keys = keys_of(ids, first, high);
        float *dq = dquery + (row + first) * width_ + column;
        if (keys.count == 0) {
          clear(high, dq);
          continue;
        }
        const Matrix q = at(query_, row + first, column), k = at(key_, row + keys.first, column);
        const Matrix dc = at(dcontext, row + first, column);
        float *dk = dkey + (row + keys.first) * width_ + column, *dv = dvalue + (row + keys.first) * width_ + column;
        Workspace &ws = workspace();
        gemm(high, keys.count, size_, q, across(key_, row + keys.first, column), scores, stride_, false, ws);
        gemm(high, keys.count, size_, dc, across(value_, row + keys.first, column), slopes, stride_, false, ws);
        for (int64_t i = 0; i < high; i++) {
          const Row r{*this, task, row, first + i, ids, keys, seen_by(first + i, keys)};
          r.slopes(scores + i * stride_, slopes + i * stride_, statistic + 2 * (first + i));
        }
        gemm(keys.count, size_, high, transposed(scores, stride_), dc, dv, width_, true, ws);
        gemm(high, size_, keys.count, rows_of(slopes, stride_), k, dq, width_, false, ws);
        gemm(keys.count, size_, high, transposed(slopes, stride_), q, dk, width_, true, ws);
      }
    });
  }

 private:
  struct Range {
    int64_t first, count;
  };

  // One row of scores: of the query at place `token` of the sequence row that begins at `begin`.
  struct Row {
    const Attention &all_;
    int64_t task, begin, token;
    const int32_t *ids;
    Range keys;
    int64_t seen;  // of the keys, the first so many

    MS_BERT_INLINE Ints same(int64_t j, int n) const {
      return get(ids + keys.first + j, n) == ids[token] && ids[token] != 0;
    }
    MS_BERT_INLINE Floats factors(int64_t j, int n) const {
      const int32_t *columns = all_.column_keys_ + task % all_.heads_ * all_.tokens_ + keys.first;
      return all_.dropout_.factors(all_.row_keys_[begin + token], get(columns + j, n));
    }

    // scores become e^(score - largest) times dropout's factors; the division by their sum is left to the context.
    void softmax(float *scores, float *statistic) const {
      const float least = -__builtin_inff();
      if (ids[token] == 0) {
        std::fill(scores, scores + keys.count, 0.0f);
        statistic[0] = statistic[1] = 0.0f;
        return;
      }
      Floats most = all(least);
      along(seen, [&](int64_t j, int n) {
        const Floats x = select(same(j, n), get(scores + j, n) * all_.scale_, all(least));
        put(scores + j, x, n);
        const Floats there = get(scores + j, n, least);
        most = select(there > most, there, most);
      });
      const float top = largest(most);
      Floats total{};
      along(seen, [&](int64_t j, int n) {
        const Floats e = exponential(get(scores + j, n, least) - top);
        total += e;
        put(scores + j, all_.dropout_.on ? e * factors(j, n) : e, n);
      });
      std::fill(scores + seen, scores + keys.count, 0.0f);
      statistic[0] = top;
      statistic[1] = 1.0f / sum(total);
    }

    // scores become the probabilities times dropout's factors, slopes (of the probabilities after dropout) those of the
    // scores: p (dp - sum(p dp)) / sqrt(d).
    void slopes(float *scores, float *slopes, const float *statistic) const {
      if (ids[token] == 0) {
        std::fill(scores, scores + keys.count, 0.0f);
        std::fill(slopes, slopes + keys.count, 0.0f);
        return;
      }
      const bool drops = all_.dropout_.on;
      Floats total{};
      along(seen, [&](int64_t j, int n) {
        const Floats e = exponential(get(scores + j, n) * all_.scale_ - statistic[0]) * statistic[1];
        const Floats p = select(same(j, n), e, Floats{});
        const Floats dp = drops ? get(slopes + j, n) * factors(j, n) : get(slopes + j, n);
        total += p * dp;
        put(scores + j, p, n);
        put(slopes + j, dp, n);
      });
      const float mean = sum(total);
      along(seen, [&](int64_t j, int n) {
        const Floats p = get(scores + j, n);
        put(slopes + j, p * (get(slopes + j, n) - mean) * all_.scale_, n);
        if (drops) put(scores + j, p * factors(j, n), n);
      });
      std::fill(scores + seen, scores + keys.count, 0.0f);
      std::fill(slopes + seen, slopes + keys.count, 0.0f);
    }
  };

  // The keys from the first to the last that some queries see; count 0: the queries are all padding.
  Range keys_of(const int32_t *ids, int64_t first, int64_t count) const {
    int32_t least = INT32_MAX, most = INT32_MIN;
    for (int64_t i = first; i < first + count; i++)
      if (ids[i] != 0) least = std::min(least, ids[i]), most = std::max(most, ids[i]);
    if (least > most) return {0, 0};
    const auto inside = [&](int64_t j) { return ids[j] != 0 && ids[j] >= least && ids[j] <= most; };
    int64_t begin = 0, end = causal_ ? first + count : tokens_;
    while (!inside(begin)) begin++;
    while (!inside(end - 1)) end--;
    return {begin, end - begin};
  }

  // How many of the keys stand no later than a query that is no padding.
  int64_t seen_by(int64_t token, Range keys) const {
    return causal_ ? std::min(keys.count, token + 1 - keys.first) : keys.count;
  }

  Matrix at(const float *x, int64_t row, int64_t column) const { return {x + row * width_ + column, width_, 1}; }
  Matrix across(const float *x, int64_t row, int64_t column) const { return {x + row * width_ + column, 1, width_}; }
  void clear(int64_t rows, float *x) const {
    for (int64_t i = 0; i < rows; i++) std::fill(x + i * width_, x + i * width_ + size_, 0.0f);
  }

  int64_t tokens_, heads_, width_, size_, tasks_, stride_, block_;
  float scale_;
  const float *query_, *key_, *value_;
  const int32_t *ids_;
  Dropout dropout_;
  const int32_t *row_keys_, *column_keys_;
  bool causal_;
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
