// A fingerprint of memory, at the speed at which it is read: it tells whether weights are still what they were.
//
// Sixteen lanes each take every sixteenth word. A lane steps by
//     h <- P * low(h ^ word) + Q * high(h ^ word)    (32-bit halves of a 64-bit number, modulo 2^64),
// so that a change is multiplied once for every word that follows it: no two positions count alike. Both halves are
// multiplied, because a change that only moves is undone by the same change of a later word. It needs products of 32
// bits, which every vector unit has. At the end of a part its length enters, so that a boundary that moves is a change.
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kmatrix.h"

namespace {

constexpr int lanes = 16;
constexpr int64_t stripe = lanes * 8;
constexpr uint64_t golden = 0x9e3779b97f4a7c15;  // 2^64 over the golden ratio

// P and Q are the bits of sqrt(15) and of e behind the point. Changes x and y of the two halves cancel where
// P*x + Q*y = 0 modulo 2^64. That always happens at x = Q, y = -P; for this pair nowhere nearer.
constexpr uint64_t factor_low = 0xdf7bd629, factor_high = 0xb7e15163;

uint64_t step(uint64_t h, uint64_t word) {
    h ^= word;
    return factor_low * uint32_t(h) + factor_high * (h >> 32);
}

#if defined(__x86_64__)

// The same twice, by the width of the vectors. The wide one may only run after its bit was asked for.
__attribute__((target("avx2"))) void absorb_wide(uint64_t *state, const unsigned char *from, int64_t count) {
    const __m256i p = _mm256_set1_epi64x(factor_low), q = _mm256_set1_epi64x(factor_high);
    __m256i h[lanes / 4];
    for (int i = 0; i < lanes / 4; i++) h[i] = _mm256_loadu_si256((const __m256i *)state + i);
    for (; count > 0; count--, from += stripe)
        for (int i = 0; i < lanes / 4; i++) {
            const __m256i mixed = _mm256_xor_si256(h[i], _mm256_loadu_si256((const __m256i *)from + i));
            h[i] = _mm256_add_epi64(_mm256_mul_epu32(mixed, p), _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), q));
        }
    for (int i = 0; i < lanes / 4; i++) _mm256_storeu_si256((__m256i *)state + i, h[i]);
}

void absorb_stripes(uint64_t *state, const unsigned char *from, int64_t count) {
    if (__builtin_cpu_supports("avx2")) return absorb_wide(state, from, count);
    const __m128i p = _mm_set1_epi64x(factor_low), q = _mm_set1_epi64x(factor_high);
    __m128i h[lanes / 2];
    for (int i = 0; i < lanes / 2; i++) h[i] = _mm_loadu_si128((const __m128i *)state + i);
    for (; count > 0; count--, from += stripe)
        for (int i = 0; i < lanes / 2; i++) {
            const __m128i mixed = _mm_xor_si128(h[i], _mm_loadu_si128((const __m128i *)from + i));
            h[i] = _mm_add_epi64(_mm_mul_epu32(mixed, p), _mm_mul_epu32(_mm_srli_epi64(mixed, 32), q));
        }
    for (int i = 0; i < lanes / 2; i++) _mm_storeu_si128((__m128i *)state + i, h[i]);
}

#else

void absorb_stripes(uint64_t *state, const unsigned char *from, int64_t count) {
    for (; count > 0; count--, from += stripe)
        for (int i = 0; i < lanes; i++) {
            uint64_t word;
            memcpy(&word, from + 8 * i, 8);
            state[i] = step(state[i], word);
        }
}

#endif

void absorb(uint64_t *state, const unsigned char *from, int64_t bytes) {
    absorb_stripes(state, from, bytes / stripe);
    unsigned char last[stripe + 8] = {};
    const int64_t rest = bytes % stripe, words = (rest + 7) / 8;
    if (rest) memcpy(last, from + bytes - rest, size_t(rest));
    for (int64_t i = 0; i < words; i++) {
        uint64_t word;
        memcpy(&word, last + 8 * i, 8);
        state[i] = step(state[i], word);
    }
    for (int i = 0; i < 2; i++) state[i] = step(state[i], uint64_t(bytes) + 1);
}

// One to one, and every bit of h reaches every bit of the result.
uint64_t scatter(uint64_t h) {
    h = (h ^ h >> 32) * golden;
    h = (h ^ h >> 29) * 0xb7e151628aed2a6b;  // the first bits of e
    return h ^ h >> 32;
}

}  // namespace

uint64_t km_fingerprint(const void *const *parts, const int64_t *bytes, int32_t n_parts) {
    uint64_t state[lanes];
    for (int i = 0; i < lanes; i++) state[i] = uint64_t(i + 1) * golden;
    for (int32_t i = 0; i < n_parts; i++) absorb(state, (const unsigned char *)parts[i], bytes[i]);
    uint64_t result = uint64_t(n_parts) * golden;
    for (int i = 0; i < lanes; i++) result = ((result << 23 | result >> 41) ^ state[i]) * golden;
    return scatter(result);
}
