// Convolutions of few channels by their definition, as matrix products whose left operand is the image where it lies.
//
// Channels last, the 4 taps of a kernel's row are 4c numbers side by side, and those of the next pixel begin 2c
// further: a matrix with overlapping rows. In an image with a border of zeros,
//   down:    y[i, j, :] = sum_k x[2i - 1 + k, 2j - 1 .. 2j + 2, :] K_k              K_k (4c, d)
//   kernel:  K_k = sum_{i, j} x[2i - 1 + k, 2j - 1 .. 2j + 2, :]^T y[i, j, :]
// Nothing is packed but the kernel, and each result is written once. A register tile reads one number of the image
// for as many multiply-adds as it has vectors: 6 x 2 vectors or 12 x 1 on AVX2, 8 or 13 loads for 12 multiply-adds.
// Winograd's algorithm (conv.cpp) takes 9 products for 16, but with few channels its transforms cost as much as all
// of it here. The same done for up wins nothing: there the time goes into writing the big image.
#include "cpu/conv_direct.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/pixels.h"
#include "cpu/vec.h"

namespace hd::cpu {
namespace {

// out (rows x n) (+)= sum of a number of A times a row of B, over `inner` places of `outer` lines. Down: rows of out
// are pixels, `step` apart in A, and inner places numbers side by side; it sets out. Kernel (DEEP): rows are numbers,
// and inner places pixels, `step` apart in A; it adds to out.
struct Sums {
  const float* a;
  int64_t line, outer, inner, step;
  const float* b;
  int64_t ldb;
  float* out;
  int64_t ldo, n;
};

// MR rows of NV vectors of W floats.
template <int W, int NV, int MR, bool DEEP>
struct Tile {
  template <int>
  static HD_INLINE void run(const Sums& t) {
    // Three rows from each pointer: step and 2 step are addresses' indices. B of down is as wide as the tile.
    constexpr int rows = DEEP ? MR : 3, pointers = (MR + rows - 1) / rows;
    const int64_t row_step = DEEP ? 1 : t.step, place_step = DEEP ? t.step : 1, ldb = DEEP ? t.ldb : NV * W;
    Vec<W> r[MR][NV] = {};
    const float* b = t.b;
    for (int64_t o = 0; o < t.outer; ++o) {
      const float* p[pointers];
#pragma GCC unroll 8
      for (int g = 0; g < pointers; ++g) p[g] = t.a + o * t.line + rows * g * row_step;
      for (int64_t l = 0; l < t.inner; ++l, b += ldb) {
        Vec<W> row[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) row[v] = get<W>(b + v * W);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          const float x = p[i / rows][i % rows * row_step];
#pragma GCC unroll 2
          for (int v = 0; v < NV; ++v) r[i][v] += x * row[v];
        }
#pragma GCC unroll 8
        for (int g = 0; g < pointers; ++g) p[g] += place_step;
      }
    }
    put_tile<W>(r, t.out, t.ldo, t.n, DEEP);
  }
};

// The tiles of one width, by their number of rows, 1 to `tallest`.
struct Tiles {
  int64_t width, tallest;
  void (*flat[13])(const Sums&);
  void (*deep[13])(const Sums&);
};

// Tiles of 1, 2, ... rows, for processors with vectors of N floats.
template <int N, int W, int NV, int... I>
constexpr Tiles tiles(std::integer_sequence<int, I...>) {
  return {W * NV,
          sizeof...(I),
          {nullptr, compiled<Tile<W, NV, I + 1, false>, N, Sums>()...},
          {nullptr, compiled<Tile<W, NV, I + 1, true>, N, Sums>()...}};
}
template <int N, int W, int NV, int TALLEST>
constexpr Tiles tiles_of = tiles<N, W, NV>(std::make_integer_sequence<int, TALLEST>());

// Widest first, each twice as wide as the next.
using Widths = std::vector<Tiles>;
const Widths& all_widths() {
  static const Widths widths = vector_width() == 16
                                   ? Widths{tiles_of<16, 16, 2, 12>, tiles_of<16, 16, 1, 12>, tiles_of<16, 8, 1, 12>}
                               : vector_width() == 8 ? Widths{tiles_of<8, 8, 2, 6>, tiles_of<8, 8, 1, 12>}
                                                     : Widths{tiles_of<4, 4, 2, 4>, tiles_of<4, 4, 1, 8>};
  return widths;
}

// Columns [begin, begin + n) of a matrix, as one tile is wide.
struct Panel {
  const Tiles* tiles;
  int64_t begin, n;
};
std::vector<Panel> panels(int64_t columns) {
  const Widths& widths = all_widths();
  std::vector<Panel> all;
  for (int64_t j = 0; j < columns; j += all.back().n) {
    const int64_t left = columns - j;
    size_t t = 0;
    while (t + 1 < widths.size() && widths[t + 1].width >= left) ++t;
    all.push_back({&widths[t], j, std::min(widths[t].width, left)});
  }
  return all;
}

// A kernel's part as B of tiles: value(row, column), panel after panel.
template <class F>
std::vector<float> packed(const std::vector<Panel>& all, int64_t rows, const F& value) {
  std::vector<float> out;
  for (const Panel& p : all)
    for (int64_t k = 0; k < rows; ++k)
      for (int64_t j = 0; j < p.tiles->width; ++j) out.push_back(j < p.n ? value(k, p.begin + j) : 0.f);
  return out;
}

// f(first row, rows, tile index) for rows in tiles of nearly equal height.
template <class F>
void in_tiles(const Tiles& t, int64_t rows, const F& f) {
  const int64_t count = (rows + t.tallest - 1) / t.tallest;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * rows / count;
    f(first, (i + 1) * rows / count - first);
  }
}

