// Group norm, scale, shift, SiLU and dropout of an image in one go, and the way back.
//
//     x^ = (x - mean) / std,   z = (x^ weight + bias) (1 + scale) + shift,   y = z sigmoid(z) keep
//
// x, y: [images, pixels, channels], fp32 or bf16; all else is fp32: film [images, 2, channels],
// scale and shift, or null; weight, bias [channels]; mean, rstd = 1 / std [images, groups]. keep is
// `gain` where a number's bit is set and 0 elsewhere, or 1 without bits. What is summed over an
// image is summed in blocks of fp32, and the blocks in fp64. Threads share the images and, where
// these are few, the channels; every number comes out the same for any count of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

namespace {

constexpr int LANES = 16, BLOCK = 64;  // channels at a time, pixels of a sum in fp32
constexpr int64_t CACHED = 1 << 17;    // numbers of a slice that is read twice

struct BF16 {
  uint16_t bits;
};

inline float get(float x) { return x; }
inline float get(BF16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline void put(float& to, float x) { to = x; }
inline void put(BF16& to, float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  to.bits = x == x ? (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 : 0x7FC0;
}

// exp to 2 units in the last place: 2^n from its bits, times Cephes' polynomial.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline float sigmoid(float z) { return 1.0f / (1.0f + exponential(-z)); }

struct Layer {
  int64_t images, pixels, channels, groups;
  const float *weight, *bias, *film;

  int64_t width() const { return channels / groups; }
  double scale(int64_t n, int64_t c) const {
    return film ? 1.0 + film[2 * n * channels + c] : 1.0;
  }
  double shift(int64_t n, int64_t c) const {
    return film ? film[(2 * n + 1) * channels + c] : 0.0;
  }
};

// Dropout: bit i of bits[k] is whether number LANES k + i is kept; what is, times gain.
struct Drop {
  const uint16_t* bits;
  float gain;

  int piece(int64_t element) const { return bits[element / LANES]; }
  // What number i of a piece is multiplied by.
  float factor(int piece, int i) const { return piece >> i & 1 ? gain : 0.0f; }
};

struct Nothing {
  int piece(int64_t) const { return 0; }
  float factor(int, int) const { return 1.0f; }
};

// body(image, first channel, last channel), in parallel; slices are whole groups, and more than
// there are threads if one of them would hold more than `most` numbers.
template <class Body>
void for_slices(const Layer& layer, int threads, int64_t most, Body body) {
  int64_t unit = layer.width();
  while (unit % LANES && unit < layer.channels) unit += layer.width();
  int64_t units = layer.channels / unit;
  if (layer.channels % unit) unit = layer.channels, units = 1;
  const int64_t wanted = std::max((threads + layer.images - 1) / layer.images,
                                  (layer.channels * layer.pixels + most - 1) / most);
  const int64_t slices = std::min(wanted, units);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (int64_t n = 0; n < layer.images; n++)
    for (int64_t k = 0; k < slices; k++)
      body(n, unit * (units * k / slices), unit * (units * (k + 1) / slices));
}

// body(channel, width) for LANES channels at a time, then for one; the width as a type.
template <class Body>
inline void for_lanes(int64_t first, int64_t last, Body body) {
  int64_t c = first;
  for (; c + LANES <= last; c += LANES) body(c, std::integral_constant<int, LANES>());
  for (; c < last; c++) body(c, std::integral_constant<int, 1>());
}

// Sums over `pixels` of x - base and of its square, added to those of earlier pixels.
template <int W, class T>
inline void add_moments(const T* x, int64_t pixels, int64_t stride, const T* base, double* sum,
                        double* square) {
  float s[W] = {}, q[W] = {}, b[W];
  for (int c = 0; c < W; c++) b[c] = get(base[c]);
  for (int64_t p = 0; p < pixels; p++)
#pragma omp simd
    for (int c = 0; c < W; c++) {
      const float d = get(x[p * stride + c]) - b[c];
      s[c] += d;
      q[c] += d * d;
    }
  for (int c = 0; c < W; c++) sum[c] += s[c], square[c] += q[c];
}

// y of W channels of a pixel.
template <bool SILU, int W, class T, class Keep>
inline void apply(const T* x, const float* slope, const float* offset, Keep keep, int64_t element,
                  T* y) {
  const int piece = keep.piece(element);
#pragma omp simd
  for (int i = 0; i < W; i++) {
    const float z = slope[i] * get(x[i]) + offset[i];
    const float value = SILU ? z / (1.0f + exponential(-z)) : z;
    put(y[i], value * keep.factor(piece, i));
  }
}

template <bool SILU, class T, class Keep>
void forward(const Layer& layer, float eps, const T* x, Keep keep, T* y, float* mean, float* rstd,
             int threads) {
  const int64_t width = layer.width(), pixels = layer.pixels, channels = layer.channels;
  for_slices(layer, threads, INT64_MAX, [=](int64_t n, int64_t first, int64_t last) {
    const T* in = x + n * pixels * channels;
    T* out = y + n * pixels * channels;
    std::vector<double> means(channels), squares(channels);
    for (int64_t start = 0; start < pixels; start += BLOCK) {
      const int64_t count = std::min<int64_t>(pixels - start, BLOCK);
      const T* block = in + start * channels;
      for_lanes(first, last, [&](int64_t c, auto w) {
        add_moments<w()>(block + c, count, channels, in + c, &means[c], &squares[c]);
      });
    }
    for (int64_t i = first; i < last; i++) {
      const double sum = means[i];
      means[i] = get(in[i]) + sum / pixels;
      squares[i] -= sum * sum / pixels;
    }

    std::vector<float> slope(channels), offset(channels);  // z = slope x + offset
    for (int64_t start = first; start < last; start += width) {
      double m = 0, v = 0;
      for (int64_t i = start; i < start + width; i++) m += means[i] / width;
      for (int64_t i = start; i < start + width; i++)
        v += squares[i] + pixels * (means[i] - m) * (means[i] - m);
      const double r = 1 / std::sqrt(v / (width * pixels) + eps);
      mean[n * layer.groups + start / width] = m;
      rstd[n * layer.groups + start / width] = r;
      for (int64_t i = start; i < start + width; i++) {
        const double k = layer.scale(n, i), w = r * layer.weight[i];
        slope[i] = w * k;
        offset[i] = (layer.bias[i] - m * w) * k + layer.shift(n, i);
      }
    }
    const float *a = slope.data(), *b = offset.data();
    for (int64_t p = 0; p < pixels; p++)
      for_lanes(first, last, [&](int64_t c, auto w) {
        const int64_t at = p * channels + c;
        apply<SILU, w()>(in + at, a + c, b + c, keep, n * pixels * channels + at, out + at);
      });
  });
}

// dL/dz of some pixels; its sum over them, and that of its product with x^, added to earlier ones.
template <bool SILU, int W, class T, class Keep>
inline void add_slopes(const T* dy, const T* x, int64_t pixels, int64_t stride, const float* slope,
                       const float* offset, const float* mean, const float* rstd, Keep keep,
                       int64_t element, float* dz, int64_t dz_stride, double* sum, double* dot) {
  float s[W] = {}, q[W] = {};
  for (int64_t p = 0; p < pixels; p++) {
    const int piece = keep.piece(element + p * stride);
#pragma omp simd
    for (int c = 0; c < W; c++) {
      const float v = get(x[p * stride + c]);
      float d = get(dy[p * stride + c]) * keep.factor(piece, c);
      if (SILU) {
        const float z = slope[c] * v + offset[c], g = sigmoid(z);
        d *= g * (1.0f + z * (1.0f - g));
      }
      dz[p * dz_stride + c] = d;
      s[c] += d;
      q[c] += d * ((v - mean[c]) * rstd[c]);
    }
  }
  for (int c = 0; c < W; c++) sum[c] += s[c], dot[c] += q[c];
}

template <bool SILU, class T, class Keep>
void backward(const Layer& layer, const T* dy, const T* x, Keep keep, const float* mean,
              const float* rstd, T* dx, float* dweight, float* dbias, float* dfilm, int threads) {
  const int64_t width = layer.width(), pixels = layer.pixels, channels = layer.channels;
  constexpr bool half = sizeof(T) < sizeof(float);  // then dz needs a place of its own
  for_slices(layer, threads, half ? CACHED : INT64_MAX, [=](int64_t n, int64_t first, int64_t last) {
    const int64_t image = n * pixels * channels;
    const T *in = x + image, *dout = dy + image;
    T* out = dx + image;
    std::vector<float> slope(channels), offset(channels), m(channels), r(channels);
    for (int64_t i = first; i < last; i++) {
      m[i] = mean[n * layer.groups + i / width];
      r[i] = rstd[n * layer.groups + i / width];
      const double k = layer.scale(n, i), w = static_cast<double>(r[i]) * layer.weight[i];
      slope[i] = w * k;
      offset[i] = (layer.bias[i] - m[i] * w) * k + layer.shift(n, i);
    }
    std::vector<double> sum(channels), dot(channels);  // over pixels, of dz and of dz x^
    const std::unique_ptr<float[]> place(half ? new float[pixels * (last - first)] : nullptr);
    float* dz = half ? place.get() : reinterpret_cast<float*>(out + first);
    const int64_t stride = half ? last - first : channels;
    for (int64_t start = 0; start < pixels; start += BLOCK) {
      const int64_t count = std::min<int64_t>(pixels - start, BLOCK);
      for_lanes(first, last, [&](int64_t c, auto w) {
        const int64_t at = start * channels + c;
        add_slopes<SILU, w()>(dout + at, in + at, count, channels, &slope[c], &offset[c], &m[c],
                              &r[c], keep, image + at, dz + start * stride + c - first, stride,
                              &sum[c], &dot[c]);
      });
    }

    // dx = rstd (dx^ - <dx^> - x^ <dx^ x^>), the means over the group; dx^ = weight (1 + scale) dz
    std::vector<float> of_x(channels), rest(channels);
    for (int64_t start = first; start < last; start += width) {
      double d = 0, e = 0;
      for (int64_t i = start; i < start + width; i++) {
        const double k = layer.weight[i] * layer.scale(n, i) / (width * pixels);
        d += k * sum[i];
        e += k * dot[i];
      }
      for (int64_t i = start; i < start + width; i++) {
        const double mu = m[i], rs = r[i], k = layer.scale(n, i);
        of_x[i] = -rs * rs * e;
        rest[i] = rs * (rs * mu * e - d);
        dweight[n * channels + i] = k * dot[i];
        dbias[n * channels + i] = k * sum[i];
        if (dfilm) {
          dfilm[2 * n * channels + i] = layer.weight[i] * dot[i] + layer.bias[i] * sum[i];
          dfilm[(2 * n + 1) * channels + i] = sum[i];
        }
      }
    }
    const float *a = slope.data() + first, *b = of_x.data() + first, *k = rest.data() + first;
    for (int64_t p = 0; p < pixels; p++) {
      const float* d = dz + p * stride;
      const T* from = in + p * channels + first;
      T* to = out + p * channels + first;
#pragma omp simd
      for (int64_t i = 0; i < last - first; i++)
        put(to[i], a[i] * d[i] + b[i] * get(from[i]) + k[i]);
    }
  });
}

// body(an image's type, whether there is SiLU, what dropout does), all as types.
template <class Body>
void for_kind(int half, int silu, Drop drop, Body body) {
  const auto with = [=](auto type, auto silu) {
    drop.bits ? body(type, silu, drop) : body(type, silu, Nothing());
  };
  const auto of = [=](auto type) {
    silu ? with(type, std::true_type()) : with(type, std::false_type());
  };
  half ? of(BF16()) : of(float());
}

}  // namespace

extern "C" {

// half: whether images are bf16, not fp32; keep: dropout's bits, or null; moments: [2, images,
// groups], the means, then the reciprocals of the deviations.
void norm_forward(int64_t images, int64_t pixels, int64_t channels, int64_t groups,
                  const float* weight, const float* bias, const float* film, int silu, int half,
                  const uint16_t* keep, float gain, int threads, float eps, const void* x, void* y,
                  float* moments) {
  const Layer layer{images, pixels, channels, groups, weight, bias, film};
  for_kind(half, silu, {keep, gain}, [=](auto type, auto silu, auto drop) {
    using T = decltype(type);
    forward<silu()>(layer, eps, static_cast<const T*>(x), drop, static_cast<T*>(y), moments,
                    moments + images * groups, threads);
  });
}

// of_images: [2, images, channels], each image's part of the gradient of weight, and of bias;
// dfilm: as film, or null.
void norm_backward(int64_t images, int64_t pixels, int64_t channels, int64_t groups,
                   const float* weight, const float* bias, const float* film, int silu, int half,
                   const uint16_t* keep, float gain, int threads, const void* dy, const void* x,
                   const float* moments, void* dx, float* of_images, float* dfilm) {
  const Layer layer{images, pixels, channels, groups, weight, bias, film};
  for_kind(half, silu, {keep, gain}, [=](auto type, auto silu, auto drop) {
    using T = decltype(type);
    backward<silu()>(layer, static_cast<const T*>(dy), static_cast<const T*>(x), drop, moments,
                     moments + images * groups, static_cast<T*>(dx), of_images,
                     of_images + images * channels, dfilm, threads);
  });
}

}  // extern "C"
