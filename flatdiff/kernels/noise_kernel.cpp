// Standard normal noise that is a function of its place, added to weights where they lie.
//
//     words = Philox4x32-10 of the counter (e / 4, stream, 0, 0) and the key  (Salmon et al. 2011)
//     z[e]  = the first or second normal that words (0, 1) or (2, 3) make     (Box, Muller 1958)
//     w[e] += scale z[e]
//
// The arithmetic is noise.py's, operation by operation, and no product is contracted with a sum; so
// every number is the same to the bit for all vectors, threads, layouts and devices.

#pragma GCC optimize("fp-contract=off")

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
typedef uint64_t Wide __attribute__((vector_size(BYTES)));  // 32-bit words, and above them anything
typedef uint32_t Word __attribute__((vector_size(BYTES)));
typedef int32_t Int __attribute__((vector_size(BYTES)));
typedef float Real __attribute__((vector_size(BYTES)));
constexpr int COUNTERS = BYTES / 8, PAIRS = 2 * COUNTERS, UNIT = 2 * PAIRS;  // numbers at a time
constexpr int64_t BLOCK = 4096;  // numbers that a thread makes before it adds them

#if defined(__AVX512F__)
inline Wide product(Wide a, Wide b) { return (Wide)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
inline Real root(Real x) { return (Real)_mm512_sqrt_ps((__m512)x); }
#elif defined(__AVX2__)
inline Wide product(Wide a, Wide b) { return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
inline Real root(Real x) { return (Real)_mm256_sqrt_ps((__m256)x); }
#else
inline Wide product(Wide a, Wide b) { return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF); }
inline Real root(Real x) {
  for (int i = 0; i < PAIRS; i++) x[i] = std::sqrt(x[i]);
  return x;
}
#endif

struct Key {
  uint32_t low, high, stream;
};

inline Wide all(uint64_t x) { return Wide{} + x; }

// sqrt(-2 ln u), u = (word + 1/2) / 2^31 of a word's lower 31 bits.
inline Real radius(Word word) {
  const Real x = __builtin_convertvector((Int)(word & 0x7FFFFFFF), Real) + 0.5f;
  const Int exponent = ((Int)x - 0x3F3504F3) >> 23;  // x = 2^exponent (1 + m), m about 0
  const Real m = (Real)((Int)x - (exponent << 23)) - 1.0f;
  Real p = m * 1.526900145e-1f - 2.552316436e-1f;  // to m^3 p = -2 ln(1 + m) + 2 m - m^2
  p = p * m + 2.632036652e-1f;
  p = p * m - 2.840351475e-1f;
  p = p * m + 3.324671440e-1f;
  p = p * m - 4.000245379e-1f;
  p = p * m + 5.000164208e-1f;
  p = p * m - 6.666666342e-1f;
  p = p * m + 1.0f;
  p = p * m - 2.0f;
  return root(p * m + __builtin_convertvector(31 - exponent, Real) * 1.386294361f);
}

// Two normals of two words. A bit of the first is the radius' sign, one of the second swaps the
// axes; so the angle is within an eighth of the circle of an axis: t quarters, |t| <= 1/2.
inline void normals(Word first, Word second, Real* even, Real* odd) {
  const Real r = (Real)((Word)radius(first) ^ (first & 0x80000000));
  const Real t = __builtin_convertvector((Int)(second << 1), Real) * 0x1p-32f, q = t * t;
  Real s = q * -4.602176997e-3f + 7.968022808e-2f;  // sin and cos of pi t / 2
  s = s * q - 6.459634786e-1f;
  s = (s * q + 1.570796322e+0f) * t;
  Real c = q * 9.040216600e-4f - 2.086028850e-2f;
  c = c * q + 2.536692440e-1f;
  c = c * q - 1.233700543e+0f;
  c = c * q + 1.0f;
  const Int swap = (Int)second >> 31;
  *even = r * (swap ? s : c);
  *odd = r * (swap ? c : s);
}

struct Words {
  Wide a, b, c, d;
};

// The four words of COUNTERS counters from one on.
inline Words philox(Key key, uint32_t counter) {
  Wide a = all(counter), b = all(key.stream), c = {}, d = {};
  for (int i = 0; i < COUNTERS; i++) a[i] += i;
  for (int round = 0; round < 10; round++) {
    const Wide p = product(a, all(0xD2511F53)), q = product(c, all(0xCD9E8D57));
    a = (q >> 32) ^ b ^ all(key.low), b = q;
    c = (p >> 32) ^ d ^ all(key.high), d = p;
    key.low += 0x9E3779B9, key.high += 0xBB67AE85;
  }
  const Wide lower = all(0xFFFFFFFF);
  return {a & lower, b & lower, c & lower, d & lower};
}

// z [UNIT]: those of so many counters.
inline void fill(Key key, uint32_t counter, float* z) {
  const Words w = philox(key, counter);
  Real even, odd;
  normals((Word)(w.a | (w.c << 32)), (Word)(w.b | (w.d << 32)), &even, &odd);
  for (int i = 0; i < PAIRS; i++) z[2 * i] = even[i], z[2 * i + 1] = odd[i];
}

// Bit i: whether word i is `least` or more.
inline unsigned reach(Wide words, uint64_t least) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epu64_mask((__m512i)words, _mm512_set1_epi64(least));
#else
  unsigned bits = 0;
  for (int i = 0; i < COUNTERS; i++) bits |= (words[i] >= least) << i;
  return bits;
#endif
}

}  // namespace