// An image with a border of one pixel of zeros, which stays.
class Bordered {
 public:
  Bordered(int64_t h, int64_t w, int64_t c) : h_(h), row_(w * c), line_((w + 2) * c), c_(c), pixels_((h + 2) * line_) {}
  void fill(const float* image) {
    for (int64_t i = 0; i < h_; ++i)
      std::memcpy(&pixels_[(i + 1) * line_ + c_], image + i * row_, row_ * sizeof(float));
  }
  // From the left border's pixel on; row -1 is the upper border.
  const float* row(int64_t i) const { return &pixels_[(i + 1) * line_]; }
  int64_t line() const { return line_; }

 private:
  int64_t h_, row_, line_, c_;
  std::vector<float> pixels_;
};

}  // namespace

void direct_down(const Pool& pool, const ConvSizes& z, const Pixels& x, const float* kernel, const Pixels& y) {
  const std::vector<Panel> all = panels(z.d);
  const std::vector<float> b =
      packed(all, 16 * z.c, [&](int64_t k, int64_t d) { return kernel[(d * z.c + k % z.c) * 16 + k / z.c]; });
  pool.share(z.images, true, [&](int64_t begin, int64_t end) {
    Bordered image(2 * z.h, 2 * z.w, z.c);
    for (int64_t n = begin; n < end; ++n) {
      image.fill(Read(x, n * big(z), big(z)));
      const Write write(y, n * small(z), small(z));
      float* out = write;
      const float* panel = b.data();
      for (const Panel& p : all) {
        for (int64_t i = 0; i < z.h; ++i)
          in_tiles(*p.tiles, z.w, [&](int64_t j, int64_t rows) {
            p.tiles->flat[rows]({image.row(2 * i - 1) + 2 * j * z.c, image.line(), 4, 4 * z.c, 2 * z.c, panel,
                                 p.tiles->width, out + (i * z.w + j) * z.d + p.begin, z.d, p.n});
          });
        panel += 16 * z.c * p.tiles->width;
      }
    }
  });
}

void direct_kernel(const Pool& pool, const ConvSizes& z, const Pixels& x, const Pixels& y, float* dkernel) {
  // Images one after the other into each sum, so that these do not depend on the threads, which share the sums.
  const std::vector<Panel> all = panels(z.d);
  const int64_t ldy = all.back().begin + all.back().tiles->width;
  const int64_t together = pool.threads == 1 ? 1 : 8;  // images between two waits for the threads
  std::vector<float> f(16 * z.c * z.d), wide(ldy == z.d ? 0 : together * z.h * z.w * ldy);
  std::vector<Bordered> images(together, Bordered(2 * z.h, 2 * z.w, z.c));
  for (int64_t n = 0; n < (small(z) ? z.images : 0); n += together) {
    const int64_t count = std::min(together, z.images - n);
    const Read pixels(y, n * small(z), count * small(z));
    for (int64_t m = 0; m < count; ++m) images[m].fill(Read(x, (n + m) * big(z), big(z)));
    const float* from = pixels;
    if (ldy != z.d) {
      for (int64_t m = 0; m < count * z.h * z.w; ++m) std::copy_n(pixels + m * z.d, z.d, &wide[m * ldy]);
      from = wide.data();
    }
    pool.share(4 * int64_t(all.size()), true, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Panel& p = all[i / 4];
        const int64_t k = i % 4;
        for (int64_t m = 0; m < count; ++m)
          in_tiles(*p.tiles, 4 * z.c, [&](int64_t row, int64_t rows) {
            p.tiles->deep[rows]({images[m].row(k - 1) + row, 2 * images[m].line(), z.h, z.w, 2 * z.c,
                                 from + m * z.h * z.w * ldy + p.begin, ldy, &f[(k * 4 * z.c + row) * z.d + p.begin],
                                 z.d, p.n});
          });
      }
    });
  }
  for (int64_t d = 0; d < z.d; ++d)
    for (int64_t c = 0; c < z.c; ++c)
      for (int64_t k = 0; k < 16; ++k) dkernel[(d * z.c + c) * 16 + k] = f[(k * z.c + c) * z.d + d];
}

}  // namespace hd::cpu
