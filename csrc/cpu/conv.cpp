// Winograd's minimal filtering F(2x2, 2x2) for convolutions of stride 2: 9 products where the definition has 16.
//
// Along one axis a kernel of 4 taps and stride 2 is the sum of two kernels of 2 taps and stride 1, on the even and on
// the odd pixels. Two of their outputs take 3 products instead of 4:
//   y0 = d0 g0 + d1 g1, y1 = d1 g0 + d2 g1:   u = (d0 - d1, d1, d2 - d1),  f = (g0, g0 + g1, g1),  m = u f,
//   y0 = m0 + m1, y1 = m1 + m2.
// In two dimensions: a tile of 2x2 pixels of the small image is computed from 6x6 pixels of the big one, that is from
// 4 phases of 3x3 pixels. With the 9 elements of (u, f, m) as 9 matrix products over all tiles of some images,
//   down:    M = U F          U (tiles, 4c) from x,   F (4c, d) from the kernel,   y from M (tiles, d)
//   up:      U = V F^T        V (tiles, d) from y by the transpose of M -> y,      x from U by the transpose of x -> U
//   kernel:  F = U^T V        the kernel's gradient from F by the transpose of kernel -> F
// Transforms only add; errors are those of a direct sum of 16c products within a factor near 1. Blocks of images are
// so small that U and M stay in the second-level cache: memory sees x and y once.
//
// Few channels make the transforms as dear as the products. Up then (c < kFewChannels) multiplies whole pixels by the
// kernel and adds the 4x4 patches up (col2im); down and kernel (c <= kDirectChannels) follow their definition, see
// conv_direct.cpp, where operands are fp32. In bfloat16 the fewest are oneDNN's, see hdfast/ops/conv.py.
#include "cpu/conv.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/conv_direct.h"
#include "cpu/pixels.h"
#include "cpu/vec.h"

namespace hd::cpu {
namespace {

constexpr int64_t kFewChannels = 8;
constexpr int64_t kDirectChannels = 16;
constexpr int64_t kTiles = 64;       // rows of a product of down and up; more would leave the second-level cache
constexpr int64_t kDeepTiles = 384;  // depth of a product of kernel

// f.template operator()<width>(channel) over all channels, in vectors of 16, 4 and 1.
template <class F>
HD_INLINE void channels(int64_t n, const F& f) {
  int64_t c = 0;
  for (; c + 16 <= n; c += 16) f.template operator()<16>(c);
  for (; c + 4 <= n; c += 4) f.template operator()<4>(c);
  for (; c < n; ++c) f.template operator()<1>(c);
}

// The tiles of some images, and where the 9 matrices of the products lie.
struct Tiles {
  ConvSizes z;
  int64_t th, tw, stride_u, stride_m;  // tiles along the axes; floats from one matrix to the next
  explicit Tiles(const ConvSizes& sizes) : z(sizes), th((z.h + 1) / 2), tw((z.w + 1) / 2) {
    // 32 floats more: strides of a power of two would meet in one set of the cache.
    stride_u = rows() * 4 * z.c + 32, stride_m = rows() * z.d + 32;
  }
  int64_t rows() const { return z.images * th * tw; }
};

// Pointers to the 3x3 pixels of one phase of a tile's window; `outside` beyond the border.
template <class T>
HD_INLINE void window(const ConvSizes& z, T* image, T* outside, int64_t ty, int64_t tx, int phase, T* p[9]) {
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) {
      const int64_t i = 4 * ty - 1 + (phase >> 1) + 2 * a, j = 4 * tx - 1 + (phase & 1) + 2 * b;
      p[3 * a + b] = i >= 0 && i < 2 * z.h && j >= 0 && j < 2 * z.w ? image + (i * 2 * z.w + j) * z.c : outside;
    }
}

// U from the images' pixels.
HD_CLONES void gather_windows(const Tiles& t, const float* x, const float* zeros, float* u) {
  const ConvSizes& z = t.z;
  for (int64_t n = 0; n < z.images; ++n, x += 4 * z.h * z.w * z.c)
    for (int64_t ty = 0; ty < t.th; ++ty)
      for (int64_t tx = 0; tx < t.tw; ++tx, u += 4 * z.c)
        for (int phase = 0; phase < 4; ++phase) {
          const float* p[9];
          window(z, x, zeros, ty, tx, phase, p);
          channels(z.c, [&]<int W>(int64_t c) __attribute__((always_inline)) {
            Vec<W> d[9];
            for (int k = 0; k < 9; ++k) d[k] = get<W>(p[k] + c);
            for (int k = 0; k < 3; ++k) d[k] -= d[3 + k], d[6 + k] -= d[3 + k];
            for (int k = 0; k < 9; k += 3) d[k] -= d[k + 1], d[k + 2] -= d[k + 1];
            for (int k = 0; k < 9; ++k) put<W>(u + k * t.stride_u + phase * z.c + c, d[k]);
          });
        }
}

// Its transpose: adds U to the images' pixels; what belongs outside goes to `waste`.
HD_CLONES void scatter_windows(const Tiles& t, const float* u, float* waste, float* x) {
  const ConvSizes& z = t.z;
  for (int64_t n = 0; n < z.images; ++n, x += 4 * z.h * z.w * z.c) {
    std::memset(x, 0, sizeof(float) * 4 * z.h * z.w * z.c);
    for (int64_t ty = 0; ty < t.th; ++ty)
      for (int64_t tx = 0; tx < t.tw; ++tx, u += 4 * z.c)
        for (int phase = 0; phase < 4; ++phase) {
          float* p[9];
          window(z, x, waste, ty, tx, phase, p);
          channels(z.c, [&]<int W>(int64_t c) __attribute__((always_inline)) {
            Vec<W> d[9];
            for (int k = 0; k < 9; ++k) d[k] = get<W>(u + k * t.stride_u + phase * z.c + c);
            for (int k = 0; k < 9; k += 3) d[k + 1] -= d[k] + d[k + 2];
            for (int k = 0; k < 3; ++k) d[3 + k] -= d[k] + d[6 + k];
            for (int k = 0; k < 9; ++k) put<W>(p[k] + c, get<W>(p[k] + c) + d[k]);
          });
        }
  }
}

// Pointers to the 2x2 pixels of a tile of the small image.
template <class T>
HD_INLINE void square(const ConvSizes& z, T* image, T* outside, int64_t ty, int64_t tx, T* p[4]) {
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) {
      const int64_t i = 2 * ty + a, j = 2 * tx + b;
      p[2 * a + b] = i < z.h && j < z.w ? image + (i * z.w + j) * z.d : outside;
    }
}

