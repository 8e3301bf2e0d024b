// Images as 8-bit codes, each on a grid of its own, and what integer sums of the codes stand for.
//
//     x = scale (code - zero),   y = scale (sums - zero sums_of_ones) + bias
//
// The arithmetic is quantize.Quantizer's to the bit: asymmetric, from the least to the largest value.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <numeric>

constexpr int64_t LANES = 64;  // numbers at a time

extern "C" {

// x, codes: [images, size]; scale, zero: [images]. An image that is not finite has scale NaN.
void quantize(int64_t images, int64_t size, int bits, int threads, const float* x, uint8_t* codes,
              float* scale, uint8_t* zero) {
  const float steps = static_cast<float>((1 << bits) - 1);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t n = 0; n < images; n++) {
    const float* in = x + n * size;
    uint8_t* out = codes + n * size;
    float low[LANES] = {}, high[LANES] = {}, off[LANES] = {};  // off: NaN where any is not finite
    for (int64_t i = 0; i < size; i += LANES) {
      const int64_t count = size - i < LANES ? size - i : LANES;
#pragma omp simd
      for (int64_t k = 0; k < count; k++) {
        const float v = in[i + k];
        low[k] = v < low[k] ? v : low[k];
        high[k] = v > high[k] ? v : high[k];
        off[k] += v - v;
      }
    }
    const float lowest = *std::min_element(low, low + LANES);
    const float highest = *std::max_element(high, high + LANES);
    const float s = std::max(highest / steps - lowest / steps, FLT_MIN);
    const float z = std::nearbyint(-lowest / s), inverse = 1 / s;
    scale[n] = std::accumulate(off, off + LANES, s);
    zero[n] = static_cast<uint8_t>(z);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
      float code = std::nearbyint(in[i] * inverse) + z;
      code = code > 0 ? code : 0;
      code = code < steps ? code : steps;
      out[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
    }
  }
}

// y: [images, pixels, channels], from sums to what they stand for; of_ones: [pixels, channels];
// bias: [channels].
void rescale(int64_t images, int64_t pixels, int64_t channels, int threads, const float* of_ones,
             const float* scale, const uint8_t* zero, const float* bias, float* y) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (int64_t n = 0; n < images; n++)
    for (int64_t p = 0; p < pixels; p++) {
      float* row = y + (n * pixels + p) * channels;
      const float* ones = of_ones + p * channels;
      const float s = scale[n], z = zero[n];
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) row[c] = bias[c] + (row[c] - z * ones[c]) * s;
    }
}

}  // extern "C"
