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
// Few channels make the transforms as dear as the products: these follow the definition, see conv_direct.cpp.
#include "cpu/conv.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/conv_direct.h"
#include "cpu/gemm_kernel.h"
#include "cpu/pixels.h"
#include "cpu/vec.h"

namespace hd::cpu {
namespace {

constexpr int64_t kDirectChannels = 15;  // the most that follow the definition
constexpr int64_t kTiles = 64;           // rows of a product of down and up; more would leave the second-level cache
constexpr int64_t kDeepTiles = 192;      // depth of a product of kernel

// f.template operator()<width>(channel) over all channels, in vectors of N, 8, 4 and 1.
template <int N, class F>
HD_INLINE void channels(int64_t n, const F& f) {
  int64_t c = 0;
  for (; c + N <= n; c += N) f.template operator()<N>(c);
  if (N > 8 && c + 8 <= n) f.template operator()<8>(c), c += 8;
  if (N > 4 && c + 4 <= n) f.template operator()<4>(c), c += 4;
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
struct GatherWindows {
  template <int N>
  static HD_INLINE void run(const Tiles& t, const float* x, const float* zeros, float* u) {
    const ConvSizes& z = t.z;
    for (int64_t n = 0; n < z.images; ++n, x += 4 * z.h * z.w * z.c)
      for (int64_t ty = 0; ty < t.th; ++ty)
        for (int64_t tx = 0; tx < t.tw; ++tx, u += 4 * z.c)
          for (int phase = 0; phase < 4; ++phase) {
            const float* p[9];
            window(z, x, zeros, ty, tx, phase, p);
            channels<N>(z.c, [&]<int W>(int64_t c) __attribute__((always_inline)) {
              Vec<W> d[9];
              for (int k = 0; k < 9; ++k) d[k] = get<W>(p[k] + c);
              for (int k = 0; k < 3; ++k) d[k] -= d[3 + k], d[6 + k] -= d[3 + k];
              for (int k = 0; k < 9; k += 3) d[k] -= d[k + 1], d[k + 2] -= d[k + 1];
              for (int k = 0; k < 9; ++k) put<W>(u + k * t.stride_u + phase * z.c + c, d[k]);
            });
          }
  }
};

// Its transpose: adds U to the images' pixels; what belongs outside goes to `waste`.
struct ScatterWindows {
  template <int N>
  static HD_INLINE void run(const Tiles& t, const float* u, float* waste, float* x) {
    const ConvSizes& z = t.z;
    for (int64_t n = 0; n < z.images; ++n, x += 4 * z.h * z.w * z.c) {
      std::memset(x, 0, sizeof(float) * 4 * z.h * z.w * z.c);
      for (int64_t ty = 0; ty < t.th; ++ty)
        for (int64_t tx = 0; tx < t.tw; ++tx, u += 4 * z.c)
          for (int phase = 0; phase < 4; ++phase) {
            float* p[9];
            window(z, x, waste, ty, tx, phase, p);
            channels<N>(z.c, [&]<int W>(int64_t c) __attribute__((always_inline)) {
              Vec<W> d[9];
              for (int k = 0; k < 9; ++k) d[k] = get<W>(u + k * t.stride_u + phase * z.c + c);
              for (int k = 0; k < 9; k += 3) d[k + 1] -= d[k] + d[k + 2];
              for (int k = 0; k < 3; ++k) d[3 + k] -= d[k] + d[6 + k];
              for (int k = 0; k < 9; ++k) put<W>(p[k] + c, get<W>(p[k] + c) + d[k]);
            });
          }
    }
  }
};

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
struct GatherSquares {
  template <int N>
  static HD_INLINE void run(const Tiles& t, const float* m, float* waste, float* y) {
    const ConvSizes& z = t.z;
    for (int64_t n = 0; n < z.images; ++n, y += z.h * z.w * z.d)
      for (int64_t ty = 0; ty < t.th; ++ty)
        for (int64_t tx = 0; tx < t.tw; ++tx, m += z.d) {
          float* p[4];
          square(z, y, waste, ty, tx, p);
          channels<N>(z.d, [&]<int W>(int64_t c) __attribute__((always_inline)) {
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
};

// Its transpose: V from the small images' pixels.
struct ScatterSquares {
  template <int N>
  static HD_INLINE void run(const Tiles& t, const float* y, const float* zeros, float* v) {
    const ConvSizes& z = t.z;
    for (int64_t n = 0; n < z.images; ++n, y += z.h * z.w * z.d)
      for (int64_t ty = 0; ty < t.th; ++ty)
        for (int64_t tx = 0; tx < t.tw; ++tx, v += z.d) {
          const float* p[4];
          square(z, y, zeros, ty, tx, p);
          channels<N>(z.d, [&]<int W>(int64_t c) __attribute__((always_inline)) {
            const auto a = get<W>(p[0] + c), b = get<W>(p[1] + c), e = get<W>(p[2] + c), f = get<W>(p[3] + c);
            const int64_t s = t.stride_m;
            float* to = v + c;
            put<W>(to, a), put<W>(to + s, a + b), put<W>(to + 2 * s, b);
            put<W>(to + 3 * s, a + e), put<W>(to + 4 * s, a + b + (e + f)), put<W>(to + 5 * s, b + f);
            put<W>(to + 6 * s, e), put<W>(to + 7 * s, e + f), put<W>(to + 8 * s, f);
          });
        }
  }
};

// The 4 taps (2x2) of a phase begin at `k` in a 4x4 kernel and lie 2 apart.
HD_INLINE int64_t first_tap(int phase) { return 4 * (phase >> 1) + (phase & 1); }

// Where an element of the kernel (d, c, 16) stands in F: lanes of a vector are `lane` apart in the kernel and neighbors
// in F, vectors `next` apart in the kernel and `row` in F, and the phases of F `phase`.
struct Layout {
  int64_t lanes, lane, count, next, row, phase, stride;  // stride: from one of the 9 matrices to the next
};
// F (9, 4c, d), and its transposes (9, d, 4c).
Layout upright(const ConvSizes& z) { return {z.d, 16 * z.c, z.c, 16, z.d, z.c * z.d, 4 * z.c * z.d}; }
Layout lying(const ConvSizes& z) { return {z.c, 16, z.d, 16 * z.c, 4 * z.c, z.c, 4 * z.c * z.d}; }

struct SpreadKernel {
  template <int N>
  static HD_INLINE void run(const Layout& t, const float* kernel, float* f) {
    for (int64_t i = 0; i < t.count; ++i)
      channels<N>(t.lanes, [&]<int W>(int64_t j) __attribute__((always_inline)) {
        float taps[16 * W];
        transpose(kernel + i * t.next + j * t.lane, t.lane, W, 16, taps, W);
        for (int phase = 0; phase < 4; ++phase) {
          const float* k = taps + first_tap(phase) * W;
          float* to = f + i * t.row + j + phase * t.phase;
          Vec<W> a[3][2] = {{get<W>(k), get<W>(k + 2 * W)}, {}, {get<W>(k + 8 * W), get<W>(k + 10 * W)}};
          for (int l = 0; l < 2; ++l) a[1][l] = a[0][l] + a[2][l];
          for (int l = 0; l < 3; ++l) {
            put<W>(to + 3 * l * t.stride, a[l][0]);
            put<W>(to + (3 * l + 1) * t.stride, a[l][0] + a[l][1]);
            put<W>(to + (3 * l + 2) * t.stride, a[l][1]);
          }
        }
      });
  }
};

// The transpose: the kernel's gradient from F's.
struct CollectKernel {
  template <int N>
  static HD_INLINE void run(const Layout& t, const float* f, float* dkernel) {
    for (int64_t i = 0; i < t.count; ++i)
      channels<N>(t.lanes, [&]<int W>(int64_t j) __attribute__((always_inline)) {
        float taps[16 * W];
        for (int phase = 0; phase < 4; ++phase) {
          float* k = taps + first_tap(phase) * W;
          const float* from = f + i * t.row + j + phase * t.phase;
          Vec<W> a[3][2];
          for (int l = 0; l < 3; ++l) {
            const Vec<W> middle = get<W>(from + (3 * l + 1) * t.stride);
            a[l][0] = get<W>(from + 3 * l * t.stride) + middle;
            a[l][1] = middle + get<W>(from + (3 * l + 2) * t.stride);
          }
          put<W>(k, a[0][0] + a[1][0]), put<W>(k + 2 * W, a[0][1] + a[1][1]);
          put<W>(k + 8 * W, a[1][0] + a[2][0]), put<W>(k + 10 * W, a[1][1] + a[2][1]);
        }
        transpose(taps, W, 16, W, dkernel + i * t.next + j * t.lane, t.lane);
      });
  }
};

// F's 9 matrices, packed as they are (4c, d) or transposed.
std::vector<Packed> packed_kernel(const Pool& pool, const ConvSizes& z, const float* kernel, bool transposed) {
  const int64_t rows = transposed ? z.d : 4 * z.c, columns = transposed ? 4 * z.c : z.d;
  const Floats f = floats(9 * rows * columns);
  vectors<SpreadKernel>(transposed ? lying(z) : upright(z), kernel, f.get());
  std::vector<Packed> packed;
  for (int k = 0; k < 9; ++k)
    packed.emplace_back(pool, row_major(&f[k * rows * columns], columns), rows, columns, z.operands);
  return packed;
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

}  // namespace

void conv_down(const Pool& pool, const ConvSizes& z, const Pixels& x, const float* kernel, const Pixels& y) {
  if (!small(z)) return;  // no pixel to write, and perhaps no address
  if (z.c <= kDirectChannels) return direct_down(pool, z, x, kernel, y);
  const std::vector<Packed> packed = packed_kernel(pool, z, kernel, false);
  blocks(pool, z, kTiles, [&](int64_t n, const ConvSizes& part) {
    const Tiles t(part);
    const Floats u = floats(9 * t.stride_u), m = floats(9 * t.stride_m);
    std::vector<float> edge(std::max(z.c, z.d));
    vectors<GatherWindows>(t, Read(x, n * big(z), part.images * big(z)), edge.data(), u.get());
    for (int k = 0; k < 9; ++k)
      gemm(kAlone, t.rows(), row_major(&u[k * t.stride_u], 4 * z.c), packed[k], &m[k * t.stride_m], z.d);
    vectors<GatherSquares>(t, m.get(), edge.data(), Write(y, n * small(z), part.images * small(z)));
  });
}

void conv_up(const Pool& pool, const ConvSizes& z, const Pixels& y, const float* kernel, const Pixels& x) {
  if (!big(z)) return;
  if (z.c <= kDirectChannels) return direct_up(pool, z, y, kernel, x);
  const std::vector<Packed> packed = packed_kernel(pool, z, kernel, true);
  blocks(pool, z, kTiles, [&](int64_t n, const ConvSizes& part) {
    const Tiles t(part);
    const Floats u = floats(9 * t.stride_u), v = floats(9 * t.stride_m);
    std::vector<float> edge(std::max(z.c, z.d));
    vectors<ScatterSquares>(t, Read(y, n * small(z), part.images * small(z)), edge.data(), v.get());
    for (int k = 0; k < 9; ++k)
      gemm(kAlone, t.rows(), row_major(&v[k * t.stride_m], z.d), packed[k], &u[k * t.stride_u], 4 * z.c);
    vectors<ScatterWindows>(t, u.get(), edge.data(), Write(x, n * big(z), part.images * big(z)));
  });
}

void conv_kernel(const Pool& pool, const ConvSizes& z, const Pixels& x, const Pixels& y, float* dkernel) {
  if (!z.images || !small(z)) {
    std::fill_n(dkernel, 16 * z.c * z.d, 0.f);
    return;
  }
  if (z.c <= kDirectChannels) return direct_kernel(pool, z, x, y, dkernel);
  // Blocks one after the other, so that sums do not depend on the threads: these share the work inside a block.
  const Floats f = floats(36 * z.c * z.d);
  std::vector<float> zeros(std::max(z.c, z.d));
  ConvSizes block = z;
  block.images = images_for(kDeepTiles, z);
  const Tiles t(block);
  const int64_t each = t.th * t.tw, halves = pool.threads == 1 ? 1 : 2, rows = 4 * z.c / halves;
  const Floats u = floats(9 * t.stride_u), v = floats(9 * t.stride_m);
  for (int64_t n = 0; n < z.images; n += block.images) {
    const int64_t images = std::min(block.images, z.images - n);
    pool.run(images, 1, [&](int64_t begin, int64_t end) {
      Tiles mine = t;
      mine.z.images = end - begin;
      const int64_t count = end - begin;
      vectors<GatherWindows>(mine, Read(x, (n + begin) * big(z), count * big(z)), zeros.data(),
                             &u[begin * each * 4 * z.c]);
      vectors<ScatterSquares>(mine, Read(y, (n + begin) * small(z), count * small(z)), zeros.data(),
                              &v[begin * each * z.d]);
    });
    pool.run(9 * halves, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = i / halves, row = i % halves * rows;
        gemm(kAlone, rows, z.d, images * each, row_major(&u[k * t.stride_u + row], 4 * z.c).t(),
             row_major(&v[k * t.stride_m], z.d), &f[(k * 4 * z.c + row) * z.d], z.d, n > 0, z.operands);
      }
    });
  }
  vectors<CollectKernel>(upright(z), f.get(), dkernel);
}

}  // namespace hd::cpu