extern "C" {

// bits: of pieces of 16 numbers; bit 4 j + i of piece k is whether word j of the counter 4 k + i is
// `least` or more.
void keep_bits(int64_t pieces, uint64_t key, uint64_t least, int threads, uint16_t* bits) {
  const Key whole = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), 0};
  const int at_once = std::max(COUNTERS / 4, 1), passes = std::max(4 / COUNTERS, 1);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t k = 0; k < pieces; k += at_once) {
    unsigned of_word[4] = {};
    for (int pass = 0; pass < passes; pass++) {
      const Words w = philox(whole, static_cast<uint32_t>(4 * k + pass * COUNTERS));
      const Wide words[] = {w.a, w.b, w.c, w.d};
      for (int j = 0; j < 4; j++) of_word[j] |= reach(words[j], least) << pass * COUNTERS;
    }
    for (int64_t i = 0; i < at_once && k + i < pieces; i++) {
      unsigned piece = 0;
      for (int j = 0; j < 4; j++) piece |= (of_word[j] >> 4 * i & 15) << 4 * j;
      bits[k + i] = piece;
    }
  }
}

// w: [slices, pixels, channels]; its elements are counted in the order [slices, channels, pixels],
// and are 2^34 at most.
void add_noise(int64_t slices, int64_t channels, int64_t pixels, uint64_t key, uint32_t stream,
               float scale, int threads, float* w) {
  const Key whole = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), stream};
  const int64_t most = std::max<int64_t>(BLOCK / pixels, 1);  // channels of a block
  const int64_t blocks = (channels + most - 1) / most;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> z(most * pixels + 2 * UNIT);
#pragma omp for collapse(2) schedule(static)
    for (int64_t n = 0; n < slices; n++)
      for (int64_t k = 0; k < blocks; k++) {
        const int64_t start = most * k, count = std::min(most, channels - start);
        const int64_t first = (n * channels + start) * pixels, skip = first % 4;
        for (int64_t i = 0; i < skip + count * pixels; i += UNIT)
          fill(whole, static_cast<uint32_t>((first + i) / 4), &z[i]);
        for (int64_t p = 0; p < pixels; p++) {
          float* row = w + (n * pixels + p) * channels + start;
          const float* made = &z[skip + p];
#pragma omp simd
          for (int64_t c = 0; c < count; c++) row[c] += scale * made[c * pixels];
        }
      }
  }
}

}  // extern "C"
