// Convolutions of few channels by their definition, as matrix products whose left operand is the image where it lies.
//
// Channels last, the 4 taps of a kernel's row are 4c numbers side by side, and those of the next pixel begin 2c
// further: a matrix with overlapping rows. In an image with a border of zeros,
//   down:    y[i, j, :] = sum_k x[2i - 1 + k, 2j - 1 .. 2j + 2, :] K_k                  K_k (4c, d)
//   up:      x[r, 2j - 1 .. 2j, :] = sum_{o = 0, 1} y[i - 1 + o, j - 1 .. j, :] U_o     U_o (2d, 2c), i = (r + 1) / 2
//   kernel:  K_k = sum_{i, j} x[2i - 1 + k, 2j - 1 .. 2j + 2, :]^T y[i, j, :]
// U has the taps of K that lead to row r: k = 2, 0 where r is odd, 3, 1 where it is even. Lines of an image are copied
// between two borders just before they are used, and lie in the first-level cache then; the next ones are asked for
// meanwhile, or a third of the time would go into waiting for them.
//
// Winograd's algorithm (conv.cpp) has 9 products for 16, but with few channels its transforms cost as much as all of it
// here.
#include "cpu/conv_direct.h"

#include <algorithm>
#include <vector>

#include "cpu/conv_tiles.h"
#include "cpu/gemm_kernel.h"
#include "cpu/pixels.h"

namespace hd::cpu {
namespace {

constexpr int64_t kBand = 3072;  // numbers of both images that a pass of kernel uses again and again

// Columns [begin, begin + n) of a matrix, as one tile is wide.
struct Panel {
  const Width* tiles;
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

// B of flat tiles, panel after panel. An element stands at rows[i] + columns[j] in the kernel, whose taps are rounded
// to the operands' type.
std::vector<float> packed(const std::vector<Panel>& all, const float* kernel, DType operands,
                          const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
  std::vector<float> out;
  for (const Panel& p : all) {
    const size_t together = p.tiles->flat_pairs ? 2 : 1;
    for (size_t k = 0; k < rows.size(); k += together)
      for (int64_t j = 0; j < p.tiles->width; ++j)
        for (size_t i = k; i < k + together; ++i) out.push_back(j < p.n ? kernel[rows[i] + columns[p.begin + j]] : 0.f);
  }
  if (operands == DType::BF16)
    for (float& x : out) {
      Bf16 half;
      store(&half, x);
      x = load(&half);
    }
  return out;
}

struct Call {
  Run run;
  Sums sums;
  int64_t places;
};

// f(height, first row, tiles) for rows in tiles of nearly equal height.
template <class F>
void in_tiles(const std::vector<Run>& heights, int64_t rows, const F& f) {
  const int64_t tallest = heights.size() - 1, count = (rows + tallest - 1) / tallest, height = rows / count;
  const int64_t higher = rows % count;
  if (higher) f(height + 1, 0, higher);
  f(height, higher * (height + 1), count - higher);
}

// Spreads what is to be asked for over the places of all calls.
void ask(std::vector<Call>& calls, int64_t piece, int64_t bytes) {
  int64_t places = 0, done = 0;
  for (const Call& call : calls) places += call.places;
  for (Call& call : calls) {
    call.sums.ask_step[piece] = bytes / places + 1;
    call.sums.ask[piece] = done * call.sums.ask_step[piece];
    done += call.places;
  }
}

// Products of `rows` pixels, `step` numbers apart, by B of `lines` times `inner` rows, to `columns` columns in all.
std::vector<Call> flat_calls(const std::vector<Panel>& all, int64_t rows, int64_t step, int64_t lines, int64_t inner,
                             int64_t columns, bool overlapping) {
  std::vector<Call> calls;
  int64_t b = 0;
  for (const Panel& p : all) {
    const int64_t together = p.tiles->flat_pairs ? 2 : 1;
    in_tiles(p.tiles->flat, rows, [&](int64_t height, int64_t row, int64_t tiles) {
      const int64_t n = overlapping && all.size() == 1 ? p.tiles->width : p.n;
      calls.push_back({p.tiles->flat[height],
                       {0, row * step, b, row * columns + p.begin, inner, step, 0, columns, n, tiles, 0, {}, {}},
                       tiles * lines * inner / together});
    });
    b += lines * inner * p.tiles->width;
  }
  return calls;
}

// The kernel's gradient (16c, d) of `lines` lines of the small image.
std::vector<Call> deep_calls(const std::vector<Panel>& all, const ConvSizes& z, int64_t lines) {
  std::vector<Call> calls;
  for (const Panel& p : all) {
    const int64_t together = p.tiles->deep_pairs ? 2 : 1;
    in_tiles(p.tiles->deep, 4 * z.c / together, [&](int64_t height, int64_t first, int64_t tiles) {
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = (first + t * height) * together;
        for (int64_t k = 0; k < (p.tiles->deep_pairs ? 1 : 4); ++k)
          calls.push_back({p.tiles->deep[height],
                           {k,
                            row,
                            p.begin,
                            (k * 4 * z.c + row) * z.d + p.begin,
                            z.w,
                            2 * z.c,
                            z.d,
                            z.d,
                            p.n,
                            1,
                            4 * z.c * z.d,
                            {},
                            {}},
                           lines * z.w});
      }
    });
  }
  return calls;
}

// Some lines of an image, as floats between two pixels of zeros; a pixel's numbers begin at an address for vectors.
class Lines {
 public:
  Lines(int64_t keep, int64_t h, int64_t w, int64_t c, const Pixels& x, DType operands)
      : x_(x),
        round_(x.type == DType::F32 && operands == DType::BF16),
        keep_(keep),
        h_(h),
        row_(w * c),
        c_(c),
        front_((c + 15) / 16 * 16),
        pitch_(front_ + (row_ + c + 15) / 16 * 16),
        pixels_((keep + 1) * pitch_ + 16),
        first_(pixels_.data()),
        lines_(keep) {
    first_ += (64 - reinterpret_cast<uintptr_t>(first_) % 64) % 64 / 4;
  }
  void start(int64_t image) { image_ = image, filled_ = 0; }
  // Lines [begin, begin + count) of the image, of zeros outside it; `keep` at most, and begin never falls.
  const float* const* get(int64_t begin, int64_t count) {
    for (; filled_ < std::min(begin + count, h_); ++filled_) copy(filled_, 1, slot(filled_) + c_);
    for (int64_t i = 0; i < count; ++i)
      lines_[i] = begin + i < 0 || begin + i >= h_ ? first_ + keep_ * pitch_ : slot(begin + i);
    return lines_.data();
  }
  void copy(int64_t line, int64_t count, float* to) const {
    const int64_t n = count * row_;
    if (x_.type == DType::F32) std::copy_n(reinterpret_cast<const float*>(address(line)), n, to);
    else widen_bf16(n, reinterpret_cast<const Bf16*>(address(line)), to);
    if (round_)
      for (int64_t i = 0; i < n; ++i) {
        Bf16 half;
        store(&half, to[i]);
        to[i] = load(&half);
      }
  }
  const char* address(int64_t line) const { return static_cast<const char*>(x_.p) + (image_ * h_ + line) * bytes(); }
  int64_t bytes() const { return row_ * (x_.type == DType::F32 ? 4 : 2); }