// The small images' pixels from M.
HD_CLONES void gather_squares(const Tiles& t, const float* m, float* waste, float* y) {
  const ConvSizes& z = t.z;
  for (int64_t n = 0; n < z.images; ++n, y += z.h * z.w * z.d)
    for (int64_t ty = 0; ty < t.th; ++ty)
      for (int64_t tx = 0; tx < t.tw; ++tx, m += z.d) {
        float* p[4];
        square(z, y, waste, ty, tx, p);
        channels(z.d, [&]<int W>(int64_t c) __attribute__((always_inline)) {
          Vec<W> d[9];
          for (int k = 0; k < 9; ++k) d[k] = get<W>(m + k * t.stride_m + c);
          for (int k = 0; k < 3; ++k) d[k] += d[3 + k], d[6 + k] += d[3 + k];
          put<W>(p[0] + c, d[0] + d[1]);
          put<W>(p[1] + c, d[1] + d[2]);
          put<W>(p[2] + c, d[6] + d[7]);
          put<W>(p[3] + c, d[7] + d[8]);
        });
      }
}

// Its transpose: V from the small images' pixels.
HD_CLONES void scatter_squares(const Tiles& t, const float* y, const float* zeros, float* v) {
  const ConvSizes& z = t.z;
  for (int64_t n = 0; n < z.images; ++n, y += z.h * z.w * z.d)
    for (int64_t ty = 0; ty < t.th; ++ty)
      for (int64_t tx = 0; tx < t.tw; ++tx, v += z.d) {
        const float* p[4];
        square(z, y, zeros, ty, tx, p);
        channels(z.d, [&]<int W>(int64_t c) __attribute__((always_inline)) {
          const auto a = get<W>(p[0] + c), b = get<W>(p[1] + c), e = get<W>(p[2] + c), f = get<W>(p[3] + c);
          const int64_t s = t.stride_m;
          float* to = v + c;
          put<W>(to, a), put<W>(to + s, a + b), put<W>(to + 2 * s, b);
          put<W>(to + 3 * s, a + e), put<W>(to + 4 * s, a + b + (e + f)), put<W>(to + 5 * s, b + f);
          put<W>(to + 6 * s, e), put<W>(to + 7 * s, e + f), put<W>(to + 8 * s, f);
        });
      }
}

// The 4 taps (2x2) of a phase begin at `k` in a 4x4 kernel and lie 2 apart.
HD_INLINE int64_t first_tap(int phase) { return 4 * (phase >> 1) + (phase & 1); }

