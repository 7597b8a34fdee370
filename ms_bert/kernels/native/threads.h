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
// Aligned memory of the calling thread, valid until it asks again for the same one of three; never shrinks.
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

// How a matrix is cut into parts that threads take one after the other: two for each thread, where it is large enough,
// so that one that is held up does not hold up the others.
struct Cut {
  int64_t rows, columns, tile, down, across;  // of the matrix; columns that stay together; parts

  // Into columns, and into rows where those do not suffice: where each thread packs the columns that it multiplies
  // with.
  static Cut by_columns(int64_t rows, int64_t columns, int64_t tile) {
    const int64_t across = parts(columns, 4 * tile, 2 * tile);
    return {rows, columns, tile, parts_beside(across, rows, 32), across};
  }
  // Into rows, and into columns where those do not suffice.
  static Cut by_rows(int64_t rows, int64_t columns, int64_t tile) {
    const int64_t down = parts(rows, 128, 64);
    return {rows, columns, tile, down, parts_beside(down, columns, 4 * tile)};
  }

  template <typename F>  // f(first row, rows, first column, columns)
  void run(F f) const {
    const int64_t tiles = (columns + tile - 1) / tile;
    parallel(down * across, [&](int64_t i) {
      const int64_t m = i % down * rows / down, end = (i % down + 1) * rows / down;
      const int64_t n = i / down * tiles / across * tile, last = (i / down + 1) * tiles / across * tile;
      f(m, end - m, n, std::min(columns, last) - n);
    });
  }
  static int64_t rounded(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

 private:
  // Of a side: as many for each thread, of at least `good` each; or one for each, of at least `least`.
  static int64_t parts(int64_t side, int64_t good, int64_t least) {
    const int64_t wanted = threads(), some = side / good;
    if (wanted == 1 || side < least) return 1;
    return some < wanted ? std::min(wanted, side / least) : std::min<int64_t>(2, some / wanted) * wanted;
  }
  static int64_t parts_beside(int64_t others, int64_t side, int64_t least) {
    return std::clamp<int64_t>(side / least, 1, (threads() + others - 1) / others);
  }
};

}  // namespace ms_bert
