// Work shared between threads, and the memory that they work in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace ms_bert {

using Task = void (*)(void *context, int64_t i);

void set_threads(int threads);                        // 0: as many as the process may run on
int threads();                                        // how many may be used
void share(int64_t tasks, void *context, Task task);  // task(context, i) for each i, by all of them
// Aligned memory of the calling thread, valid until it asks again for the same one of two; never shrinks.
float *scratch(int64_t floats, int which = 0);

// Aligned floats of nobody's yet; throws std::bad_alloc.
class Memory {
 public:
  explicit Memory(int64_t floats);
  float *get() const { return floats_.get(); }

 private:
  struct Free {
    void operator()(float *p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> floats_;
};

// f(i) for i = 0 .. tasks - 1, in any order and at once. What f computes must not depend on the order.
template <typename F>
void parallel(int64_t tasks, F f) {
  if (tasks <= 1 || threads() == 1) {
    for (int64_t i = 0; i < tasks; i++) f(i);
    return;
  }
  share(tasks, &f, [](void *context, int64_t i) { (*static_cast<F *>(context))(i); });
}

// f(begin, end) for pieces of 0 .. total - 1, each `piece` long but the last.
template <typename F>
void parallel_pieces(int64_t total, int64_t piece, F f) {
  parallel((total + piece - 1) / piece, [&](int64_t i) { f(i * piece, std::min(total, (i + 1) * piece)); });
}

// How a matrix is cut into parts that threads take one after the other.
struct Cut {
  int64_t rows, columns, high, wide;  // of the matrix; of a part
  // Parts are rather high than wide, for each thread packs the columns that it multiplies with; two for each thread, so
  // that one that is held up does not hold up the others.
  Cut(int64_t rows, int64_t columns, int row_tile, int column_tile) : rows(rows), columns(columns) {
    const int64_t wanted = threads() == 1 ? 1 : 2 * threads();
    int64_t down = std::clamp<int64_t>(rows / 256, 1, wanted);
    int64_t across = std::clamp<int64_t>(columns / 256, 1, (wanted + down - 1) / down);
    if (down * across < threads()) across = std::clamp<int64_t>(columns / 64, 1, wanted);
    if (down * across < threads()) down = std::clamp<int64_t>(rows / 32, 1, wanted);
    high = rounded((rows + down - 1) / down, row_tile);
    wide = rounded((columns + across - 1) / across, column_tile);
  }
  template <typename F>  // f(first row, rows, first column, columns)
  void run(F f) const {
    const int64_t down = (rows + high - 1) / high, across = (columns + wide - 1) / wide;
    parallel(down * across, [&](int64_t i) {
      const int64_t m = i % down * high, n = i / down * wide;
      f(m, std::min(high, rows - m), n, std::min(wide, columns - n));
    });
  }
  static int64_t rounded(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }
};

}  // namespace ms_bert