// F (9, 4c, d) from the kernel, and back by the transpose.
void spread_kernel(const ConvSizes& z, const float* kernel, float* f) {
  const int64_t stride = 4 * z.c * z.d;
  for (int64_t c = 0; c < z.c; ++c)
    for (int64_t d = 0; d < z.d; ++d)
      for (int phase = 0; phase < 4; ++phase) {
        const float* k = kernel + (d * z.c + c) * 16 + first_tap(phase);
        float* to = f + (phase * z.c + c) * z.d + d;
        const float a[3][2] = {{k[0], k[2]}, {k[0] + k[8], k[2] + k[10]}, {k[8], k[10]}};
        for (int i = 0; i < 3; ++i) {
          to[(3 * i) * stride] = a[i][0];
          to[(3 * i + 1) * stride] = a[i][0] + a[i][1];
          to[(3 * i + 2) * stride] = a[i][1];
        }
      }
}

void collect_kernel(const ConvSizes& z, const float* f, float* dkernel) {
  const int64_t stride = 4 * z.c * z.d;
  for (int64_t c = 0; c < z.c; ++c)
    for (int64_t d = 0; d < z.d; ++d)
      for (int phase = 0; phase < 4; ++phase) {
        float* k = dkernel + (d * z.c + c) * 16 + first_tap(phase);
        const float* from = f + (phase * z.c + c) * z.d + d;
        float a[3][2];
        for (int i = 0; i < 3; ++i) {
          const float middle = from[(3 * i + 1) * stride];
          a[i][0] = from[3 * i * stride] + middle;
          a[i][1] = middle + from[(3 * i + 2) * stride];
        }
        k[0] = a[0][0] + a[1][0], k[2] = a[0][1] + a[1][1], k[8] = a[1][0] + a[2][0], k[10] = a[1][1] + a[2][1];
      }
}

// F's 9 matrices, packed as they are (4c, d) or transposed.
std::vector<Packed> packed_kernel(const Pool& pool, const ConvSizes& z, const float* kernel, bool transposed) {
  const int64_t rows = 4 * z.c;
  std::vector<float> f(9 * rows * z.d);
  spread_kernel(z, kernel, f.data());
  std::vector<Packed> packed;
  for (int k = 0; k < 9; ++k) {
    const Mat one = row_major(&f[k * rows * z.d], z.d);
    packed.emplace_back(pool, transposed ? one.t() : one, transposed ? z.d : rows, transposed ? rows : z.d, z.operands);
  }
  return packed;
}

// Adds patches (pixels of the small image, 16c), columns in the order k, l, c, where they belong in the big one.
HD_CLONES void add_patches(const ConvSizes& z, const float* patch, float* x) {
  const int64_t run = 4 * z.c;
  std::memset(x, 0, sizeof(float) * 4 * z.h * z.w * z.c);
  for (int64_t i = 0; i < z.h; ++i)
    for (int64_t j = 0; j < z.w; ++j)
      for (int64_t k = 0; k < 4; ++k, patch += run) {
        const int64_t row = 2 * i - 1 + k, left = 2 * j - 1;
        if (row < 0 || row >= 2 * z.h) continue;
        float* to = x + (row * 2 * z.w + left) * z.c;
        const int64_t begin = left < 0 ? z.c : 0, end = left + 4 > 2 * z.w ? run - z.c : run;
        if (end - begin == run)
          for (int64_t c = 0; c < run; c += 4) put<4>(to + c, get<4>(to + c) + get<4>(patch + c));
        else
          for (int64_t c = begin; c < end; ++c) to[c] += patch[c];
      }
}

// The kernel as (16c, d), rows in the order k, l, c.
std::vector<float> flat_kernel(const ConvSizes& z, const float* kernel) {
  std::vector<float> f(16 * z.c * z.d);
  for (int64_t d = 0; d < z.d; ++d)
    for (int64_t c = 0; c < z.c; ++c)
      for (int64_t k = 0; k < 16; ++k) f[(k * z.c + c) * z.d + d] = kernel[(d * z.c + c) * 16 + k];
  return f;
}

// Images that have about so many tiles.
int64_t images_for(int64_t tiles, const ConvSizes& z) {
  return std::max<int64_t>(1, tiles / std::max<int64_t>(1, (z.h + 1) / 2 * ((z.w + 1) / 2)));
}

// body(first image, sizes of the block) over blocks of images with about `tiles` tiles, on the pool's threads.
template <class F>
void blocks(const Pool& pool, const ConvSizes& z, int64_t tiles, const F& body) {
  const int64_t size = images_for(tiles, z), count = (z.images + size - 1) / size;
  pool.share(count, count > 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      ConvSizes mine = z;
      mine.images = std::min(size, z.images - b * size);
      body(b * size, mine);
    }
  });
}

