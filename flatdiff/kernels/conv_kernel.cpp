// 3x3 convolution by Winograd's minimal filtering, F(2x2, 3x3) (Lavin & Gray 2016).
//
//     y = A^T [ (G w G^T) . (B^T d B) ] A      for each 2x2 of pixels of y, d the 4x4 of x around it
//
// The products are summed over channels, so that they are 16 matrix products, one for each of the
// 4x4 points, with 4/9 of the multiplications of the convolution itself. The transforms only add
// and halve: rounding errors are no larger than the plain sum's.
//
// x: [images, height, width, in], y: [images, height, width, out], padded with zeros by 1 pixel.
// in and out divide by 32. Every number comes out the same for any count of threads.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace {

#if defined(__AVX512F__)  // of a processor with 32 registers of 16 numbers
constexpr int LANES = 16, ROWS = 12;
#elif defined(__AVX__)  // 16 of 8
constexpr int LANES = 8, ROWS = 6;
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr int POINTS = 16;
constexpr int64_t BLOCK = 48;  // tiles at a time: their transforms stay in a core's own cache

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

// w[o][i][y][x] lies at w + o * so + i * si + y * sy + x * sx.
struct Conv {
  int64_t images, height, width, in, out, so, si, sy, sx;

  int64_t rows() const { return (height + 1) / 2; }
  int64_t columns() const { return (width + 1) / 2; }
  int64_t tiles() const { return images * rows() * columns(); }
};

// u[point][i][o, ... o + LANES - 1] of all i: G w G^T.
void transform_weight(const Conv& c, const float* w, int64_t o, float* u) {
  const int64_t step = c.in * c.out;
  for (int64_t i = 0; i < c.in; i++) {
    Vec g[3][3], h[4][3];
    for (int y = 0; y < 3; y++)
      for (int x = 0; x < 3; x++) {
        const float* from = w + o * c.so + i * c.si + y * c.sy + x * c.sx;
        for (int lane = 0; lane < LANES; lane++) g[y][x][lane] = from[lane * c.so];
      }
    for (int x = 0; x < 3; x++) {
      h[0][x] = g[0][x];
      h[1][x] = 0.5f * (g[0][x] + g[1][x] + g[2][x]);
      h[2][x] = 0.5f * (g[0][x] - g[1][x] + g[2][x]);
      h[3][x] = g[2][x];
    }
    for (int y = 0; y < 4; y++) {
      float* to = u + 4 * y * step + i * c.out + o;
      store(to, h[y][0]);
      store(to + step, 0.5f * (h[y][0] + h[y][1] + h[y][2]));
      store(to + 2 * step, 0.5f * (h[y][0] - h[y][1] + h[y][2]));
      store(to + 3 * step, h[y][2]);
    }
  }
}

// v[point], `step` apart: B^T d B of LANES channels; d[4 y + x] is where a pixel's channels are.
inline void transform_input(const float* const* d, int64_t channel, float* v, int64_t step) {
  Vec t[4][4];
#pragma GCC unroll 4
  for (int x = 0; x < 4; x++) {
    const Vec d0 = load(d[x] + channel), d1 = load(d[4 + x] + channel);
    const Vec d2 = load(d[8 + x] + channel), d3 = load(d[12 + x] + channel);
    t[0][x] = d0 - d2;
    t[1][x] = d1 + d2;
    t[2][x] = d2 - d1;
    t[3][x] = d1 - d3;
  }
#pragma GCC unroll 4
  for (int y = 0; y < 4; y++) {
    store(v + 4 * y * step, t[y][0] - t[y][2]);
    store(v + (4 * y + 1) * step, t[y][1] + t[y][2]);
    store(v + (4 * y + 2) * step, t[y][2] - t[y][1]);
    store(v + (4 * y + 3) * step, t[y][1] - t[y][3]);
  }
}

// A^T m A of LANES channels: the tile's pixels, y[2 row + column].
inline void transform_output(const float* m, int64_t step, Vec* y) {
  Vec t[2][4];
#pragma GCC unroll 4
  for (int x = 0; x < 4; x++) {
    const Vec m0 = load(m + x * step), m1 = load(m + (4 + x) * step);
    const Vec m2 = load(m + (8 + x) * step), m3 = load(m + (12 + x) * step);
    t[0][x] = m0 + m1 + m2;
    t[1][x] = m1 - m2 - m3;
  }
#pragma GCC unroll 2
  for (int row = 0; row < 2; row++) {
    y[2 * row] = t[row][0] + t[row][1] + t[row][2];
    y[2 * row + 1] = t[row][1] - t[row][2] - t[row][3];
  }
}

