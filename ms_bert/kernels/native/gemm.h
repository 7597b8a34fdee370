// Matrix product of one thread, after Goto and van de Geijn (2008): the second factor is packed into panels as wide as
// two vectors, of a size for the second-level cache; a few rows of the first for the first-level one.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "amx.h"
#include "threads.h"
#include "units.h"

namespace ms_bert {
namespace MS_BERT_ISA {

constexpr int MR = Products::HIGH;  // rows of a tile
constexpr int NR = 2 * W;           // columns of a tile
constexpr int KU = 256;             // units of a panel's depth: KU * NR of them are two thirds of a first-level cache
constexpr int KC = KU * DEPTH;      // depth of a panel
constexpr int NC = 512;             // columns of a packed block
constexpr int STRIDE = KU + 16;     // of the packed rows of the first factor: no two share a cache set

// A matrix as an operand: element (i, j) at data[i * row + j * column]; one of the strides is 1.
template <typename T>
struct Matrix {
  const T *data;
  int64_t row, column;
  Matrix at(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
};

struct Workspace {  // of one thread
  alignas(64) Unit b[NC * KU];
  alignas(64) Unit a[MR * STRIDE];
};

inline Workspace &workspace() {
  static thread_local std::unique_ptr<Workspace> own(new Workspace);
  return *own;
}

// With embedded broadcasts, which AVX-512 has, the product with a number needs no instruction that loads it. Where
// virtual processors share a core, instructions are what limits a product; but of some rows the number is loaded once
// for both vectors, for all rows by themselves would be more loads than a core can do.
constexpr bool by_itself(int row) { return W == 16 && row % 3 > 0; }

// C (ROWS, NR) = or += A (ROWS, depth) B (depth, NR), depth in units; unit (i, k) of A at a[i * ROW + k * COLUMN]. As
// much as B takes is fetched from `next` on meanwhile, if FETCHES. (`ahead` is no copy: one would wait until C of the
// tile before has left the processor.)
template <typename P, int ROWS, int ROW, int COLUMN, bool FETCHES>
inline __attribute__((noinline)) void tile(int depth, const typename P::Unit *a, const typename P::Unit *b,
                                           typename P::Sum *c, int64_t ldc, bool add, const typename P::Unit *next,
                                           const Ahead &ahead) {
  using Sums = decltype(load(c));
  constexpr int64_t SIZE = sizeof *c;
  Sums sum[ROWS][2];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) sum[i][0] = sum[i][1] = Sums{};
  const typename P::Unit *again = a;
  __asm__("" : "+r"(again));  // else the compiler would see that both are the same, and load a number once
  const auto one = [&](int k) __attribute__((always_inline)) {
    const auto b0 = load(b + k * NR), b1 = load(b + k * NR + W);
    if (FETCHES)
      for (int i = 0; i < NR; i += 16) __builtin_prefetch(next + k * NR + i, 0, 2);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
      const auto x = all(a[i * ROW + k * COLUMN]);
      sum[i][0] = P::add(sum[i][0], x, b0);
      sum[i][1] = P::add(sum[i][1], by_itself(i) ? all(again[i * ROW + k * COLUMN]) : x, b1);
    }
  };
  const auto step = [&](int k) __attribute__((always_inline)) {
    a += k * COLUMN, again += k * COLUMN, b += k * NR;
    if (FETCHES) next += k * NR;
  };
  // Two units at a time, for the loop's own instructions count as well.
  const int group = (depth + 2 * GROUPS - 1) / (2 * GROUPS) * 2, count = ahead.count;
  const int64_t between = ahead.between;
  Address lines = ahead.lines, next_c = ahead.c ? ahead.c : address(c);
  for (int k = 0; k < depth;) {
    for (int i = 0; i < count; i++) fetch<2>(lines + i * between);
    for (int64_t i = 0; i < NR * SIZE; i += LINE) fetch<3>(next_c + i);
    lines += ahead.step;
    next_c += ldc * SIZE;
    for (const int end = std::min(depth, k + group) - 1; k < end; k += 2, step(2)) one(0), one(1);
    if (k == depth - 1) one(0), k++;
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++, c += ldc) {
    if (add) {
      sum[i][0] += load(c);
      sum[i][1] += load(c + W);
    }
    store(c, sum[i][0]);
    store(c + W, sum[i][1]);
  }
}

template <typename P>
using TileOf = void (*)(int, const typename P::Unit *, const typename P::Unit *, typename P::Sum *, int64_t, bool,
                        const typename P::Unit *, const Ahead &);
using Tile = TileOf<Products>;

// Of so many rows; with tiles of the processor's own, rounded up to its STEP.
template <int ROW, int COLUMN, bool FETCHES = false, typename P = Products>
inline TileOf<P> tile_of(int rows) {
#if defined(MS_BERT_AMX)
  if constexpr (P::MATRIX) {
    static_assert(COLUMN == 1, "a tile takes rows of units");
    return rows > SIDE ? matrix_tile<P, 2 * SIDE, ROW, FETCHES> : matrix_tile<P, SIDE, ROW, FETCHES>;
  } else {
#endif
    // clang-format off: the table in a few lines
#define MS_BERT_TILE(rows) tile<P, rows, ROW, COLUMN, FETCHES>
  static constexpr TileOf<P> tiles[] = {
      nullptr,
      MS_BERT_TILE(1), MS_BERT_TILE(2), MS_BERT_TILE(3), MS_BERT_TILE(4), MS_BERT_TILE(5), MS_BERT_TILE(6),
#if MS_BERT_WIDTH == 16
      MS_BERT_TILE(7), MS_BERT_TILE(8), MS_BERT_TILE(9), MS_BERT_TILE(10), MS_BERT_TILE(11), MS_BERT_TILE(12),
      MS_BERT_TILE(13), MS_BERT_TILE(14),
#endif
  };
#undef MS_BERT_TILE
    // clang-format on
    return tiles[rows];
#if defined(MS_BERT_AMX)
  }
#endif
}

// Pack B (depth, columns) into panels of NR columns, a row of units after the other; missing numbers are 0.
template <typename T>
inline void pack_b(Matrix<T> b, int depth, int columns, Unit *to) {
  const int deep = units_of(depth);
  if (b.column == 1) {  // whole rows, as memory is read
    for (int k = 0; k < deep; k++) {
      const T *row = b.data + k * DEPTH * b.row;
      const int rows = depth - k * DEPTH;
      Unit *out = to + k * NR;
      for (int j = 0; j < columns; j += NR, out += deep * NR) {
        const int width = columns - j;
        if (width >= NR && rows >= DEPTH) {
          store(out, units_across(row + j, b.row));
          store(out + W, units_across(row + j + W, b.row));
        } else {
          for (int half = 0; half < NR; half += W)
            store(out + half, units_across_first(row + j + half, b.row, rows, std::clamp(width - half, 0, W)));
        }
      }
    }
    return;
  }
  for (int j = 0; j < columns; j += NR, to += deep * NR) {
    const int width = std::min(NR, columns - j);
    const T *from = b.data + j * b.column;
    for (int half = 0; half < NR; half += W) {
      const int valid = std::clamp(width - half, 0, W);
      for (int k = 0; k < deep; k += W) {
        const T *corner = from + half * b.column + k * DEPTH;
        const int rest = depth - k * DEPTH, count = std::min(W, deep - k);
        Units rows[W];
        for (int i = 0; i < W; i++) rows[i] = i < valid ? units_first(corner + i * b.column, rest) : Units{};
        transpose(rows);
        for (int i = 0; i < count; i++) store(to + (k + i) * NR + half, rows[i]);
      }
    }
  }
}

// Between the rows and the columns of an A that `pack_a` has packed.
constexpr int A_ROW = Products::MATRIX ? STRIDE : 1, A_COLUMN = Products::MATRIX ? 1 : MR;

// Pack the first MR rows, or all where there are fewer, of A (rows, depth), whose columns lie in one piece each: a
// column of units after the other, or a row where a tile takes rows. Whole vectors are stored, of which the next column
// overwrites the rest.
template <typename T>
inline void pack_a(Matrix<T> a, int rows, int depth, Unit *to) {
  if constexpr (Products::MATRIX) {
    for (int i = 0; i < MR && i < rows; i += W)
      for (int k = 0; k < units_of(depth); k += W) {
        Units turned[W];
        for (int j = 0; j < W; j++) {
          const int rest = depth - (k + j) * DEPTH;
          const T *column = a.data + i + (k + j) * DEPTH * a.column;
          turned[j] = rest > 0 ? units_across_first(column, a.column, rest, std::clamp(rows - i, 0, W)) : Units{};
        }
        transpose(turned);
        for (int j = 0; j < W; j++) store(to + (i + j) * STRIDE + k, turned[j]);
      }
  } else {
    constexpr int STORED = (MR + W - 1) / W * W;
    static_assert(KU * MR + STORED - MR <= MR * STRIDE, "the last column's rest lies in the workspace too");
    for (int k = 0; k < depth; k += DEPTH, to += MR) {
      const T *column = a.data + k * a.column;
      for (int i = 0; i < STORED; i += W)
        store(to + i, units_across_first(column + i, a.column, depth - k, std::clamp(rows - i, 0, W)));
    }
  }
}

// In rows of so many columns all tiles are whole.
inline int64_t in_tiles(int64_t columns) { return (columns + NR - 1) / NR * NR; }

// A second factor that is packed already: for each KC of the depth the panels of all columns.
struct Panels {
  const Unit *data;
  int64_t columns;  // in whole panels
  int64_t first;    // the column that a product begins with