// Whether the transforms of down and kernel would cost more than they save.
bool direct(const ConvSizes& z) { return z.operands == DType::F32 && z.c <= kDirectChannels; }

}  // namespace

void conv_down(const Pool& pool, const ConvSizes& z, const Pixels& x, const float* kernel, const Pixels& y) {
  if (!small(z)) return;  // no pixel to write, and perhaps no address
  if (direct(z)) return direct_down(pool, z, x, kernel, y);
  const std::vector<Packed> packed = packed_kernel(pool, z, kernel, false);
  blocks(pool, z, kTiles, [&](int64_t n, const ConvSizes& part) {
    const Tiles t(part);
    const Floats u = floats(9 * t.stride_u), m = floats(9 * t.stride_m);
    std::vector<float> edge(std::max(z.c, z.d));
    gather_windows(t, Read(x, n * big(z), part.images * big(z)), edge.data(), u.get());
    for (int k = 0; k < 9; ++k)
      gemm(kAlone, t.rows(), row_major(&u[k * t.stride_u], 4 * z.c), packed[k], &m[k * t.stride_m], z.d);
    gather_squares(t, m.get(), edge.data(), Write(y, n * small(z), part.images * small(z)));
  });
}

void conv_up(const Pool& pool, const ConvSizes& z, const Pixels& y, const float* kernel, const Pixels& x) {
  if (!big(z)) return;
  if (z.c < kFewChannels) {
    const std::vector<float> f = flat_kernel(z, kernel);
    const Packed packed(pool, row_major(f, z.d).t(), z.d, 16 * z.c, z.operands);
    return blocks(pool, z, 1, [&](int64_t n, const ConvSizes& one) {
      const Floats patch = floats(one.h * one.w * 16 * z.c);
      gemm(kAlone, one.h * one.w, row_major(Read(y, n * small(z), small(z)), z.d), packed, patch.get(), 16 * z.c);
      add_patches(one, patch.get(), Write(x, n * big(z), big(z)));
    });
  }
  const std::vector<Packed> packed = packed_kernel(pool, z, kernel, true);
  blocks(pool, z, kTiles, [&](int64_t n, const ConvSizes& part) {
    const Tiles t(part);
    const Floats u = floats(9 * t.stride_u), v = floats(9 * t.stride_m);
    std::vector<float> edge(std::max(z.c, z.d));
    scatter_squares(t, Read(y, n * small(z), part.images * small(z)), edge.data(), v.get());
    for (int k = 0; k < 9; ++k)
      gemm(kAlone, t.rows(), row_major(&v[k * t.stride_m], z.d), packed[k], &u[k * t.stride_u], 4 * z.c);
    scatter_windows(t, u.get(), edge.data(), Write(x, n * big(z), part.images * big(z)));
  });
}

void conv_kernel(const Pool& pool, const ConvSizes& z, const Pixels& x, const Pixels& y, float* dkernel) {
  if (direct(z)) return direct_kernel(pool, z, x, y, dkernel);
  // Blocks one after the other, so that sums do not depend on the threads: these share the work inside a block.
  std::vector<float> f(36 * z.c * z.d), zeros(std::max(z.c, z.d));
  ConvSizes block = z;
  block.images = images_for(kDeepTiles, z);
  const Tiles t(block);
  const int64_t each = t.th * t.tw, halves = 2;
  const Floats u = floats(9 * t.stride_u), v = floats(9 * t.stride_m);
  for (int64_t n = 0; n < z.images; n += block.images) {
    const int64_t images = std::min(block.images, z.images - n);
    pool.run(images, 1, [&](int64_t begin, int64_t end) {
      Tiles mine = t;
      mine.z.images = end - begin;
      const int64_t count = end - begin;
      gather_windows(mine, Read(x, (n + begin) * big(z), count * big(z)), zeros.data(), &u[begin * each * 4 * z.c]);
      scatter_squares(mine, Read(y, (n + begin) * small(z), count * small(z)), zeros.data(), &v[begin * each * z.d]);
    });
    pool.run(9 * halves, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = i / halves, row = i % halves * 2 * z.c;
        gemm(kAlone, 2 * z.c, z.d, images * each, row_major(&u[k * t.stride_u + row], 4 * z.c).t(),
             row_major(&v[k * t.stride_m], z.d), &f[(k * 4 * z.c + row) * z.d], z.d, n > 0, z.operands);
      }
    });
  }
  collect_kernel(z, f.data(), dkernel);
}

}  // namespace hd::cpu