// c[ROWS][2 LANES] = a[ROWS][depth] b[depth][2 LANES], in registers; rows of b and c are `width`.
inline void product(const float* a, int64_t depth, const float* b, int64_t width, float* c) {
  Vec left[ROWS] = {}, right[ROWS] = {};
  for (int64_t k = 0; k < depth; k++) {
    const Vec b0 = load(b + k * width), b1 = load(b + k * width + LANES);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
      left[r] += a[r * depth + k] * b0;
      right[r] += a[r * depth + k] * b1;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++) {
    store(c + r * width, left[r]);
    store(c + r * width + LANES, right[r]);
  }
}

// The place of a tile: image, and the first row and column of its pixels in y.
struct Tile {
  int64_t image, row, column;

  Tile(const Conv& c, int64_t t)
      : image(t / (c.rows() * c.columns())),
        row(2 * (t / c.columns() % c.rows())),
        column(2 * (t % c.columns())) {}

  void next(const Conv& c) {
    if ((column += 2) < c.width) return;
    column = 0;
    if ((row += 2) < c.height) return;
    row = 0;
    image++;
  }
};

// Where the 4x4 pixels of x around the tile are; outside of the image, zeros.
inline void find_pixels(const Conv& c, const Tile& tile, const float* x, const float* zeros,
                        const float** d) {
  for (int dy = 0; dy < 4; dy++) {
    const int64_t row = tile.row + dy - 1;
    const float* start = x + ((tile.image * c.height + row) * c.width + tile.column - 1) * c.in;
    for (int dx = 0; dx < 4; dx++) {
      const int64_t column = tile.column + dx - 1;
      const bool inside = row >= 0 && row < c.height && column >= 0 && column < c.width;
      d[4 * dy + dx] = inside ? start + dx * c.in : zeros;
    }
  }
}

// The tiles first .. last - 1; v: [POINTS][block][in], m: [POINTS][block][out].
void convolve(const Conv& c, const float* x, const float* u, const float* bias, int64_t first,
              int64_t last, int64_t block, const float* zeros, float* v, float* m, float* y) {
  Tile tile(c, first);
  for (int64_t t = 0; t < last - first; t++, tile.next(c)) {
    const float* d[POINTS];
    find_pixels(c, tile, x, zeros, d);
    for (int64_t i = 0; i < c.in; i += LANES)
      transform_input(d, i, v + t * c.in + i, block * c.in);
  }
  for (int p = 0; p < POINTS; p++)  // the rows behind the last tile hold anything, for nobody
    for (int64_t o = 0; o < c.out; o += 2 * LANES)
      for (int64_t r = 0; r < last - first; r += ROWS)
        product(v + (p * block + r) * c.in, c.in, u + p * c.in * c.out + o, c.out,
                m + (p * block + r) * c.out + o);
  tile = Tile(c, first);
  for (int64_t t = 0; t < last - first; t++, tile.next(c)) {
    const bool below = tile.row + 1 < c.height, right = tile.column + 1 < c.width;
    float* to = y + ((tile.image * c.height + tile.row) * c.width + tile.column) * c.out;
    for (int64_t o = 0; o < c.out; o += LANES, to += LANES) {
      Vec pixels[4];
      transform_output(m + t * c.out + o, block * c.out, pixels);
      const Vec b = bias ? load(bias + o) : Vec{};
      store(to, pixels[0] + b);
      if (right) store(to + c.out, pixels[1] + b);
      if (below) store(to + c.width * c.out, pixels[2] + b);
      if (below && right) store(to + (c.width + 1) * c.out, pixels[3] + b);
    }
  }
}

}  // namespace

// bias: [out], or null. Returns whether there was memory for it.
extern "C" int conv3x3(int64_t images, int64_t height, int64_t width, int64_t in, int64_t out,
                       int64_t so, int64_t si, int64_t sy, int64_t sx, int threads, const float* x,
                       const float* w, const float* bias, float* y) {
  const Conv c{images, height, width, in, out, so, si, sy, sx};
  int64_t block = std::min(BLOCK, (c.tiles() + threads - 1) / threads);
  block = (block + ROWS - 1) / ROWS * ROWS;
  const int64_t of_weight = POINTS * in * out, of_thread = POINTS * block * (in + out);
  const size_t bytes = 4 * (of_weight + threads * of_thread + in);
  const std::unique_ptr<void, decltype(&std::free)> memory(
      std::aligned_alloc(64, (bytes + 63) / 64 * 64), std::free);
  if (!memory) return 0;
  float* const u = static_cast<float*>(memory.get());
  float* const scratch = u + of_weight;
  float* const zeros = scratch + threads * of_thread;
  std::fill(zeros, zeros + in, 0.0f);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t o = 0; o < out; o += LANES) transform_weight(c, w, o, u);
#pragma omp for schedule(static)
    for (int thread = 0; thread < threads; thread++) {
      float* const v = scratch + thread * of_thread;
      const int64_t end = c.tiles() * (thread + 1) / threads;
      for (int64_t first = c.tiles() * thread / threads; first < end; first += block)
        convolve(c, x, u, bias, first, std::min(first + block, end), block, zeros, v,
                 v + POINTS * block * in, y);
    }
  }
  return 1;
}