 private:
  float* slot(int64_t i) { return first_ + i % keep_ * pitch_ + front_ - c_; }

  Pixels x_;
  bool round_;
  int64_t keep_, h_, row_, c_, front_, pitch_, image_ = 0, filled_ = 0;
  std::vector<float> pixels_;
  float* first_;
  std::vector<const float*> lines_;
};

}  // namespace

void direct_down(const Pool& pool, const ConvSizes& z, const Pixels& x, const float* kernel, const Pixels& y) {
  const std::vector<Panel> all = panels(z.d);
  std::vector<int64_t> rows, columns;
  for (int64_t k = 0; k < 16; ++k)
    for (int64_t c = 0; c < z.c; ++c) rows.push_back(c * 16 + k);
  for (int64_t d = 0; d < z.d; ++d) columns.push_back(d * z.c * 16);
  const std::vector<float> b = packed(all, kernel, z.operands, rows, columns);
  const std::vector<Call> fixed = flat_calls(all, z.w, 2 * z.c, 4, 4 * z.c, z.d, false);
  pool.share(z.images, true, [&](int64_t begin, int64_t end) {
    Lines lines(4, 2 * z.h, 2 * z.w, z.c, x, z.operands);
    std::vector<float> line(y.type == DType::F32 ? 0 : z.w * z.d);
    std::vector<Call> calls = fixed;
    ask(calls, 0, 2 * lines.bytes());
    for (int64_t n = begin; n < end; ++n) {
      lines.start(n);
      for (int64_t i = 0; i < z.h; ++i) {
        const int64_t at = (n * z.h + i) * z.w * z.d;
        float* out = y.type == DType::F32 ? static_cast<float*>(y.p) + at : line.data();
        const float* const* from = lines.get(2 * i - 1, 4);
        for (const Call& call : calls)
          call.run(call.sums, {from, 4, b.data(), out, {lines.address(2 * i + 3), nullptr}});
        if (y.type == DType::BF16) round_bf16(z.w * z.d, out, static_cast<Bf16*>(y.p) + at);
      }
    }
  });
}

void direct_up(const Pool& pool, const ConvSizes& z, const Pixels& y, const float* kernel, const Pixels& x) {
  const std::vector<Panel> all = panels(2 * z.c);
  std::vector<float> b[2];  // for odd and even lines of the big image
  for (int64_t even = 0; even < 2; ++even) {
    std::vector<int64_t> rows, columns;
    for (int64_t tap : {10, 8, 2, 0})
      for (int64_t d = 0; d < z.d; ++d) rows.push_back(d * z.c * 16 + tap + 4 * even);
    for (int64_t j = 0; j < 2; ++j)
      for (int64_t c = 0; c < z.c; ++c) columns.push_back(c * 16 + j);
    b[even] = packed(all, kernel, z.operands, rows, columns);
  }
  const std::vector<Call> fixed = flat_calls(all, z.w + 1, z.d, 2, 2 * z.d, 2 * z.c, true);
  const int64_t row = 2 * z.w * z.c, size = row + 2 * z.c + 32;
  pool.share(z.images, true, [&](int64_t begin, int64_t end) {
    Lines lines(3, z.h, z.w, z.d, y, z.operands);
    std::vector<float> out(2 * size);
    std::vector<Call> calls = fixed;
    ask(calls, 0, lines.bytes() / 2);
    // A line goes to memory after the next one is computed: read at once, its numbers would still be on their way.
    const auto write = [&](int64_t line) { put(x.type, x.p, line * row, row, &out[line % 2 * size + z.c]); };
    for (int64_t line = 2 * z.h * begin; line < 2 * z.h * end; ++line) {
      const int64_t n = line / (2 * z.h), i = line / 2 % z.h, odd = line % 2;
      if (line % (2 * z.h) == 0) lines.start(n);
      const float* const* from = lines.get(i - 1, 3) + odd;
      const char* next = lines.address(i + 2) + odd * lines.bytes() / 2;
      for (const Call& call : calls)
        call.run(call.sums, {from, 2, b[1 - odd].data(), &out[odd * size], {next, nullptr}});
      if (line > 2 * z.h * begin) write(line - 1);
    }
    if (begin < end) write(2 * z.h * end - 1);
  });
}

void direct_kernel(const Pool& pool, const ConvSizes& z, const Pixels& x, const Pixels& y, float* dkernel) {
  // As many sums as the sizes say, so that their order does not depend on the threads.
  const int64_t parts = std::min<int64_t>(z.images, 8), size = 16 * z.c * z.d;
  const int64_t band = std::clamp<int64_t>(kBand / (z.w * (4 * z.c + z.d)), 1, z.h);
  const std::vector<Panel> all = panels(z.d);
  const std::vector<Call> fixed = deep_calls(all, z, band);
  std::vector<float> f(parts * size);
  pool.share(parts, true, [&](int64_t begin, int64_t end) {
    Lines big_lines(2 * band + 2, 2 * z.h, 2 * z.w, z.c, x, z.operands), lines(0, z.h, z.w, z.d, y, z.operands);
    std::vector<float> b(band * z.w * z.d + 32);  // more, as the last vectors may be read whole
    std::vector<Call> calls = fixed;
    ask(calls, 0, 2 * band * big_lines.bytes()), ask(calls, 1, band * lines.bytes());
    for (int64_t part = begin; part < end; ++part)
      for (int64_t n = part * z.images / parts; n < (part + 1) * z.images / parts; ++n) {
        big_lines.start(n), lines.start(n);
        for (int64_t i = 0; i < z.h; i += band) {
          const int64_t count = std::min(band, z.h - i);
          const float* const* from = big_lines.get(2 * i - 1, 2 * count + 2);
          lines.copy(i, count, b.data());
          const Where where{from,
                            count,
                            b.data(),
                            &f[part * size],
                            {big_lines.address(2 * (i + count) + 1), lines.address(i + count)}};
          for (const Call& call : calls) call.run(call.sums, where);
        }
      }
  });
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < size; ++i) f[i] += f[part * size + i];
  for (int64_t c = 0; c < z.c; ++c) transpose(&f[c * z.d], z.c * z.d, 16, z.d, dkernel + c * 16, z.c * 16);
}

}  // namespace hd::cpu