  // Packs B (depth, columns) into `memory`, which has room for units_of(depth) * in_tiles(columns); by all threads.
  template <typename T>
  static Panels of(Matrix<T> b, int64_t depth, int64_t columns, Unit *memory) {
    const Panels all{memory, in_tiles(columns), 0};
    constexpr int64_t some = 4 * NR;  // columns that are packed at a time
    const int64_t across = (columns + some - 1) / some;
    parallel((depth + KC - 1) / KC * across, [&](int64_t i) {
      const int64_t k = i / across * KC, n = i % across * some;
      const int deep = static_cast<int>(std::min<int64_t>(KC, depth - k));
      pack_b(b.at(k, n), deep, static_cast<int>(std::min(some, columns - n)), memory + all.place(k, n, deep));
    });
    return all;
  }
  int64_t place(int64_t k, int64_t n, int deep) const { return units_of(k) * columns + (first + n) * units_of(deep); }
  Panels from(int64_t n) const { return {data, columns, n}; }
};

// A block of B in panels, packed into the workspace if it is not packed yet.
template <typename T>
const Unit *packed_block(Matrix<T> b, int k, int n, int deep, int columns, Workspace &ws) {
  pack_b(b.at(k, n), deep, columns, ws.b);
  return ws.b;
}
inline const Unit *packed_block(Panels b, int k, int n, int deep, int, Workspace &) {
  return b.data + b.place(k, n, deep);
}

// Part `part` of `parts` of the next rows of A (rows, deep), which are packed soon.
template <typename T>
Ahead ahead_of(Matrix<T> a, int rows, int deep, int part, int parts) {
  constexpr int64_t size = sizeof(T);
  Ahead ahead;
  if (a.column == 1) {  // a group is a part of a row
    const int lines = static_cast<int>((deep * size + LINE - 1) / LINE), begin = part * lines / parts;
    ahead.lines = address(a.data) + begin * LINE;
    ahead.count = (part + 1) * lines / parts - begin;
    ahead.between = LINE;
    ahead.step = a.row * size;
  } else {  // a group is some columns; the first line of one ends that of the rows before, and is there already
    const int begin = part * deep / parts, columns = (part + 1) * deep / parts - begin;
    ahead.lines = address(a.data) + (begin * a.column + rows - 1) * size;
    ahead.count = (columns + GROUPS - 1) / GROUPS;
    ahead.between = a.column * size;
    ahead.step = ahead.count * ahead.between;
  }
  return ahead;
}

inline void as_it_is(int64_t, int64_t, int64_t, int64_t) {}

// C (rows, columns), rows ldc apart, = A (rows, depth) B (depth, columns), or added to it; then for each part of C,
// while it is in a first-level cache, finish(first row, rows, first column, columns). Where each row of C has room for
// whole tiles, what lies beyond its columns becomes 0.
template <typename A, typename B, typename F>
inline void gemm(int rows, int columns, int depth, Matrix<A> a, B b, float *c, int64_t ldc, bool add, Workspace &ws,
                 F finish, bool room = false) {
  const Tiles<Products> shaped;
  const int tiles = (rows + MR - 1) / MR, panels = (columns + NR - 1) / NR, blocks = (columns + NC - 1) / NC;
  // The first row of a tile. All are of about the same height, for one of few rows takes as long as a higher one; but
  // those of the processor's own have a height that is given.
  const auto row_of = [&](int64_t t) { return static_cast<int>(Products::MATRIX ? t * MR : t * rows / tiles); };
  const auto column_of = [&](int64_t i) { return static_cast<int>(i * panels / blocks) * NR; };  // of a block
  for (int i = 0; i < blocks; i++) {
    const int n = column_of(i), block = std::min(columns, column_of(i + 1)) - n;
    for (int k = 0; k < depth; k += KC) {
      const int deep = std::min(KC, depth - k);
      const bool onto = add || k > 0;
      const Unit *packed = packed_block(b, k, n, deep, block, ws);
      for (int t = 0; t < tiles; t++) {
        const int m = row_of(t), high = std::min(rows, row_of(t + 1)) - m;
        const Matrix<A> part = a.at(m, k);
        Tile compute;
        if (a.column == 1) {
          for (int j = 0; j < high; j++) pack_row(part.data + j * part.row, deep, ws.a + j * STRIDE);
          compute = tile_of<STRIDE, 1>(high);
        } else {
          pack_a(part, rows - m, deep, ws.a);
          compute = tile_of<A_ROW, A_COLUMN>(high);
        }
        const int next_high = t + 1 < tiles ? std::min(rows, row_of(t + 2)) - (m + high) : 0;
        const int parts = (block + NR - 1) / NR;
        for (int j = 0; j < block; j += NR) {
          float *out = c + m * ldc + n + j;
          Ahead ahead;
          if (next_high > 0) ahead = ahead_of(a.at(m + high, k), next_high, deep, j / NR, parts);
          if (j + NR < block) {
            ahead.c = address(out + NR);
          } else if (next_high > 0) {
            ahead.c = address(c + (m + high) * ldc + n);
          }
          const Unit *panel = packed + j * units_of(deep);
          const int wide = room ? NR : std::min(NR, block - j);
          if (wide == NR && high % Products::STEP == 0) {
            compute(units_of(deep), ws.a, panel, out, ldc, onto, nullptr, ahead);
            continue;
          }
          alignas(64) float edge[MR * NR];
          if (onto)
            for (int i = 0; i < high; i++) memcpy(edge + i * NR, out + i * ldc, wide * sizeof(float));
          compute(units_of(deep), ws.a, panel, edge, NR, onto, nullptr, ahead);
          for (int i = 0; i < high; i++) memcpy(out + i * ldc, edge + i * NR, wide * sizeof(float));
        }
        if (k + deep == depth) finish(m, high, n, block);
      }
    }
  }
}

template <typename A, typename B>
inline void gemm(int rows, int columns, int depth, Matrix<A> a, Matrix<B> b, float *c, int64_t ldc, bool add,
                 Workspace &ws, bool room = false) {
  gemm(rows, columns, depth, a, b, c, ldc, add, ws, as_it_is, room);
}

// Y (rows, columns) = X (rows, depth) V^T for few rows and a V (columns, depth) that is too large to be packed for
// them: here X is the packed factor, for the transpose V X^T, whose tiles are turned round as they are stored. `packed`
// holds X in panels of NR rows (`pack_b` of its transpose). Computes columns first ... end - 1.
inline void gemm_few_rows(int rows, int64_t first, int64_t end, int depth, const Unit *packed, Matrix<float> v,
                          float *y, int64_t ldy, Workspace &ws) {
  constexpr int HIGH = MR < W ? MR : W;  // of a tile, which is turned round as a square of W
  const int panels = (rows + NR - 1) / NR;
  const Tiles<Products> shaped;
  float *tiles = reinterpret_cast<float *>(ws.b);
  for (int64_t n = first; n < end; n += HIGH) {
    const int high = static_cast<int>(std::min<int64_t>(HIGH, end - n));
    const Tile compute = tile_of<STRIDE, 1>(high);
    for (int k = 0; k < depth; k += KC) {
      const int deep = std::min(KC, depth - k);
      for (int i = 0; i < high; i++) pack_row(v.data + (n + i) * v.column + k, deep, ws.a + i * STRIDE);
      // V comes from memory, each row once: what is next is fetched while this is computed with.
      const bool last = k + KC >= depth;
      const int64_t next_n = last ? n + HIGH : n;
      const int next_k = last ? 0 : k + KC, next_deep = std::min(KC, depth - next_k);
      const int next_high = static_cast<int>(std::clamp<int64_t>(end - next_n, 0, HIGH));
      for (int p = 0; p < panels; p++) {
        for (int i = p * next_high / panels; i < (p + 1) * next_high / panels; i++) {
          const float *row = v.data + (next_n + i) * v.column + next_k;
          for (int j = 0; j < next_deep; j += 16) __builtin_prefetch(row + j, 0, 3);
        }
        const Unit *panel = packed + (p * units_of(static_cast<int64_t>(depth)) + k / DEPTH) * NR;
        compute(units_of(deep), ws.a, panel, tiles + p * HIGH * NR, NR, k > 0, nullptr, {});
      }
    }
    for (int p = 0; p < panels; p++)
      for (int half = 0; half < NR; half += W) {
        Floats turned[W];
        for (int i = 0; i < W; i++) turned[i] = i < high ? load(tiles + (p * HIGH + i) * NR + half) : Floats{};
        transpose(turned);
        const int begin = p * NR + half, count = std::clamp(rows - begin, 0, W);
        for (int i = 0; i < count; i++) {
          float *out = y + (begin + i) * ldy + n;
          if (high == HIGH) {
            memcpy(out, &turned[i], HIGH * sizeof(float));
          } else {
            store_first(out, turned[i], high);
          }
        }
      }
  }
}

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
