// Group norm, scale, shift and SiLU of an image in one go, and the way back.
//
//     x^ = (x - mean) / std,   z = (x^ weight + bias) (1 + scale) + shift,   y = z sigmoid(z)
//
// x, y: [images, pixels, channels]; film: [images, 2, channels], scale and shift, or null; weight,
// bias: [channels]; mean, rstd = 1 / std: [images, groups]. All fp32; what is summed over an image
// is summed in blocks of fp32, and the blocks in fp64. Threads share the images and, where these
// are few, the channels; every number comes out the same for any count of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int LANES = 16, BLOCK = 64;  // channels at a time, pixels of a sum in fp32

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

// body(image, first channel, last channel), in parallel; slices are whole groups.
template <class Body>
void for_slices(const Layer& layer, int threads, Body body) {
  int64_t unit = layer.width();
  while (unit % LANES && unit < layer.channels) unit += layer.width();
  int64_t units = layer.channels / unit;
  if (layer.channels % unit) unit = layer.channels, units = 1;
  const int64_t wanted = (threads + layer.images - 1) / layer.images;
  const int64_t slices = wanted < units ? wanted : units;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (int64_t n = 0; n < layer.images; n++)
    for (int64_t k = 0; k < slices; k++)
      body(n, unit * (units * k / slices), unit * (units * (k + 1) / slices));
}

// Sums over `pixels` of x - base and of its square, added to those of earlier pixels.
template <int W>
inline void add_moments(const float* x, int64_t pixels, int64_t stride, const float* base,
                        double* sum, double* square) {
  float s[W] = {}, q[W] = {};
  for (int64_t p = 0; p < pixels; p++)
#pragma omp simd
    for (int c = 0; c < W; c++) {
      const float d = x[p * stride + c] - base[c];
      s[c] += d;
      q[c] += d * d;
    }
  for (int c = 0; c < W; c++) sum[c] += s[c], square[c] += q[c];
}

template <bool SILU>
void forward(const Layer& layer, float eps, const float* x, float* y, float* mean, float* rstd,
             int threads) {
  const int64_t width = layer.width(), pixels = layer.pixels, channels = layer.channels;
  for_slices(layer, threads, [=](int64_t n, int64_t first, int64_t last) {
    const float* in = x + n * pixels * channels;
    float* out = y + n * pixels * channels;
    std::vector<double> means(channels), squares(channels);
    for (int64_t start = 0; start < pixels; start += BLOCK) {
      const int64_t count = pixels - start < BLOCK ? pixels - start : BLOCK;
      const float* block = in + start * channels;
      int64_t c = first;
      for (; c + LANES <= last; c += LANES)
        add_moments<LANES>(block + c, count, channels, in + c, &means[c], &squares[c]);
      for (; c < last; c++)
        add_moments<1>(block + c, count, channels, in + c, &means[c], &squares[c]);
    }
    for (int64_t i = first; i < last; i++) {
      const double sum = means[i];
      means[i] = in[i] + sum / pixels;
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
#pragma omp simd
      for (int64_t i = first; i < last; i++) {
        const float z = a[i] * in[p * channels + i] + b[i];
        out[p * channels + i] = SILU ? z / (1.0f + exponential(-z)) : z;
      }
  });
}

// dL/dz of some pixels; its sum over them, and that of its product with x^, added to earlier ones.
template <bool SILU, int W>
inline void add_slopes(const float* dy, const float* x, int64_t pixels, int64_t stride,
                       const float* slope, const float* offset, const float* mean,
                       const float* rstd, float* dz, double* sum, double* dot) {
  float s[W] = {}, q[W] = {};
  for (int64_t p = 0; p < pixels; p++)
#pragma omp simd
    for (int c = 0; c < W; c++) {
      const float v = x[p * stride + c];
      float d = dy[p * stride + c];
      if (SILU) {
        const float z = slope[c] * v + offset[c], g = sigmoid(z);
        d *= g * (1.0f + z * (1.0f - g));
      }
      dz[p * stride + c] = d;
      s[c] += d;
      q[c] += d * ((v - mean[c]) * rstd[c]);
    }
  for (int c = 0; c < W; c++) sum[c] += s[c], dot[c] += q[c];
}

template <bool SILU>
void backward(const Layer& layer, const float* dy, const float* x, const float* mean,
              const float* rstd, float* dx, float* dweight, float* dbias, float* dfilm,
              int threads) {
  const int64_t width = layer.width(), pixels = layer.pixels, channels = layer.channels;
  for_slices(layer, threads, [=](int64_t n, int64_t first, int64_t last) {
    const float* in = x + n * pixels * channels;
    float* out = dx + n * pixels * channels;
    std::vector<float> slope(channels), offset(channels), m(channels), r(channels);
    for (int64_t i = first; i < last; i++) {
      m[i] = mean[n * layer.groups + i / width];
      r[i] = rstd[n * layer.groups + i / width];
      const double k = layer.scale(n, i), w = static_cast<double>(r[i]) * layer.weight[i];
      slope[i] = w * k;
      offset[i] = (layer.bias[i] - m[i] * w) * k + layer.shift(n, i);
    }
    std::vector<double> sum(channels), dot(channels);  // over pixels, of dz and of dz x^
    const float* dout = dy + n * pixels * channels;
    for (int64_t start = 0; start < pixels; start += BLOCK) {
      const int64_t count = pixels - start < BLOCK ? pixels - start : BLOCK;
      int64_t c = first, at = start * channels + first;
      for (; c + LANES <= last; c += LANES, at += LANES)
        add_slopes<SILU, LANES>(dout + at, in + at, count, channels, &slope[c], &offset[c], &m[c],
                                &r[c], out + at, &sum[c], &dot[c]);
      for (; c < last; c++, at++)
        add_slopes<SILU, 1>(dout + at, in + at, count, channels, &slope[c], &offset[c], &m[c],
                            &r[c], out + at, &sum[c], &dot[c]);
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
    const float *a = slope.data(), *b = of_x.data(), *k = rest.data();
    for (int64_t p = 0; p < pixels; p++)
#pragma omp simd
      for (int64_t i = first; i < last; i++)
        out[p * channels + i] = a[i] * out[p * channels + i] + b[i] * in[p * channels + i] + k[i];
  });
}

}  // namespace

extern "C" {

// moments: [2, images, groups], the means, then the reciprocals of the deviations.
void norm_forward(int64_t images, int64_t pixels, int64_t channels, int64_t groups,
                  const float* weight, const float* bias, const float* film, int silu, int threads,
                  float eps, const float* x, float* y, float* moments) {
  const Layer layer{images, pixels, channels, groups, weight, bias, film};
  float* rstd = moments + images * groups;
  (silu ? forward<true> : forward<false>)(layer, eps, x, y, moments, rstd, threads);
}

// of_images: [2, images, channels], each image's part of the gradient of weight, and of bias;
// dfilm: as film, or null.
void norm_backward(int64_t images, int64_t pixels, int64_t channels, int64_t groups,
                   const float* weight, const float* bias, const float* film, int silu, int threads,
                   const float* dy, const float* x, const float* moments, float* dx,
                   float* of_images, float* dfilm) {
  const Layer layer{images, pixels, channels, groups, weight, bias, film};
  const float* rstd = moments + images * groups;
  float* dbias = of_images + images * channels;
  (silu ? backward<true> : backward<false>)(layer, dy, x, moments, rstd, dx, of_images, dbias,
                                            dfilm, threads);
}

}  // extern "C"
